"""The mapper of the real consumer processes that tests start."""

from __future__ import annotations

import os

from django_outbox import Event
from django_outbox.brokers.base import ReceivedRecord


def to_event(record: ReceivedRecord) -> Event:
    """Make an event of plain text, unless that is to take the process down."""
    if record.value == b"exit":
        os._exit(7)
    return Event(type="test.effect", payload=(record.value or b"").decode())
