"""What operators do to pending messages of outbox or inbox: make them due now, or cancel them.

Rows that a relay or a consumer has locked are skipped: they are being sent or handled. Each batch is a transaction. An
action may stop after any batch, even by a kill; repeated, it continues with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Max, Q, QuerySet

from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.message import status_is
from django_outbox.state import dead_letters, failures
from django_outbox.state.dialects.base import Key
from django_outbox.state.ordering import release_next

BATCH_SIZE = 500


class Controlled(NamedTuple):
    """How many messages an action changed.

    Attributes:
        skipped: those that were locked or had left their state.
        released: later messages of the keys that had only waited for them and are due now.
    """

    changed: int = 0
    skipped: int = 0
    released: int = 0


def waiting(messages: QuerySet[Any]) -> QuerySet[Any]:
    """Pending messages that wait for a retry, a delay or an earlier message."""
    return messages.filter(status="pending", next_retry_at__gt=DatabaseNow(), id__gt=0)  # id > 0 selects the index


def pending(messages: QuerySet[Any]) -> QuerySet[Any]:
    """All pending messages."""
    return messages.filter(status="pending", id__gt=0)


def make_due(messages: QuerySet[Any], *, using: str) -> Iterator[Controlled]:
    """Make waiting messages due now, and those that wait for them; yields the counts of each batch.

    Failures stay counted. A message behind an earlier one of its key still waits for it.
    """

    def work(rows: Sequence[Any]) -> int:
        released = _release_later(rows, using)
        _pending(rows, using).update(next_retry_at=DatabaseNow(), updated_at=DatabaseNow())
        return released

    return _in_batches(waiting(messages.using(using)), work, using)


def cancel(messages: QuerySet[Any], reason: str, *, using: str) -> Iterator[Controlled]:
    """Make pending messages dead, with a reason; yields the counts of each batch.

    Later messages that only waited for them are due now. With ``ON_DEAD = "hold"`` they wait for the dead ones.
    """
    columns = failures.columns(reason)

    def work(rows: Sequence[Any]) -> int:
        released = _release_later(rows, using)
        _pending(rows, using).update(status="dead", next_retry_at=None, updated_at=DatabaseNow(), **columns)
        by_attempt: dict[int, list[Any]] = {}
        for row in rows:
            row.status, row.last_error, row.fingerprint = "dead", columns["last_error"], columns["fingerprint"]
            attempt = row.publish_count if isinstance(row, OutboxMessage) else row.retry_count
            by_attempt.setdefault(attempt, []).append(row)
            dead_letters.publish_copy(row, reason, stage=failures.Stage.CANCEL, using=using)
        for attempt, of_attempt in by_attempt.items():
            failures.record(of_attempt, stage=failures.Stage.CANCEL, attempt=attempt, using=using)
        if isinstance(rows[0], InboxMessage):
            # Of each key the first: messages between two of these may have waited for it.
            for row in {(row.group, row.topic, row.message_key): row for row in reversed(rows)}.values():
                release_next(row, using=using)
        return released

    return _in_batches(pending(messages.using(using)), work, using)


def _in_batches(messages: QuerySet[Any], work: Callable[[Sequence[Any]], int], using: str) -> Iterator[Controlled]:
    """Lock pending messages and work on them, batch by batch, each in a transaction."""
    found = messages.model._base_manager.using(using).filter(status_is("pending")).annotate(clock=DatabaseNow())
    # Not later ones: cancelling writes copies for DEAD_LETTER_TOPIC, which are pending and would be cancelled, too.
    messages = messages.filter(id__lte=messages.aggregate(newest=Max("id"))["newest"] or 0).order_by("id")
    last_id = 0
    while ids := list(messages.filter(id__gt=last_id).values_list("id", flat=True)[:BATCH_SIZE]):
        with transaction.atomic(using=using):
            rows = list(found.filter(id__in=ids).order_by("id").select_for_update(skip_locked=True))
            released = work(rows) if rows else 0
        yield Controlled(len(rows), len(ids) - len(rows), released)
        last_id = ids[-1]


def _pending(rows: Sequence[Any], using: str) -> QuerySet[Any]:
    manager: QuerySet[Any] = type(rows[0])._base_manager.using(using)
    return manager.filter(status_is("pending"), id__in=[row.id for row in rows])


def _release_later(rows: Sequence[Any], using: str) -> int:
    """Make later messages of the outbox due that took over the due time of these, except these; returns how many.

    See ``outbox.postpone``. Not in the inbox, where the end of a message releases the next one.
    """
    waits: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if isinstance(row, OutboxMessage) and row.message_key and row.next_retry_at > row.clock:  # type: ignore[attr-defined]
            waits.setdefault((row.source, row.topic, row.message_key, row.next_retry_at), row.id)
    if not waits:
        return 0
    given = {row.id for row in rows}
    first: dict[Key, int] = {}
    for (_, topic, key, _), id in waits.items():
        first.setdefault((topic, key), id)
    messages = OutboxMessage.objects.using(using)
    keys: dict[str, list[str]] = {}
    for topic, key in first:
        keys.setdefault(topic, []).append(key)
    of_keys = reduce(or_, [Q(topic=topic, message_key__in=of_topic) for topic, of_topic in keys.items()])
    found = messages.filter(of_keys, status="pending", id__gt=min(first.values())).order_by("id")
    later = [
        id
        for topic, key, id in found.values_list("topic", "message_key", "id")
        if id > first.get((topic, key), id) and id not in given
    ]
    return sum(_release(later[start : start + BATCH_SIZE], waits, using) for start in range(0, len(later), BATCH_SIZE))


def _release(ids: Sequence[int], waits: Mapping[tuple[Any, ...], int], using: str) -> int:
    pending = OutboxMessage.objects.using(using).filter(status_is("pending"))
    # Wait for locks: a relay may be postponing these messages until the old due times. By id, as InnoDB locks whatever
    # it reads, also messages of other keys.
    locked = pending.filter(id__in=ids).order_by("id").select_for_update()
    columns = ("source", "topic", "message_key", "next_retry_at", "id", "created_at", "updated_at")
    due = [
        id
        for *key, id, created_at, updated_at in locked.values_list(*columns)
        # One that has not changed since it was inserted has a delay of its own, which is as long by chance.
        if id > waits.get(tuple(key), id) and updated_at > created_at
    ]
    return pending.filter(id__in=due).update(next_retry_at=DatabaseNow(), updated_at=DatabaseNow())
