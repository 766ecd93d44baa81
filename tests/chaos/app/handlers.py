"""The handler of a chaos run: one row for each event, with running totals of its airplane."""

from __future__ import annotations

from django.conf import settings

from django_outbox import Event, handler
from tests.chaos.app.models import Leg

FAILING_OF = 97
"""One of so many flights fails the first time that it is handled."""


@handler("flight.departed")
def departed(event: Event) -> None:
    """Add a flight to its airplane's totals. What comes before it is read from the rows, not from the event."""
    number, miles = event.payload["number"], event.payload["miles"]
    last = Leg.objects.filter(tail=event.key).order_by("-id").first() if event.key else None
    leg = Leg(
        number=number,
        tail=event.key,
        sequence=last.sequence + 1 if last else 1,
        miles=last.miles + miles if last else miles,
    )
    if settings.RELEASE >= 2:
        leg.release = settings.RELEASE
    leg.save()
    if number % FAILING_OF == 0 and event.attempt == 1:
        raise ArithmeticError("not the first time")
