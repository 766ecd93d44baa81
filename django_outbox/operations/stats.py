"""Numbers that overview, commands and examinations share; each is cheap whatever has been consumed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.models import Case, Max, Min, Value, When

from django_outbox.conf import settings
from django_outbox.models import Activity, InboxMessage, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.worker.heartbeat import ALIVE, WORKERS_KEPT, period_of

HOURS = 24
SILENT = timedelta(seconds=25)  # two heartbeats are missing
LATE = timedelta(seconds=60)
"""Messages that wait for a worker for longer are worth a finding."""


def rows_estimate(model: type[models.Model], using: str) -> int | None:
    """About how many rows the table has, as the database's own statistics say; None if they do not."""
    connection = connections[using]
    name = model._meta.db_table
    arguments: list[Any]
    if connection.vendor == "postgresql":
        # As the planner does it: so many rows a page as there were at the last vacuum, in the pages of now.
        query = """
            SELECT CASE WHEN reltuples >= 0 AND relpages > 0 THEN
                       reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::bigint)
                   ELSE reltuples END
              FROM pg_class WHERE oid = %s::regclass
        """
        arguments = [f'"{name}"']
    elif connection.vendor == "mysql":
        query = "SELECT table_rows FROM information_schema.tables WHERE table_schema = database() AND table_name = %s"
        arguments = [name]
    else:
        return model._base_manager.using(using).count()  # SQLite is for development
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        row = cursor.fetchone()
    return None if row is None or row[0] is None or row[0] < 0 else int(row[0])


def counted(number: int, noun: str) -> str:
    """A number of things, in English."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Throughput(NamedTuple):
    """Messages in each period of 24 hours, the oldest first; of the outbox and, apart, of the inbox."""

    starts: list[datetime]
    written: list[int]
    published: list[int]
    consumed: list[int]
    inbox_received: list[int]
    inbox_consumed: list[int]


class Foreign(NamedTuple):
    """Unfinished messages of another service in the same table.

    ``overdue`` is how long the one that was due first has waited to be sent; None if none is due.
    """

    source: str
    pending: int
    published: int
    overdue: timedelta | None


def foreign_messages(using: str) -> list[Foreign]:
    """What other services have pending or published, by their ``SOURCE``. Own messages are not walked."""
    found = []
    for source in foreign_sources(using):
        pending, published = (rows.filter(source=source) for rows in _unfinished(using))
        due = pending.filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at")
        since = due.values_list("next_retry_at", DatabaseNow()).first()
        overdue = None if since is None else since[1] - since[0]
        foreign = Foreign(source, pending.count(), published.count(), overdue)
        if foreign.pending or foreign.published:
            found.append(foreign)
    return found


def foreign_sources(using: str) -> list[str]:
    """Other services with pending or published messages; on MySQL and MariaDB with any, as their indexes hold all rows."""
    has_partial_indexes = connections[using].features.supports_partial_indexes
    tables = _unfinished(using) if has_partial_indexes else (OutboxMessage.objects.using(using),)
    return sorted({source for rows in tables for source in _sources(rows)} - {settings.source})


def _sources(rows: Any) -> Iterator[str]:
    """Each source, by one step into an index that begins with it."""
    ends = rows.aggregate(first=Min("source"), last=Max("source"))
    source = ends["first"]
    while source is not None:
        yield source
        source = (
            rows.filter(source__gt=source).aggregate(next=Min("source"))["next"] if source != ends["last"] else None
        )


def _unfinished(using: str) -> tuple[Any, Any]:
    """Pending and published messages, each in the words that choose an index by source."""
    messages = OutboxMessage.objects.using(using)
    return messages.pending().filter(next_retry_at__isnull=False), messages.published().filter(publish_count__gt=0)


def throughput(using: str, now: datetime) -> Throughput:
    """What became of messages in each whole period.

    What was written is the growth of the largest id. Where no worker was there to note it, the
    growth counts for the period in which one was again. The rest is what workers counted.
    """
    seconds = Activity.SECONDS
    first = period_of(now) - timedelta(hours=HOURS)
    starts = [first + timedelta(seconds=seconds * n) for n in range(HOURS * 3600 // seconds)]
    activities = Activity.objects.using(using).filter(period__lt=period_of(now))  # workers keep those of two days
    rows = {row.period: row for row in activities}
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
    """The largest id before a time of which no worker noted it; None if it cannot be told from the oldest message."""
    oldest = OutboxMessage.objects.using(using).order_by("id").values_list("id", "created_at").first()
    return oldest[0] - 1 if oldest and start <= oldest[1] < end else None


def workers(using: str) -> list[Any]:
    """Those of this service that were seen within a day, each with the database's ``now``.

    ``is_silent`` is on those that miss two heartbeats, and ``is_lost`` on those silent for a minute.
    """
    now = DatabaseNow()

    def unseen(time: timedelta) -> Case:
        return Case(When(last_seen_at__lt=now - time, then=Value(True)), default=Value(False))

    return list(
        Worker.objects.using(using)
        .filter(source=settings.source, last_seen_at__gte=now - WORKERS_KEPT)
        .annotate(is_lost=unseen(ALIVE), is_silent=unseen(SILENT), now=now)
        .order_by("kind", "group", "host", "pid")
    )


def inbox_due_since(groups: Collection[str], using: str, now: datetime) -> dict[str, datetime]:
    """Since when a message of the inbox has been due, for each group that has one.

    Args:
        groups: asked for one by one, along their index; of all others only the one that is due for longest is found.
        using: alias of the database.
        now: the time.
    """
    pending = InboxMessage._base_manager.using(using).filter(status="pending", next_retry_at__lte=now)
    due: Any = pending.order_by("next_retry_at").values_list("group", "next_retry_at")
    found = [due.filter(group=group).first() for group in groups]
    return dict(filter(None, [*found, due.exclude(group__in=list(groups)).first()]))
