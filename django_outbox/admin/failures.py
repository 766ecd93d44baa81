"""Failures for the pages: dead letters by error, dead messages by day, and failing event types."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Case, Count, F, IntegerField, Max, Min, Q, Value, When

from django_outbox.admin.tables import OUTBOX, Table
from django_outbox.models import MessageFailure
from django_outbox.observability import text as texts
from django_outbox.observability.masking import Redaction
from django_outbox.operations.activity import HOURS
from django_outbox.operations.selection import Selection

FAILURES = 5000
KEEPS_FAILING = 3
TYPES = 8
DAYS = 14
GROUPS = 20
MOST_GROUPS = 1000


def dead_by_day(tables: Collection[Table], now: datetime) -> dict[date, dict[Table, int]]:
    """The number of messages of each table that became dead on each of 14 days, today last.

    The query lists the days, as MySQL has no time zones by default.
    """
    midnight = texts.local(now).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - timedelta(days=n) for n in reversed(range(DAYS))]
    day = Case(
        *(When(occurred_at__gte=start, then=Value(n)) for n, start in reversed(list(enumerate(starts)))),
        output_field=IntegerField(),
    )
    dead = MessageFailure.objects.using(OUTBOX.database).filter(final=True, occurred_at__gte=starts[0])
    counts = {f"of_{table.failures_by}": Count(table.failures_by) for table in tables}
    by_day: dict[int, Any] = {each["day"]: each for each in dead.values(day=day).annotate(**counts).order_by()}
    return {
        start.date(): {table: by_day[n][f"of_{table.failures_by}"] if n in by_day else 0 for table in tables}
        for n, start in enumerate(starts)
    }


class FailingType(NamedTuple):
    """An event type with failures in 24 hours.

    Attributes:
        failures: their number.
        last: the time of the last one.
        stuck: messages that have failed at least three times and will be retried; the oldest is ``oldest_stuck``.
    """

    table: Table
    event_type: str
    failures: int
    last: datetime
    stuck: int
    oldest_stuck: int | None


class Failing(NamedTuple):
    """The types with the most failures first. ``is_cut``: older failures than the last 5,000 are not counted."""

    types: Sequence[FailingType]
    is_cut: bool


def failing_types(tables: Collection[Table], now: datetime) -> Failing:
    """Event types by failures, among the last 5,000 failures in 24 hours."""
    failures = MessageFailure.objects.using(OUTBOX.database)
    since = now - timedelta(hours=HOURS)
    newest = failures.aggregate(newest=Max("id"))["newest"] or 0
    last_uncounted = failures.filter(id__lte=newest - FAILURES).order_by("-id").values_list("occurred_at", flat=True)
    uncounted_at = last_uncounted.first() if newest > FAILURES else None
    recent = failures.filter(id__gt=newest - FAILURES, occurred_at__gte=since).exclude(
        stage=MessageFailure.Stage.CANCEL
    )
    found = [each for table in tables for each in _failing_types(recent, table)]
    found.sort(key=lambda each: (-each.failures, each.event_type))
    return Failing(found, is_cut=uncounted_at is not None and uncounted_at >= since)


def _failing_types(recent: Any, table: Table) -> list[FailingType]:
    message = table.failures_by
    stuck = Q(**{f"{message}__status": "pending", f"{message}__retry_count__gte": KEEPS_FAILING})
    rows = (
        recent.filter(**{f"{message}__isnull": False})
        .values(event_type=F(f"{message}__event_type"))
        .annotate(
            failures=Count("id"),
            last=Max("occurred_at"),
            stuck=Count(message, filter=stuck, distinct=True),
            oldest_stuck=Min(message, filter=stuck),
        )
        .order_by("-failures")
    )
    return [FailingType(table, **row) for row in rows]


@dataclass(frozen=True)
class ErrorGroup:
    """Dead letters with the same fingerprint."""

    title: str
    count: int
    first: datetime
    last: datetime
    sample: Any
    error: str
    selection: Selection


@dataclass(frozen=True)
class DeadLetters:
    """The dead letters of a table.

    Attributes:
        groups: the largest groups.
        more: the number of other groups.
        first, last: when the first and the last of all dead letters died; None if there are none.
    """

    groups: list[ErrorGroup]
    more: int = 0
    first: datetime | None = None
    last: datetime | None = None


def dead_letters(table: Table, redaction: Redaction, limit: int = GROUPS) -> DeadLetters:
    """The dead letters by error, each group with its newest message as a sample."""
    found = list(
        table.dead.order_by()
        .values(title=F("fingerprint"))
        .annotate(count=Count("id"), first=Min("updated_at"), last=Max("updated_at"), sample=Max("id"))
        .order_by("-count", "title")[:MOST_GROUPS]
    )
    samples = table.messages.in_bulk([group["sample"] for group in found[:limit]])
    groups = [
        ErrorGroup(
            **{**group, "sample": sample},
            error=texts.one_line(redaction.error_of(sample), 200),
            selection=Selection({"error": group["title"] or "-"}),
        )
        for group in found[:limit]
        if (sample := samples.get(group["sample"])) is not None  # else deleted between the two queries
    ]
    first = min((group["first"] for group in found), default=None)
    last = max((group["last"] for group in found), default=None)
    return DeadLetters(groups, max(0, len(found) - limit), first, last)
