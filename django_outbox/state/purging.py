"""Deletes messages in batches: those of a query, or all that have expired, oldest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q, QuerySet

from django_outbox.models.fields import DatabaseNow
from django_outbox.state.dialects import dialect_of
from django_outbox.state.retention import Expiry

BATCH_SIZE = 1000
SLACK = 10_000
"""Ids to read beyond the last old message: ids are assigned slightly before times."""


def delete(messages: QuerySet[Any], *, using: str) -> int:
    """Delete messages; returns how many. Each batch is a transaction, so that no lock is held for long.

    Messages that no longer match when they are locked stay.
    """
    total = 0
    while True:
        with transaction.atomic(using=using):
            deleted = _delete(messages.using(using).order_by()[:BATCH_SIZE], using)
        total += len(deleted)
        if len(deleted) < BATCH_SIZE:
            return total


def delete_batch(messages: QuerySet[Any], ids: Collection[int], *, using: str) -> list[str]:
    """Delete the messages with these ids in one transaction; returns their statuses."""
    with transaction.atomic(using=using):
        return _delete(messages.using(using).filter(id__in=dialect_of(using).listed(ids)), using)


def _delete(messages: QuerySet[Any], using: str) -> list[str]:
    """Lock, then delete: a message that an operator has retried since stays, with its failures.

    Django's ``delete()`` reads each row first; it is only used if the project has foreign keys to messages.
    """
    locked = list(messages.select_for_update(skip_locked=True).values_list("id", "status"))
    ids = dialect_of(using).listed([id for id, _ in locked])
    model = messages.model
    rows = model._base_manager.using(using).filter(id__in=ids)
    fields = model._meta.get_fields(include_hidden=True)  # also those with related_name="+"
    relations = [field for field in fields if field.auto_created and not field.concrete]
    if any(relation.related_model._meta.app_label != model._meta.app_label for relation in relations):
        rows.only("id").delete()
    else:
        for relation in relations:
            related = relation.related_model._base_manager.using(using)
            related.filter(**{f"{relation.field.name}__in": ids}).delete()
        rows._raw_delete(using)
    return [status for _, status in locked]


@dataclass(slots=True)
class Step:
    """One step of a walk: the share of it that is done, and messages by their name in ``RETENTION``."""

    share: float
    counts: Counter[str]


class Walk:
    """One pass over all messages that may have expired, by id.

    It needs no index but the primary key: old messages have small ids, and a binary search finds the first recent one.
    Each step reads a fixed number of rows, so it takes milliseconds whatever the table's size and statistics. A walk
    may stop after any step, even by a kill; the next one continues with the remaining messages.
    """

    def __init__(self, expiry: Expiry, *, using: str) -> None:
        self._expiry = expiry
        self._using = using
        self._rows: QuerySet[Any] = expiry.model._base_manager.using(using)
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
            yield self._step(Counter(deleted))

    def count(self, size: int, which: Q | None = None) -> Iterator[Step]:
        """Count what ``steps`` would delete, or the messages of ``which``."""
        condition = self._expiry.expired if which is None else which
        while (ids := self._next(size)) is not None:
            counts = self._rows.filter(condition, **ids).values_list("status").annotate(count=Count("id"))
            yield self._step(dict(counts))

    def _step(self, by_status: dict[str, int]) -> Step:
        share = (self._position - self._start) / self.length
        return Step(share, Counter({self._expiry.name_of(status): count for status, count in by_status.items()}))

    def _next(self, size: int) -> dict[str, int] | None:
        """The range of the next ``size`` messages; None at the end."""
        if self._position >= self._end:
            return None
        ahead = self._rows.filter(id__gt=self._position, id__lte=self._end).order_by("id")
        last = next(iter(ahead.values_list("id", flat=True)[size - 1 : size]), self._end)
        between = {"id__gt": self._position, "id__lte": last}
        self._position = last
        return between

    def _bounds(self) -> tuple[int, int]:
        """The id before the first message, and the last id that may be old enough; equal if there is none."""
        ends = self._rows.aggregate(first=Min("id"), last=Max("id"))
        if ends["first"] is None:
            return 0, 0
        low, high = ends["first"] - 1, ends["last"]
        is_old = Q(created_at__lt=DatabaseNow() - min(self._expiry.ages.values()))
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
