"""The numbers of the overview. Each query is cheap whatever the number of consumed messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from django_outbox import figures, texts
from django_outbox.admin.tables import Table
from django_outbox.figures import HOURS
from django_outbox.models import MessageFailure, OutboxMessage

MOST_COUNTED = 1_000_000
LOOKED_AT = 1000
FAILURES = 5000
TYPES = 5
DAYS = 14


@dataclass(frozen=True)
class Unfinished:
    """Messages in one state: how many, at most ``MOST_COUNTED``, and the oldest of them."""

    status: str
    count: int
    is_more: bool
    oldest: Any

    @property
    def title(self) -> str:
        return str(dict(OutboxMessage.Status.choices)[self.status])


def unfinished(table: Table, status: str) -> Unfinished:
    """Counted and found in the index on what is unfinished."""
    messages = table.in_state(status)
    count = messages.order_by().values("id")[: MOST_COUNTED + 1].count()
    oldest = messages.order_by("status", "id").first() if count else None
    return Unfinished(status, min(count, MOST_COUNTED), count > MOST_COUNTED, oldest)


def oldest_awaited(table: Table, known_types: Collection[str]) -> Any:
    """The oldest published message that a handler here waits for, among the oldest thousand.

    What has no handler here stays published for ever: others may consume it.
    """
    published = table.in_state("published").order_by("status", "id")
    rows = published.values_list("id", "event_type")[:LOOKED_AT]
    awaited = next((id for id, event_type in rows if event_type in known_types), None)
    if awaited is None:
        return None
    return table.messages.filter(id=awaited, status="published").defer("payload", "headers").first()


def rows_estimate(table: Table) -> int | None:
    """About how many rows the table has; None if the database does not say."""
    return figures.rows_estimate(table.model, table.database)


def throughput(table: Table, now: datetime) -> figures.Throughput:
    """What was written and what was consumed in each whole period."""
    return figures.throughput(table.database, now)


def dead_by_day(table: Table, now: datetime) -> dict[date, int]:
    """How many messages were given up on each of 14 days, today last.

    The days are told to the database one by one: MySQL has no time zones of its own by default.
    """
    midnight = texts.local(now).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - timedelta(days=n) for n in reversed(range(DAYS))]
    given_up = MessageFailure.objects.using(table.database).filter(
        final=True, occurred_at__gte=starts[0], **{f"{table.failures_by}__isnull": False}
    )
    counts = given_up.aggregate(
        **{
            f"day{n}": Count("id", filter=Q(occurred_at__gte=start, occurred_at__lt=start + timedelta(days=1)))
            for n, start in enumerate(starts)
        }
    )
    return {start.date(): counts[f"day{n}"] for n, start in enumerate(starts)}


def failing_types(table: Table, now: datetime) -> list[tuple[str, int]]:
    """The event types with the most failures, of the last 5,000 failures in 24 hours."""
    recent = (
        MessageFailure.objects.using(table.database)
        .filter(occurred_at__gte=now - timedelta(hours=HOURS), **{f"{table.failures_by}__isnull": False})
        .order_by("-id")
        .values_list(f"{table.failures_by}__event_type", flat=True)[:FAILURES]
    )
    return Counter(recent).most_common(TYPES)


def workers(using: str) -> list[Any]:
    """Those that were seen within a day; ``is_lost`` on those that are silent for a minute."""
    return figures.workers(using)
