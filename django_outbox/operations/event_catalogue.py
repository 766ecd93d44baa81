"""The event types of a project: those that are declared, have a handler, or were seen lately."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Count, Max

from django_outbox.conf import settings
from django_outbox.events.declared import EventType, event_types
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.operations.counts import Model, own
from django_outbox.operations.topics import loaded_registry

RECENT = 10_000
"""How many ids of a table are searched: no index has all event types."""

Version = tuple[str, str]
"""The name and the version of an event type."""


class Seen(NamedTuple):
    """The messages of an event type among the newest of a table."""

    messages: int = 0
    last: datetime | None = None


class KnownType(NamedTuple):
    """One version of an event type. ``version`` is "" if only a handler names the type.

    ``schema`` is JSON Schema as text, ``trouble`` why there is none; both are "" for types that are not declared.
    """

    name: str
    version: str
    type_name: str
    source: str
    schema: str
    trouble: str
    handlers: list[tuple[str, str]]
    """The name and the group of each."""
    published: Seen
    received: Seen


def known_types(using: str, *, with_inbox: bool) -> list[KnownType]:
    """Return all event types, by name and version."""
    declared = {(each.name, each.version): each for each in event_types.all()}
    published = seen_lately(OutboxMessage, using)
    received = seen_lately(InboxMessage, using) if with_inbox else {}
    handlers = _handlers()
    versions = {*declared, *published, *received}
    versions |= {(name, "") for name in handlers.keys() - {name for name, _ in versions}}
    return [
        KnownType(
            name,
            version,
            *_described(declared.get((name, version))),
            handlers.get(name, []),
            published.get((name, version), Seen()),
            received.get((name, version), Seen()),
        )
        for name, version in sorted(versions)
    ]


def seen_lately(model: Model, using: str) -> dict[Version, Seen]:
    """Return what was written lately, by event type. It reads a range of the primary key, whatever the size of the table."""
    newest = model._base_manager.using(using).aggregate(newest=Max("id"))["newest"] or 0
    rows: Any = own(model, using).filter(id__gt=newest - RECENT).exclude(event_type="").order_by()
    found = rows.values_list("event_type", "event_version").annotate(Count("id"), Max("created_at"))
    return {(name, version): Seen(count, last) for name, version, count, last in found}


def _handlers() -> dict[str, list[tuple[str, str]]]:
    registry = loaded_registry()
    found: dict[str, list[tuple[str, str]]] = {}
    for group in registry.groups:
        for handler in registry.for_group(group):
            found.setdefault(handler.event_type, []).append((handler.name, group))
    return found


def _described(declared: EventType | None) -> tuple[str, str, str, str]:
    """Return the name of the payload's type, the source, the schema and what is wrong."""
    if declared is None:
        return "", "", "", ""
    source = declared.source or settings.source
    try:
        schema = declared.payload.json_schema("#/$defs/{model}")
    except ImproperlyConfigured as error:
        return declared.type_name, source, "", str(error)
    text = "" if schema is None else json.dumps(schema, indent=2, ensure_ascii=False)
    return declared.type_name, source, text, ""
