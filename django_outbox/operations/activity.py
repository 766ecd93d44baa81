"""Messages in the last 24 hours, from what workers counted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Max

from django_outbox.models import Activity, OutboxMessage
from django_outbox.worker.heartbeat import period_of

HOURS = 24


class Throughput(NamedTuple):
    """Messages in each period of 24 hours, the oldest first."""

    starts: list[datetime]
    written: list[int]
    published: list[int]
    consumed: list[int]
    inbox_received: list[int]
    inbox_consumed: list[int]

    def rates(self, periods: int) -> dict[str, float]:
        """Messages per second of the outbox in the last periods."""
        counts = {"written": self.written, "published": self.published, "consumed": self.consumed}
        length = periods * Activity.SECONDS
        return {name: round(sum(each[-periods:]) / length, 3) for name, each in counts.items()}


def throughput(using: str, now: datetime) -> Throughput:
    """Messages in each whole period.

    Written messages are the growth of the largest id. While no worker runs, nobody notes it, and the growth counts for
    the period in which a worker runs again.
    """
    seconds = Activity.SECONDS
    first = period_of(now) - timedelta(hours=HOURS)
    starts = [first + timedelta(seconds=seconds * n) for n in range(HOURS * 3600 // seconds)]
    rows = {row.period: row for row in Activity.objects.using(using).filter(period__lt=period_of(now))}
    before = max((period for period in rows if period < first), default=None)
    last_id = rows[before].last_id if before else _last_id_before(first, period_of(now), using)
    newest = OutboxMessage.objects.using(using).aggregate(newest=Max("id"))["newest"] or 0
    written = []
    for start in starts:
        row = rows.get(start)
        reached = row.last_id if row else newest if start == starts[-1] else None
        written.append(max(0, reached - last_id) if reached and last_id is not None else 0)
        last_id = last_id if reached is None else max(reached, last_id or 0)
    counted = {
        name: [getattr(rows[start], name) if start in rows else 0 for start in starts]
        for name in ("published", "consumed", "inbox_received", "inbox_consumed")
    }
    return Throughput(starts, written, **counted)


def _last_id_before(start: datetime, end: datetime, using: str) -> int | None:
    """The largest id before the first period; None if the oldest message does not show it."""
    oldest = OutboxMessage.objects.using(using).order_by("id").values_list("id", "created_at").first()
    return oldest[0] - 1 if oldest and start <= oldest[1] < end else None
