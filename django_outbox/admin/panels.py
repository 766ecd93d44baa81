"""The part of the overview about one table of messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext

from django_outbox.admin import notices
from django_outbox.admin.error_groups import DeadLetters, dead_letters
from django_outbox.admin.history import FailingType
from django_outbox.admin.notices import Notice
from django_outbox.admin.redaction import redaction_for
from django_outbox.admin.tables import Table
from django_outbox.models import OutboxMessage
from django_outbox.observability import text as texts
from django_outbox.operations import counts
from django_outbox.operations.selection import Selection
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
    redaction = redaction_for(request.user, table.name)
    return Panel(
        table,
        statuses,
        waiting,
        letters=dead_letters(table, redaction, GROUPS) if statuses[-1].count else DeadLetters([]),
        rows_estimate=counts.rows_estimate(table.model, table.database),
        may_retry=table.may(request, "retry"),
        may_delete=table.may(request, "delete"),
    )


def _status_count(table: Table, status: str) -> StatusCount:
    count = counts.count(table.messages, status)
    oldest = oldest_first(table.messages, status).first() if count else None
    return StatusCount(status, min(count, counts.MOST_COUNTED), count > counts.MOST_COUNTED, oldest)


def panel_notices(
    panel: Panel, failing: Sequence[FailingType], request: HttpRequest, now: datetime
) -> Iterator[Notice]:
    """Dead messages, and messages that keep failing."""
    table = panel.table
    retry_url = table.action_url("retry", Selection()) if panel.may_retry else None
    yield from notices.dead_notice(table, panel.dead.count, panel.letters, retry_url, now)
    oldest_id = min((each.oldest_stuck for each in failing if each.oldest_stuck), default=None)
    oldest = None if oldest_id is None else table.messages.filter(id=oldest_id).first()
    error = ""
    if oldest is not None:
        redaction = redaction_for(request.user, table.name)
        error = texts.one_line(redaction.mask_text(oldest.last_error, oldest.payload, oldest.headers), 200)
    yield from notices.failing_notice(table, failing, oldest, error)
