"""Handlers with an effect in the database, and what they have left there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_outbox.events.event import Event
from tests.support.app.models import Effect


def effect_of_type(event: Event) -> None:
    """Leave the event's type."""
    Effect.objects.create(name=event.type, event_id=event.id)


def effect_of_payload(event: Event) -> None:
    """Leave the event's payload, as text."""
    Effect.objects.create(name=str(event.payload), event_id=event.id)


def effects_of_payloads(events: list[Event]) -> None:
    """Leave the payloads of a batch, as text."""
    Effect.objects.bulk_create(Effect(name=str(event.payload), event_id=event.id) for event in events)


def fails(event: Event) -> None:
    effect_of_payload(event)
    raise ArithmeticError("boom")


def fails_on(*payloads: Any) -> Callable[[Event], None]:
    """A handler that fails once for each of these payloads."""
    left = list(payloads)

    def handle(event: Event) -> None:
        if event.payload in left:
            left.remove(event.payload)
            fails(event)
        effect_of_payload(event)

    return handle


def effects() -> list[str]:
    """What is left, in the order in which it came."""
    return list(Effect.objects.order_by("id").values_list("name", flat=True))
