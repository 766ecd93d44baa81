"""The numbers of the overview. Each query is cheap whatever the number of consumed messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import Case, Count, Max, Q, Value, When

from django_outbox import texts
from django_outbox.admin.tables import Table
from django_outbox.fields import DatabaseNow
from django_outbox.heartbeat import period_of
from django_outbox.models import Activity, MessageFailure, OutboxMessage, Worker

MOST_COUNTED = 1_000_000
LOOKED_AT = 1000
FAILURES = 5000
TYPES = 5
HOURS = 24
DAYS = 14
LOST = timedelta(seconds=60)
FORGOTTEN = timedelta(days=1)


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
    """About how many rows the table has, as the database's own statistics say; None if they do not."""
    connection = connections[table.database]
    name = table.model._meta.db_table
    if connection.vendor == "postgresql":
        query, arguments = "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass", [f'"{name}"']
    elif connection.vendor == "mysql":
        query = "SELECT table_rows FROM information_schema.tables WHERE table_schema = database() AND table_name = %s"
        arguments = [name]
    else:
        return table.messages.count()  # SQLite is for development
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        row = cursor.fetchone()
    return None if row is None or row[0] is None or row[0] < 0 else int(row[0])


class Throughput(NamedTuple):
    """Messages in each period of 24 hours, the oldest first."""

    starts: list[datetime]
    written: list[int]
    consumed: list[int]


def throughput(table: Table, now: datetime) -> Throughput:
    """What was written and what was consumed in each whole period.

    What was written is the growth of the largest id. Where no worker was there to note it, the
    growth counts for the period in which one was again.
    """
    seconds = Activity.SECONDS
    first = period_of(now) - timedelta(hours=HOURS, seconds=seconds)
    starts = [first + timedelta(seconds=seconds * n) for n in range(1, HOURS * 3600 // seconds + 1)]
    activities = Activity.objects.using(table.database)
    rows = {row.period: row for row in activities.filter(period__gte=first, period__lt=period_of(now))}
    before = rows.get(first)
    last_id = before.last_id if before else None
    newest = table.messages.aggregate(newest=Max("id"))["newest"] or 0
    written, consumed = [], []
    for start in starts:
        row = rows.get(start)
        reached = row.last_id if row else newest if start == starts[-1] else None
        written.append(max(0, reached - last_id) if reached and last_id is not None else 0)
        consumed.append(row.consumed if row else 0)
        last_id = last_id if reached is None else max(reached, last_id or 0)
    return Throughput(starts, written, consumed)


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


def workers(using: str) -> list[Worker]:
    """Those that were seen within a day; ``is_lost`` on those that are silent for a minute."""
    now = DatabaseNow()
    return list(
        Worker.objects.using(using)
        .filter(last_seen_at__gte=now - FORGOTTEN)
        .annotate(is_lost=Case(When(last_seen_at__lt=now - LOST, then=Value(True)), default=Value(False)))
        .order_by("kind", "host", "pid")
    )
