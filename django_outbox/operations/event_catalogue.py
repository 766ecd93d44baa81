"""The event types of a project: those that are declared, have a handler, or were seen lately."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Count, Max

from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.events.declared import EventType, by_number, event_types
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.operations.counts import Model, own
from django_outbox.operations.topics import loaded_registry

RECENT = 10_000
"""How many ids of a table are searched: no index has all event types."""

Version = tuple[str, str, str]
"""The name of an event type, the service that publishes it, and a version."""


class Seen(NamedTuple):
    """The messages of an event type among the newest of a table."""

    messages: int = 0
    last: datetime | None = None


class KnownType(NamedTuple):
    """One version of an event type of one service. ``source`` and ``version`` are "" if only a handler names the type.

    ``schema`` is JSON Schema as text, ``trouble`` why there is none; both are "" for types that are not declared.
    """

    name: str
    source: str
    version: str
    type_name: str
    schema: str
    trouble: str
    handlers: list[tuple[str, str]]
    """The name and the group of each."""
    written: Seen
    received: Seen


def known_types(using: str, *, with_inbox: bool) -> list[KnownType]:
    """Return all event types, by name, source and version."""
    declared = {(each.name, each.source or settings.source, each.version): each for each in event_types.all()}
    written = seen_lately(OutboxMessage, using)
    received = seen_lately(InboxMessage, using) if with_inbox else {}
    handlers = _handlers()
    versions = {*declared, *written, *received}
    versions |= {(name, "", "") for name in handlers.keys() - {name for name, _, _ in versions}}
    return [
        KnownType(
            *each,
            *_described(declared.get(each)),
            handlers.get(each[0], []),
            written.get(each, Seen()),
            received.get(each, Seen()),
        )
        for each in sorted(versions, key=lambda each: (*each[:2], by_number(each[2])))
    ]


def seen_lately(model: Model, using: str) -> dict[Version, Seen]:
    """Return what was written lately, by event type. It reads a range of the primary key, whatever the size of the table."""
    newest = model._base_manager.using(using).aggregate(newest=Max("id"))["newest"] or 0
    rows: Any = own(model, using).filter(id__gt=newest - RECENT).exclude(event_type="").order_by()
    rows = rows.exclude(event_type__startswith=TASK_PREFIX)
    found = rows.values_list("event_type", "source", "event_version").annotate(Count("id"), Max("created_at"))
    return {(name, source, version): Seen(count, last) for name, source, version, count, last in found}


def _handlers() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for group, handler in loaded_registry().of_all_groups():
        if not handler.is_task:
            found.setdefault(handler.event_type, []).append((handler.name, group))
    return found


def _described(declared: EventType | None) -> tuple[str, str, str]:
    """Return the name of the payload's type, the schema and what is wrong."""
    if declared is None:
        return "", "", ""
    try:
        return declared.type_name, declared.payload.json_schema_text, ""
    except ImproperlyConfigured as error:
        return declared.type_name, "", str(error)
