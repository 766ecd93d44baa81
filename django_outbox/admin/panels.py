"""How one table of messages stands: its part of the overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext

from django_outbox.admin import figures, findings
from django_outbox.admin.figures import Unfinished
from django_outbox.admin.findings import Finding
from django_outbox.admin.groups import DeadLetters, dead_letters
from django_outbox.admin.history import FailingType
from django_outbox.admin.redaction import redaction_for
from django_outbox.admin.tables import Table
from django_outbox.observability import text as texts
from django_outbox.operations.selection import Selection
from django_outbox.state.unhandled import Awaited

GROUPS = 5


@dataclass(frozen=True)
class Panel:
    """What the page shows of a table.

    Attributes:
        states: counts of what is unfinished.
        waiting: the message that has waited for its handler for longest, and since when.
        letters: its dead letters by error.
        rows_estimate: about how many rows there are.
    """

    table: Table
    states: Sequence[Unfinished]
    waiting: Any
    waiting_since: datetime | None
    letters: DeadLetters
    rows_estimate: int | None
    may_retry: bool
    may_delete: bool

    @property
    def title(self) -> str:
        return gettext("Inbox") if self.table.is_inbox else gettext("Outbox")

    @property
    def dead(self) -> Unfinished:
        return self.states[-1]


def panel(table: Table, request: HttpRequest, awaited: Awaited, now: datetime) -> Panel:
    """Ask the database how a table stands."""
    statuses = ("pending", "dead") if table.is_inbox else ("pending", "published", "dead")
    states = [figures.unfinished(table, status) for status in statuses]
    if table.is_inbox:
        waiting = figures.due_longest(table, now) if states[0].count else None
        since = waiting and waiting.next_retry_at
    else:
        waiting = figures.oldest_awaited(table, awaited) if states[1].count else None
        since = waiting and waiting.published_at
    redaction = redaction_for(request.user, table.name)
    return Panel(
        table,
        states,
        waiting,
        since,
        letters=dead_letters(table, redaction, GROUPS) if states[-1].count else DeadLetters([]),
        rows_estimate=figures.rows_estimate(table),
        may_retry=table.may(request, "retry"),
        may_delete=table.may(request, "delete"),
    )


def panel_findings(panel: Panel, failing: Sequence[FailingType], request: HttpRequest, now: datetime) -> list[Finding]:
    """What is dead and what fails again and again."""
    table = panel.table
    retry_url = table.action_url("retry", Selection()) if panel.may_retry else None
    oldest_id = min((each.oldest_stuck for each in failing if each.oldest_stuck), default=None)
    oldest = None if oldest_id is None else table.messages.filter(id=oldest_id).first()
    error = ""
    if oldest is not None:
        redaction = redaction_for(request.user, table.name)
        error = texts.one_line(redaction.mask_text(oldest.last_error, oldest.payload, oldest.headers), 200)
    return [
        *findings.dead_finding(table, panel.dead, panel.letters, retry_url, now),
        *findings.failing_finding(table, failing, oldest, error),
    ]
