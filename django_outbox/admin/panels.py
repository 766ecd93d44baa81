"""The part of the overview about one table of messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext

from django_outbox.admin.failures import DeadLetters, dead_letters
from django_outbox.admin.tables import Table
from django_outbox.models import OutboxMessage
from django_outbox.operations import counts
from django_outbox.state.dialects import oldest_first

GROUPS = 5


class StatusCount:
    """The messages of a table with one status, and the oldest of them; ``is_more``: there are more than were counted."""

    def __init__(self, table: Table, status: str) -> None:
        count = counts.count(table.messages, status)
        self.status = status
        self.title = dict(OutboxMessage.Status.choices)[status]
        self.count = min(count, counts.MOST_COUNTED)
        self.is_more = count > counts.MOST_COUNTED
        self.oldest = oldest_first(table.messages, status).first() if count else None


class Panel:
    """What the page shows of a table; ``waiting``: the message that has waited longest for its handler, if any."""

    def __init__(self, table: Table, request: HttpRequest, waiting: Any) -> None:
        self.table = table
        self.title = gettext("Inbox") if table.is_inbox else gettext("Outbox")
        self.statuses = [StatusCount(table, status) for status in counts.statuses(table.model)]
        self.dead = self.statuses[-1]
        self.letters = dead_letters(table, table.redaction(request), GROUPS) if self.dead.count else DeadLetters([])
        self.waiting = waiting
        self.waiting_since: datetime | None = None
        if waiting is not None:
            self.waiting_since = waiting.next_retry_at if table.is_inbox else waiting.published_at
        self.rows_estimate = counts.rows_estimate(table.model, table.database)
        self.may_retry = table.may(request, "retry")
        self.may_delete = table.may(request, "delete")
