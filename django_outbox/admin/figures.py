"""How things stand now, in numbers. Each query is cheap whatever the number of consumed messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django_outbox.admin.tables import Table
from django_outbox.models import OutboxMessage, oldest_first
from django_outbox.operations import stats as figures
from django_outbox.state.unhandled import Awaited

MOST_COUNTED = 1_000_000
LOOKED_AT = 1000


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
    oldest = oldest_first(table.messages, status).first() if count else None
    return Unfinished(status, min(count, MOST_COUNTED), count > MOST_COUNTED, oldest)


def oldest_awaited(table: Table, awaited: Awaited) -> Any:
    """The oldest published message that a handler here waits for, among the oldest thousand.

    What has no handler here stays published for ever: others may consume it.
    """
    published = oldest_first(table.own, "published")
    rows = published.values_list("id", "event_type", "topic")[:LOOKED_AT]
    oldest_id = next((id for id, event_type, topic in rows if awaited.includes(event_type, topic)), None)
    if oldest_id is None:
        return None
    return table.messages.filter(id=oldest_id, status="published").defer("payload", "headers").first()


def due_longest(table: Table, now: datetime) -> Any:
    """The pending message that has been due for longest; None if none is due."""
    due = table.own.filter(status="pending", next_retry_at__lte=now)
    return due.defer("payload", "headers", *table.unread).order_by("next_retry_at", "id").first()


def rows_estimate(table: Table) -> int | None:
    """About how many rows the table has; None if the database does not say."""
    return figures.rows_estimate(table.model, table.database)
