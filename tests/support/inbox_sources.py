"""Both sources of a consumer's inbox by themselves: fresh records, and stored messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import OperationalError, transaction

from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import Stored, StoredSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import Claim
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage
from tests.support.clock import Clock

FAULT = OperationalError("deadlock")


class Sources:
    """Both sources, with handlers of ``order.created``: one, and one that takes lists of ten of ``order.listed``."""

    def __init__(self, *, lists: bool = False) -> None:
        registry = Registry()
        registry.register("order.created", lambda event: None)
        if lists:
            registry.register("order.listed", lambda events: None, batch=10)
        handlers = GroupHandlers(registry, "tests")
        self.reader = reader = Reader(using="default", accepts=lambda event_type, topic: True, accepts_own=False)
        pauses = Pauses("default", handlers, Clock())
        self.stored = StoredSource("default", handlers, reader, pauses)
        self.arrivals = ArrivalSource("default", handlers, reader, self.stored, pauses)

    def receive(self, *records: Any, left: int = 0) -> list[Claim]:
        """Claim and settle fresh records, without running handlers."""
        prepared = self.arrivals.prepare(records)
        with transaction.atomic():
            claims = self.arrivals.claim(records, prepared)
            done = len(claims) - left
            self.arrivals.settle(claims[:done], claims[done:])
        return claims

    def claim_stored(self, item: Stored) -> Claim:
        with transaction.atomic():
            (claim,) = self.stored.claim([item], self.stored.prepare([item]))
            self.stored.settle([claim], [])
            return claim


def waits(row: InboxMessage) -> timedelta:
    """How long it waits, from the time of the write that said so."""
    assert row.next_retry_at is not None
    return row.next_retry_at - row.updated_at


def about(found: timedelta, expected: timedelta) -> bool:
    return abs(found - expected) < timedelta(seconds=1)
