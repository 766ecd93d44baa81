"""System checks of declared event types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
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
    return [*_declared(), *_declared_twice(), *_undeclared()]


def _declared() -> Iterator[CheckMessage]:
    for each in event_types.all():
        try:
            _ = each.payload
        except ImproperlyConfigured as error:
            hint = f"Declare a type that pydantic can validate, such as a dataclass. See {documentation('events')}."
            yield Error(str(error), hint=hint, id="django_outbox.E011")


def _declared_twice() -> Iterator[CheckMessage]:
    with suppress(ImproperlyConfigured):  # SOURCE, which is reported as an invalid value
        for each in event_types.all():
            if each.is_own and event_types.find(each.name, each.version) is not each:
                yield Error(
                    f"The event type {each.name} {each.version} is declared twice: without source, and with "
                    f"source={settings.source!r}, which is this service.",
                    hint="Remove one of the declarations.",
                    id="django_outbox.E011",
                )


def _undeclared() -> Iterator[CheckMessage]:
    try:
        if settings.event_types != "required":
            return
        registry.load()
        handlers = registry.of_all_groups()
    except ImproperlyConfigured:
        return  # reported as an invalid value
    except HandlersNotImportable as error:
        hint = 'Fix the import, then run check again. With OUTBOX["EVENT_TYPES"] = "required", it reads all handlers.'
        yield Error(str(error), hint=hint, id="django_outbox.E012")
        return
    undeclared: dict[str, list[str]] = {}
    for _, handler in handlers:
        if not (handler.is_task or event_types.is_declared(handler.event_type)):
            undeclared.setdefault(handler.event_type, []).append(handler.name)
    for event_type, names in undeclared.items():
        yield Error(
            f"The event type {event_type!r} is not declared, but handled by {', '.join(names)}.",
            hint='Declare it with @event_type in event_types.py, or set OUTBOX["EVENT_TYPES"] to "optional".',
            id="django_outbox.E012",
        )
