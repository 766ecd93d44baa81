"""Time that passes when a drain says so: a clock for relay and consumers, and the due times in the database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, QuerySet

from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import database_now

MARGIN = timedelta(milliseconds=50)
"""So that the earliest message is due: SQLite's clock has milliseconds."""

Row = tuple[type[OutboxMessage | InboxMessage], int]
"""A message, by its model and id."""


class MovingTime:
    """Seconds that stand still until ``move()``, which brings the due times of all pending messages nearer by as much."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._now = 1000.0
        self.moved = 0.0
        """Seconds moved so far."""

    def __call__(self) -> float:
        return self._now

    def due_in(self) -> dict[Row, float]:
        """In how many seconds each pending message is due; 0 or less if it is due."""
        return {(rows.model, id): (due - now).total_seconds() for rows, id, due, now in self._due_times()}

    def _due_times(self) -> Iterator[tuple[QuerySet[Any], int, datetime, datetime]]:
        for rows in self._pending():
            found = list(rows.values_list("id", "next_retry_at"))
            now = database_now(rows) if found else None
            yield from ((rows, id, due, now) for id, due in found if now is not None)

    def move_clock(self, seconds: float) -> None:
        """Let relay and consumers wait so long, while messages become due no sooner."""
        self._now += seconds

    def move(self, seconds: float) -> None:
        self.move_clock(seconds)
        self.moved += seconds
        if seconds <= 0:
            return
        by = timedelta(seconds=seconds) + MARGIN
        for rows in self._pending():
            rows.update(next_retry_at=F("next_retry_at") - by)
        Pause.objects.using(self._using).filter(until__isnull=False).update(until=F("until") - by)

    def _pending(self) -> list[QuerySet[Any]]:
        return [
            OutboxMessage.objects.using(self._using).own().pending(),
            InboxMessage.objects.using(self._using).pending(),
        ]
