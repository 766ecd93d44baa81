"""Dead letters grouped by error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Max, Min

from django_outbox.admin.tables import Table
from django_outbox.observability import text as texts
from django_outbox.observability.masking import Redaction
from django_outbox.operations.selection import Selection

GROUPS = 20
MOST_GROUPS = 1000


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
