"""Counts and ages of messages, for outbox_status, the overview, the metrics and the doctor.

Ages are in seconds, by the database's clock. Every query uses an index on unfinished messages: its cost does not grow
with the number of consumed ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.models import Count, F, Min, TextField, Value
from django.db.models.functions import Cast

from django_outbox.conf import settings
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.observability.backlog import Unfinished
from django_outbox.state import pauses
from django_outbox.state.dialects import oldest_first
from django_outbox.state.pauses import ActivePause
from django_outbox.state.slot import debezium_slot
from django_outbox.state.unhandled import HandledEvents, longest_unhandled

Model = type[OutboxMessage] | type[InboxMessage]

MOST_COUNTED = 1_000_000
OLDEST = 1000
EXACT_CONSUMED = 500_000
"""Up to this many consumed messages are counted; larger numbers are estimated."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, in English."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def own(model: Model, using: str) -> Any:
    """Messages of this service. The inbox has no others."""
    return OutboxMessage.objects.using(using).own() if model is OutboxMessage else model.objects.using(using)


def statuses(model: Model) -> tuple[str, ...]:
    """The statuses of unfinished messages."""
    return ("pending", "published", "dead") if model is OutboxMessage else ("pending", "dead")


def count(messages: Any, status: str) -> int:
    """The number of messages with a status. Counting stops at one more than ``MOST_COUNTED``."""
    # The id of every row is above 0; saying so chooses the index.
    return int(messages.filter(status=status, id__gt=0).order_by().values("id")[: MOST_COUNTED + 1].count())


def count_paused(pause: ActivePause, using: str) -> dict[str, int]:
    """Messages of outbox and inbox that wait for the end of a pause, up to a million each."""
    return {
        name: min(messages.order_by().values("id")[: MOST_COUNTED + 1].count(), MOST_COUNTED)
        for name, messages in pauses.waiting(pause, pause.now, using=using).items()
    }


def unfinished(using: str) -> dict[str, Unfinished]:
    """Counts and ages of outbox and inbox, for the metrics."""
    paused: Counter[str] = Counter()
    for pause in pauses.active(Pause.objects.using(using)):
        paused.update(count_paused(pause, using))
    return {
        "outbox": replace(
            _unfinished(OutboxMessage, using, paused["outbox"], longest_unhandled(using)), slot=debezium_slot(using)
        ),
        "inbox": _unfinished(InboxMessage, using, paused["inbox"]),
    }


def _unfinished(model: Model, using: str, paused: int, awaited: float | None = None) -> Unfinished:
    messages = own(model, using)
    oldest = oldest_first(messages, "pending").values_list("created_at", DatabaseNow()).first()
    return Unfinished(
        {status: min(count(messages, status), MOST_COUNTED) for status in statuses(model)},
        oldest=seconds(oldest[1] - oldest[0]) if oldest else 0.0,
        overdue=longest_due(model, using) or 0.0,
        awaited=awaited or 0.0,
        paused=paused,
    )


class TopicCount(NamedTuple):
    """The messages of one topic with one status."""

    topic: str
    status: str
    messages: int
    oldest_id: int


def count_by_topic(model: Model, using: str) -> list[TopicCount]:
    """Unfinished messages, in one statement, so that a message that changes its status is counted once.

    A union of two queries, as PostgreSQL finds each half in an index, but would read the whole table for both at once.
    """
    messages = own(model, using).order_by()
    counts = _by_topic(messages.filter(status__in=["pending", "dead"]), F("status"))
    if model is OutboxMessage:
        counts = counts.union(_by_topic(messages.filter(status="published"), Value("published")), all=True)
    return [TopicCount(*row) for row in counts]


def _by_topic(messages: Any, state: Any) -> Any:
    return (
        messages.annotate(state=Cast(state, TextField()))
        .values("topic", "state")
        .annotate(count=Count("id"), first=Min("id"))
        .values_list("topic", "state", "count", "first")
    )


def ages(model: Model, ids: Iterable[int], using: str) -> dict[int | None, float]:
    """Seconds since these messages were written, by id."""
    rows = model.objects.using(using).filter(id__in=list(ids)).values_list("id", "created_at", DatabaseNow())
    return {id: seconds(now - created_at) for id, created_at, now in rows}


def count_consumed(model: Model, unfinished: int, using: str) -> tuple[int, bool]:
    """The number of consumed messages, and whether it is an estimate."""
    rows = rows_estimate(model, using)
    if rows is not None and rows - unfinished > 2 * EXACT_CONSUMED:
        return rows - unfinished, True
    consumed = own(model, using).filter(status="consumed").order_by()
    found = consumed.values("id")[: EXACT_CONSUMED + 1].count()
    if found <= EXACT_CONSUMED:
        return found, False
    return max(found, (rows or 0) - unfinished), True


