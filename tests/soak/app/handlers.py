"""The handler of a soak run: it accepts the events of each key once, and in order."""

from __future__ import annotations

from django_outbox import Event, Reject, handler
from tests.soak.app.models import Account


@handler("soak.deposited")
def deposited(event: Event) -> None:
    """Count an event, unless it is not the next one of its key."""
    number = event.payload["number"]
    if not Account.objects.filter(key=event.key, handled=number - 1).update(handled=number):
        raise Reject(f"event {number} of {event.key} is not the next one")
