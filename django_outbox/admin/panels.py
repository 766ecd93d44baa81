"""The part of the overview about one table of messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext

from django_outbox.admin.error_groups import DeadLetters, dead_letters
from django_outbox.admin.tables import Table
from django_outbox.models import OutboxMessage
from django_outbox.operations import counts
from django_outbox.state.dialects import oldest_first

GROUPS = 5


@dataclass(frozen=True)
class StatusCount:
    """Messages with one status: the number, whether there are more than could be counted, and the oldest."""

    status: str
    count: int
    is_more: bool
    oldest: Any

    @property
    def title(self) -> str:
        return str(dict(OutboxMessage.Status.choices)[self.status])


@dataclass(frozen=True)
class Panel:
    """What the page shows of a table.

    Attributes:
        statuses: the unfinished messages, the dead last.
        waiting: the message that has waited longest for its handler; None if none waits.
        letters: the dead letters by error.
        rows_estimate: the estimated number of rows.
    """

    table: Table
    statuses: Sequence[StatusCount]
    waiting: Any
    letters: DeadLetters
    rows_estimate: int | None
    may_retry: bool
    may_delete: bool

    @property
    def title(self) -> str:
        return gettext("Inbox") if self.table.is_inbox else gettext("Outbox")

    @property
    def waiting_since(self) -> datetime | None:
        if self.waiting is None:
            return None
        since: datetime = self.waiting.next_retry_at if self.table.is_inbox else self.waiting.published_at
        return since

    @property
    def dead(self) -> StatusCount:
        return self.statuses[-1]


def panel(table: Table, request: HttpRequest, waiting: Any) -> Panel:
    """Query the database for a panel."""
    statuses = [_status_count(table, status) for status in counts.statuses(table.model)]
    return Panel(
        table,
        statuses,
        waiting,
        letters=dead_letters(table, table.redaction(request), GROUPS) if statuses[-1].count else DeadLetters([]),
        rows_estimate=counts.rows_estimate(table.model, table.database),
        may_retry=table.may(request, "retry"),
        may_delete=table.may(request, "delete"),
    )


def _status_count(table: Table, status: str) -> StatusCount:
    count = counts.count(table.messages, status)
    oldest = oldest_first(table.messages, status).first() if count else None
    return StatusCount(status, min(count, counts.MOST_COUNTED), count > counts.MOST_COUNTED, oldest)
