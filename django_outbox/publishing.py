"""Writing events to the outbox, in the transaction of the business data."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from django.db import DEFAULT_DB_ALIAS, models, router, transaction
from django.db.models import Value

from django_outbox.codecs import CONTENT_TYPE, RESERVED_PREFIX
from django_outbox.conf import settings
from django_outbox.events import Event
from django_outbox.exceptions import InvalidMessage, TransactionRequired
from django_outbox.fields import DatabaseNow
from django_outbox.models import KEY_LENGTH, TOPIC_LENGTH, OutboxMessage

_TOPIC = re.compile(r"[a-zA-Z0-9._-]+\Z")
_TYPE_LENGTH = 255
_VERSION_LENGTH = 32
_BULK_SIZE = 1000
_MAX_DELAY = timedelta(days=3650)


def publish(
    event_type: str,
    payload: Any,
    *,
    key: str = "",
    topic: str | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "v1",
    delay: timedelta | float | None = None,
    max_retry: int | None = None,
    event_id: uuid.UUID | str | None = None,
    using: str | None = None,
) -> OutboxMessage:
    """Write an event that will reach Kafka if, and only if, the current transaction commits.

    Args:
        event_type: name of what happened, such as ``"order.created"``; at most 255 characters.
        payload: anything that JSON can carry.
        key: events of one topic and key keep their order; at most 255 characters, ``""`` for none.
        topic: Kafka topic; None takes the first match in ``ROUTES``, else ``TOPIC``.
        headers: text by name, carried as Kafka headers.
        version: version of the payload's schema; at most 32 characters.
        delay: seconds or a timedelta before which the event is not sent.
        max_retry: failures after which it is dead; None takes ``MAX_RETRY``.
        event_id: identity of the event; None makes a new UUIDv7.
        using: alias of the database; None asks the database router.

    Returns:
        The stored message.

    Raises:
        TransactionRequired: outside of ``transaction.atomic()``, unless ``REQUIRE_TRANSACTION``
            is False.
        InvalidMessage: naming the argument that cannot be carried.
    """
    using = _database(using)
    message = _message(
        Event(
            type=event_type,
            payload=payload,
            key=key,
            topic=topic,
            headers={} if headers is None else headers,
            version=version,
            id=None if event_id is None else str(event_id),
        )
    )
    if max_retry is not None:
        message.max_retry = _max_retry(max_retry)
    if delay is not None:
        message.next_retry_at = DatabaseNow() + _delay(delay)
    message.save(using=using, force_insert=True)
    return _stored(message, payload)


def publish_many(events: Iterable[Event], using: str | None = None) -> list[OutboxMessage]:
    """Write many events with one bulk insert; they keep their order.

    Args:
        events: of each, ``type``, ``payload``, ``key``, ``topic``, ``headers``, ``version`` and
            ``id`` count.
        using: alias of the database; None asks the database router.

    Raises:
        TransactionRequired, InvalidMessage: as ``publish`` does; then nothing is written.
    """
    using = _database(using)
    events = list(events)
    messages = [_message(event) for event in events]
    OutboxMessage.objects.using(using).bulk_create(messages, batch_size=_BULK_SIZE)
    return [_stored(message, event.payload) for message, event in zip(messages, events, strict=True)]


def _database(using: str | None) -> str:
    using = using or router.db_for_write(OutboxMessage) or DEFAULT_DB_ALIAS
    if settings.require_transaction and not transaction.get_connection(using).in_atomic_block:
        raise TransactionRequired(
            "publish() was called outside of a transaction, so the event and the business data "
            "would not be saved together. Put both into one `with transaction.atomic():` block"
            + ("." if using == DEFAULT_DB_ALIAS else f" on the database {using!r}.")
        )
    return using


def _message(event: Event) -> OutboxMessage:
    event_type = _text("event_type", event.type, _TYPE_LENGTH)
    if not event_type:
        raise InvalidMessage("event_type", "it is empty; name what happened, as in order.created")
    message = OutboxMessage(
        event_type=event_type,
        event_version=_text("version", event.version, _VERSION_LENGTH),
        topic=_topic(event_type, event.topic),
        message_key=_text("key", event.key, KEY_LENGTH),
        payload=_payload(event.payload),
        headers=_headers(event.headers),
    )
    if event.id is not None:
        message.event_id = _event_id(event.id)
    return message


def _stored(message: OutboxMessage, payload: Any) -> OutboxMessage:
    """Drop expressions that the database has evaluated: they are read when they are asked for."""
    if payload is None:
        message.payload = None
    for name, value in list(message.__dict__.items()):
        if hasattr(value, "resolve_expression"):
            del message.__dict__[name]
    return message


def _topic(event_type: str, topic: str | None) -> str:
    if topic is None:
        for pattern, routed in settings.routes.items():
            if fnmatchcase(event_type, pattern):
                topic = routed
                break
        else:
            topic = settings.topic
    topic = _text("topic", topic, TOPIC_LENGTH)
    if not _TOPIC.match(topic) or topic in (".", ".."):
        raise InvalidMessage("topic", f"{topic!r} is no Kafka topic; those are letters, digits, '.', '_' and '-'")
    return topic


def _text(field: str, value: Any, length: int) -> str:
    if not isinstance(value, str):
        raise InvalidMessage(field, f"it must be text, not {type(value).__name__}")
    if len(value) > length:
        raise InvalidMessage(field, f"it has {len(value)} characters; {length} are allowed")
    _storable(field, value)
    return value


def _storable(field: str, text: str) -> None:
    """Refuse what no supported database can hold, before it breaks the transaction."""
    if "\0" in text:
        raise InvalidMessage(field, "it contains a NUL character, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMessage(field, "it contains half of a surrogate pair, which is not valid Unicode") from None


def _payload(payload: Any) -> Any:
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage("payload", f"JSON cannot carry it: {error}") from error
    if "\\u0000" in text:
        # Perhaps only the text of a backslash and "u0000": look at the strings themselves.
        _no_nul(payload)
    _storable("payload", text)
    # Django would store None as SQL's NULL, not as JSON's null.
    return Value(None, models.JSONField()) if payload is None else payload


def _no_nul(value: Any) -> None:
    if isinstance(value, str):
        _storable("payload", value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _no_nul(name)
            _no_nul(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _no_nul(item)


def _headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidMessage("headers", f"they must be a dict, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise InvalidMessage("headers", f"name and value of {name!r} must be text")
        if name.lower().startswith(RESERVED_PREFIX) or name.lower() == CONTENT_TYPE:
            raise InvalidMessage("headers", f"{name!r} is set by the outbox itself")
        _storable("headers", name)
        _storable("headers", value)
    return dict(headers)


def _event_id(value: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except ValueError:
        raise InvalidMessage("event_id", f"{value!r} is not a UUID") from None


def _delay(delay: Any) -> timedelta:
    try:
        wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    except (TypeError, ValueError, OverflowError):
        raise InvalidMessage("delay", f"{delay!r} is no timedelta or number of seconds") from None
    if not timedelta(0) <= wait <= _MAX_DELAY:
        raise InvalidMessage("delay", f"{wait} is not between nothing and {_MAX_DELAY.days} days")
    return wait


def _max_retry(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 32767:
        raise InvalidMessage("max_retry", f"{value!r} is no whole number from 0 to 32767")
    return value