def longest_due(model: Model, using: str) -> float | None:
    """Seconds since the most overdue pending message was due; None if none is due."""
    if model is InboxMessage:
        return max(inbox_due(using).values(), default=None)
    return _first_due(OutboxMessage.objects.using(using).due())


def inbox_due(using: str) -> dict[str, float]:
    """The same of the inbox, for each consumer group with due messages."""
    messages = InboxMessage.objects.using(using)
    ages = {
        group: _first_due(messages.due().filter(group=group))
        for group in distinct(messages.pending() if has_partial_indexes(using) else messages, "group")
    }
    return {group: age for group, age in ages.items() if age is not None}


def _first_due(due: Any) -> float | None:
    first = due.values_list("next_retry_at", DatabaseNow()).first()
    return seconds(first[1] - first[0]) if first else None


def most_overdue(using: str, due: Mapping[str, float]) -> InboxMessage | None:
    """The message of the inbox that has been due longest; ``due`` from ``inbox_due``."""
    if not due:
        return None
    messages = InboxMessage.objects.using(using).due().filter(group=max(due, key=lambda group: due[group]))
    return messages.defer("payload", "headers", "raw_key", "raw_value").first()


def oldest_awaited(using: str, awaited: HandledEvents) -> OutboxMessage | None:
    """The oldest published message that a handler here has yet to handle, among the oldest thousand.

    One query, while ``longest_unhandled`` makes one for each event type.
    """
    rows = oldest_first(own(OutboxMessage, using), "published").values_list("id", "event_type", "topic")[:OLDEST]
    id = next((id for id, event_type, topic in rows if awaited.includes(event_type, topic)), None)
    if id is None:
        return None
    messages = OutboxMessage.objects.using(using).filter(id=id, status="published")
    return messages.defer("payload", "raw_value", "headers").first()


def foreign_messages(using: str) -> Iterator[tuple[str, int, int, float | None]]:
    """Of each other service in the table: its source, pending messages, published messages and ``longest_due``.

    Does not read own messages.
    """
    for source in foreign_sources(using):
        pending, published = (rows.filter(source=source) for rows in _by_source(using))
        overdue = _first_due(pending.filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at"))
        if any(counts := (pending.count(), published.count())):
            yield source, *counts, overdue


def foreign_sources(using: str) -> list[str]:
    """Other services with unfinished messages. Without partial indexes: with any, as the indexes hold all rows."""
    tables = _by_source(using) if has_partial_indexes(using) else (OutboxMessage.objects.using(using),)
    return sorted({source for rows in tables for source in distinct(rows, "source")} - {settings.source})


def _by_source(using: str) -> tuple[Any, Any]:
    """Pending and published messages, with conditions that match an index by source."""
    messages = OutboxMessage.objects.using(using)
    return messages.pending().filter(next_retry_at__isnull=False), messages.published().filter(publish_count__gt=0)


def distinct(messages: Any, column: str) -> Iterator[str]:
    """The distinct values of the first column of an index, one index lookup each."""
    value = messages.aggregate(first=Min(column))["first"]
    while value is not None:
        yield value
        value = messages.filter(**{f"{column}__gt": value}).aggregate(next=Min(column))["next"]


def has_partial_indexes(using: str) -> bool:
    return connections[using].features.supports_partial_indexes


def rows_estimate(model: type[models.Model], using: str) -> int | None:
    """The number of rows of a table, from the database's statistics; None if it has none."""
    connection = connections[using]
    name = model._meta.db_table
    if connection.vendor == "postgresql":
        # As the planner: rows per page at the last vacuum, times the pages of now.
        query = """
            SELECT CASE WHEN reltuples >= 0 AND relpages > 0 THEN
                       reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::bigint)
                   ELSE reltuples END
              FROM pg_class WHERE oid = %s::regclass
        """
        name = f'"{name}"'
    elif connection.vendor == "mysql":
        query = "SELECT table_rows FROM information_schema.tables WHERE table_schema = database() AND table_name = %s"
    else:
        return model._base_manager.using(using).count()  # SQLite is for development
    with connection.cursor() as cursor:
        cursor.execute(query, [name])
        row = cursor.fetchone()
    return None if row is None or row[0] is None or row[0] < 0 else int(row[0])


def seconds(age: timedelta) -> float:
    """An age in seconds, never negative."""
    return max(0.0, age.total_seconds())
