"""Deletes expired messages: one pass over a table, oldest first, in small steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet

from django_outbox.models.fields import DatabaseNow
from django_outbox.state.deletion import delete_batch
from django_outbox.state.retention import Expiry

SLACK = 10_000
"""Ids to read beyond the last old message: ids are assigned slightly before times."""


@dataclass(slots=True)
class Step:
    """The result of one step.

    Attributes:
        share: of the walk that is done, from 0 to 1.
        counts: deleted messages by their name in ``retention``.
    """

    share: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


class Walk:
    """One pass over all messages that may have expired, by id.

    It needs no index but the primary key: old messages have small ids, and a binary search finds the first recent one.
    Each step reads a fixed number of rows, so it takes milliseconds whatever the table's size and statistics. A walk
    may stop after any step, even by a kill; the next one continues with the remaining messages.
    """

    def __init__(self, expiry: Expiry, *, using: str) -> None:
        self._expiry = expiry
        self._using = using
        self._rows: QuerySet[Any] = expiry.model._base_manager.using(using).order_by()
        self._position, self._end = self._bounds()
        self._start = self._position

    @property
    def length(self) -> int:
        """The number of ids, to weigh several walks."""
        return self._end - self._start

    def steps(self, size: Callable[[], int]) -> Iterator[Step]:
        """Delete expired messages among the next ``size()`` messages, each time in a transaction."""
        while (ids := self._next(size())) is not None:
            expired = self._rows.filter(self._expiry.expired, **ids)
            found = list(expired.values_list("id", flat=True))  # without locks; delete_batch checks again
            deleted = delete_batch(expired, found, using=self._using) if found else []
            yield Step(self._share, Counter(map(self._expiry.name_of, deleted)))

    def count(self, size: int, which: Q | None = None) -> Iterator[Step]:
        """Count what ``steps`` would delete, or the messages of ``which``."""
        condition = self._expiry.expired if which is None else which
        while (ids := self._next(size)) is not None:
            counts = self._rows.filter(condition, **ids).values_list("status").annotate(count=Count("id"))
            yield Step(self._share, Counter({self._expiry.name_of(status): count for status, count in counts}))

    def _next(self, size: int) -> dict[str, int] | None:
        """The range of the next ``size`` messages; None at the end."""
        if self._position >= self._end:
            return None
        ahead = self._rows.filter(id__gt=self._position, id__lte=self._end).order_by("id")
        last = next(iter(ahead.values_list("id", flat=True)[size - 1 : size]), self._end)
        between = {"id__gt": self._position, "id__lte": last}
        self._position = last
        return between

    @property
    def _share(self) -> float:
        return (self._position - self._start) / self.length

    def _bounds(self) -> tuple[int, int]:
        """The id before the first message, and the last id that may be old enough; equal if there is none."""
        ends = self._rows.aggregate(first=Min("id"), last=Max("id"))
        if ends["first"] is None:
            return 0, 0
        low, high = ends["first"] - 1, ends["last"]
        is_old = Q(created_at__lt=DatabaseNow() - self._expiry.shortest)
        # Messages up to `low` are old; those after `high` are recent.
        while high - low > SLACK:
            middle = (low + high) // 2
            at = self._rows.filter(id__gt=middle, id__lte=high).order_by("id").annotate(is_old=is_old)
            found = at.values_list("id", "is_old").first()
            if found is not None and found[1]:
                low = found[0]
            else:
                high = middle
        return ends["first"] - 1, min(high + SLACK, ends["last"])
