"""Events of other services, as a test delivers them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.utils import timezone

from django_outbox.brokers.base import Record
from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.events.arguments import checked_headers, checked_key, checked_text
from django_outbox.events.event import Event
from django_outbox.events.payloads import Content, content_of, require_valid
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import InvalidMessage
from django_outbox.handlers.registry import GroupHandlers, registry
from django_outbox.models import outbox_database
from django_outbox.models.fields import uuid7
from django_outbox.models.lengths import EVENT_ID_LENGTH, TYPE_LENGTH, VERSION_LENGTH
from django_outbox.models.validation import payload_and_json
from django_outbox.testing.draining import run_pipeline
from django_outbox.testing.results import DrainResult


def deliver(
    event_type: str,
    payload: Any = None,
    *,
    source: str,
    key: str | int | uuid.UUID = "",
    topic: str | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "v1",
    event_id: uuid.UUID | str | None = None,
    raise_errors: bool = True,
    max_wait: timedelta | float | None = None,
    limit: int = 1000,
    using: str | None = None,
) -> DrainResult:
    """Receive an event of another service through the inbox, then do all that ``drain()`` does.

    Args:
        event_type: a type with a handler.
        payload: as for ``publish()``.
        source: the other service, which is not this one's ``SOURCE``.
        topic: the topic that the record is in; None takes the topic that the handler names, else the one of the settings.
        event_id: identity of the event, to deliver it twice; None makes a new one.
        key, headers, version: as for ``publish()``.
        raise_errors, max_wait, limit, using: as for ``drain()``.

    Raises:
        ValueError: nobody here handles the event, or an argument is invalid; the error names it.
        Exception: as ``drain()`` does.
    """
    __tracebackhide__ = True
    using = using or outbox_database()
    if not checked_text("source", source, SOURCE_LENGTH):
        raise InvalidMessage("source", "it must not be empty")
    if source == settings.source:
        raise ValueError(f"source: {source!r} is this service. Call publish() and drain() for its own events.")
    event = Event(
        type=checked_text("event_type", event_type, TYPE_LENGTH),
        payload=payload,
        key=checked_key(key),
        topic=_topic_of(event_type, topic),
        headers=checked_headers(headers or {}),
        version=checked_text("version", version, VERSION_LENGTH),
        id=_checked_id(event_id),
        source=source,
    )
    return run_pipeline([_record(event, using)], raise_errors=raise_errors, max_wait=max_wait, limit=limit, using=using)


def _checked_id(event_id: uuid.UUID | str | None) -> str:
    if event_id is None:
        return str(uuid7())
    text = checked_text("event_id", str(event_id) if isinstance(event_id, uuid.UUID) else event_id, EVENT_ID_LENGTH)
    if not text:
        raise InvalidMessage("event_id", "it must not be empty; leave it out for a new one")
    return text


def _topic_of(event_type: str, topic: str | None) -> str:
    """The topic that consumers read this event from."""
    registry.load()
    handlers = [(group, each) for group, each in registry.of_all_groups() if each.event_type == event_type]
    if not handlers:
        known = sorted({each.event_type for _, each in registry.of_all_groups()})
        raise ValueError(
            f"event_type: no handler is registered for {event_type!r}. Known: {', '.join(known) or 'none'}."
        )
    if topic is None:
        named = {each.topic or settings.topic_of(event_type) for _, each in handlers}
        if len(named) > 1:
            raise ValueError(
                f"topic: handlers of {event_type!r} read several: {', '.join(sorted(named))}. Pass topic=."
            )
        return named.pop()
    groups = [GroupHandlers(registry, group) for group, _ in handlers]
    if not any(topic in each.default_topics and each.find(event_type, topic) for each in groups):
        raise ValueError(f"topic: no handler of {event_type!r} reads {topic!r}.")
    return topic


def _record(event: Event, using: str) -> Record:
    """The record that another service with this package would send."""
    require_valid(event)
    content, text = content_of(event), "null"
    if content is None:
        _, text = payload_and_json(event.payload, using=using)
        content = Content(None)
    outgoing = Outgoing(
        id=1,
        source=str(event.source),
        event_id=str(event.id),
        event_type=event.type,
        event_version=event.version,
        topic=str(event.topic),
        message_key=event.key,
        headers_json=json.dumps(dict(event.headers)),
        created_at=timezone.now(),
        publish_count=0,
        payload_json=text,
        content_type=content.content_type,
        raw_value=content.raw_value,
    )
    return encode(outgoing, wire_format="cloudevents")
