"""Deleting what has expired: once through the tables, from the oldest message on, in small steps."""

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
"""Ids beyond the last message that is old enough by its time of writing: ids are given a little earlier than times."""


@dataclass(slots=True)
class Step:
    """What one step came to.

    Attributes:
        share: of the walk that is behind, from 0 to 1.
        counts: messages that were deleted, by the name that ``retention`` has for them.
    """

    share: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


class Walk:
    """One look at all messages that may have expired, in the order of their ids.

    The primary key is index enough: what is old has small ids, and where the young ones begin is found in
    some thirty looks. So no index has to be kept up for this with each change of a message. Each step looks at so
    many rows and is done in milliseconds, whatever the table holds and whatever its statistics say. A walk may end
    after any step, by a kill as well; the next one begins with what is left.
    """

    def __init__(self, expiry: Expiry, *, using: str) -> None:
        self._expiry = expiry
        self._using = using
        self._rows: QuerySet[Any] = expiry.model._base_manager.using(using).order_by()
        self._position, self._end = self._bounds()
        self._start = self._position

    @property
    def length(self) -> int:
        """From its beginning to its end, in ids: how much of several walks this one is."""
        return self._end - self._start

    def steps(self, size: Callable[[], int]) -> Iterator[Step]:
        """Delete what has expired among so many messages, and the next so many, each in a transaction of its own."""
        while (ids := self._next(size())) is not None:
            expired = self._rows.filter(self._expiry.expired, **ids)
            found = list(expired.values_list("id", flat=True))  # locks nothing; the rows are looked at again
            deleted = delete_batch(expired, found, using=self._using) if found else []
            yield Step(self._share, Counter(map(self._expiry.name_of, deleted)))

    def count(self, size: int, which: Q | None = None) -> Iterator[Step]:
        """As ``steps``, but delete nothing; with ``which``, count these instead."""
        condition = self._expiry.expired if which is None else which
        while (ids := self._next(size)) is not None:
            counts = self._rows.filter(condition, **ids).values_list("status").annotate(count=Count("id"))
            yield Step(self._share, Counter({self._expiry.name_of(status): count for status, count in counts}))

    def _next(self, size: int) -> dict[str, int] | None:
        """Where the next so many messages are; None at the end."""
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
        """The id before the first message, and the last that may be old enough; both the same if none is."""
        ends = self._rows.aggregate(first=Min("id"), last=Max("id"))
        if ends["first"] is None:
            return 0, 0
        low, high = ends["first"] - 1, ends["last"]
        is_old = Q(created_at__lt=DatabaseNow() - self._expiry.shortest)
        # Messages up to `low` are old; those behind `high` are young, or there are none.
        while high - low > SLACK:
            middle = (low + high) // 2
            at = self._rows.filter(id__gt=middle, id__lte=high).order_by("id").annotate(is_old=is_old)
            found = at.values_list("id", "is_old").first()
            if found is not None and found[1]:
                low = found[0]
            else:
                high = middle
        return ends["first"] - 1, min(high + SLACK, ends["last"])
