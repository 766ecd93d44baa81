"""System checks of declared event types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf import settings
from django_outbox.events.declared import event_types
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import registry
from django_outbox.operations.documentation import documentation


def check_event_types(**kwargs: Any) -> list[CheckMessage]:
    """Check the types that are declared with ``@event_type``, and those that should be."""
    return [*_declared(), *_undeclared()]


def _declared() -> Iterator[CheckMessage]:
    for each in event_types.all():
        try:
            _ = each.payload
        except ImproperlyConfigured as error:
            yield Error(str(error), hint=f"See {documentation('events')}.", id="django_outbox.E011")


def _undeclared() -> Iterator[CheckMessage]:
    try:
        if settings.event_types != "required":
            return
        registry.load()
    except ImproperlyConfigured:
        return  # reported as an invalid value
    except HandlersNotImportable as error:
        yield Error(
            str(error), hint='OUTBOX["EVENT_TYPES"] requires that handlers are checked.', id="django_outbox.E012"
        )
        return
    names: dict[str, list[str]] = {}
    for group in registry.groups:
        for handler in registry.for_group(group):
            if not event_types.is_declared(handler.event_type):
                names.setdefault(handler.event_type, []).append(handler.name)
    for event_type, handlers in names.items():
        yield Error(
            f"The event type {event_type!r} is not declared, but handled by {', '.join(handlers)}.",
            hint='Declare it with @event_type in event_types.py, or set OUTBOX["EVENT_TYPES"] to "optional".',
            id="django_outbox.E012",
        )
