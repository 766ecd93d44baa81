"""The state machine of the inbox: every write of a stored message's status, with ``transitions`` and ``retry``.

::

           inbox_insert.add               mark_consumed
    record ────────────────> pending ────────────────────> consumed
      │ │                     │  ^ mark_failed, requeue,      ^
      │ │ add     mark_failed │  │ postpone                   │
      │ │           mark_dead v  └── retry (an operator)      │ add, with the handlers,
      │ └───────────────────> dead                            │ in one transaction
      └───────────────────────────────────────────────────────┘

A record that a mapper of the project reads may be stored before it is read; ``identify`` then makes it an event, or
``forget`` removes it. Guards, locks and times are as in ``outbox``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet

from django_outbox.exceptions import MessageNotFound
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.message import status_is
from django_outbox.state.inbox_insert import require_room
from django_outbox.state.ordering import CLAIM_SECONDS, Blocker, is_blocking, release_next, same_key
from django_outbox.state.transitions import due_at

Status = InboxMessage.Status

UPDATE_SIZE = 1000


def in_delivery(row_id: int, *, using: str) -> QuerySet[InboxMessage]:
    """A pending message whose delivery was counted and has not ended; for ``transitions``."""
    return _messages(using).filter(status_is(Status.PENDING), id=row_id, delivery_count__gt=0)


# pending -> pending


def next_due(group: str, *, using: str, only: int | None = None) -> InboxMessage | None:
    """Lock the most overdue message of a group, skipping those that others have locked.

    Args:
        group: the consumer group.
        using: alias of the database.
        only: id of the message to lock if it is due; None for any.
    """
    due = InboxMessage.objects.using(using).due().filter(group=group, **({} if only is None else {"id": only}))
    return due.defer("payload", "headers", "raw_key", "raw_value").select_for_update(skip_locked=True).first()


def lock_unread(record_row: InboxMessage, *, using: str) -> InboxMessage | None:
    """Lock the stored row of a record that was not read yet; waits for others that read it."""
    same = _messages(using).filter(group=record_row.group, source="", event_id=record_row.event_id)
    return same.filter(status=Status.PENDING).defer("raw_value").select_for_update().first()


def count_delivery(
    row: InboxMessage, *, using: str, outlived: bool, wait: timedelta = timedelta(seconds=CLAIM_SECONDS)
) -> None:
    """Count a delivery before its handler runs, because the handler may kill the process.

    Args:
        row: pending and locked.
        using: alias of the database.
        outlived: this process has counted the delivery before and is still alive.
        wait: how long the message is not due.
    """
    _messages(using).filter(status_is(Status.PENDING), id=row.id).update(
        delivery_count=F("delivery_count") + (0 if outlived else 1),
        next_retry_at=due_at(wait),
        updated_at=DatabaseNow(),
    )


def postpone(row: InboxMessage, blocker: Blocker, *, using: str) -> int:
    """Let all later messages of a key wait as long as their blocker, uncounted; returns how many. In a transaction.

    All of them, for the reason in ``outbox.postpone``.
    """
    until = due_at(blocker.until)
    later = same_key(row, using=using).filter(status=Status.PENDING, id__gt=blocker.id, next_retry_at__lt=until)
    # Skip locked rows: another consumer may be postponing the same key.
    ids = list(later.select_for_update(skip_locked=True).values_list("id", flat=True))
    # If the blocker has ended, it has released the next message, which must not wait again. If it ends after this
    # check, it waits for these locks before it releases the next one.
    if not is_blocking(blocker, using=using):
        return 0
    # In two statements: MySQL cannot update a table that it reads, and PostgreSQL may join all rows one by one.
    return sum(
        _messages(using)
        .filter(status_is(Status.PENDING), id__in=ids[start : start + UPDATE_SIZE])
        .update(next_retry_at=until, updated_at=DatabaseNow())
        for start in range(0, len(ids), UPDATE_SIZE)
    )


def identify(row: InboxMessage, known: InboxMessage, *, using: str) -> bool:
    """Turn the row of an unread record into an event that is due at once.

    False if the event is already stored; the row is then consumed.

    Raises:
        DatabaseError: its content is too large.
    """
    require_room([known], using=using)
    names = ("source", "event_id", "event_type", "event_version", "event_time", "message_key", "payload", "headers")
    fields: dict[str, Any] = {name: getattr(known, name) for name in names}
    try:
        with transaction.atomic(using=using):
            _messages(using).filter(status_is(Status.PENDING), id=row.id).update(
                **fields,
                raw_key=None,
                raw_value=None,
                delivery_count=0,
                next_retry_at=DatabaseNow(),
                updated_at=DatabaseNow(),
            )
    except IntegrityError:
        mark_consumed(row, using=using)
        return False
    return True


def forget(row: InboxMessage, *, using: str) -> None:
    """Delete the row of a record that was stored before it was read and has nothing to handle."""
    _messages(using).filter(id=row.id, source="", last_error="").delete()


# pending -> consumed


def lock(row_id: int, *, using: str) -> InboxMessage | None:
    """Lock a message in hand until the transaction ends; None if its delivery has ended.

    Waits for another consumer that handles it.
    """
    return in_delivery(row_id, using=using).select_for_update().first()


def mark_consumed(row: InboxMessage, *, using: str) -> None:
    """Mark a locked, pending message as handled, and clear the content that deduplication does not need.

    Raises:
        MessageNotFound: the handler removed or changed the row.
    """
    changed = (
        _messages(using)
        .filter(status_is(Status.PENDING), id=row.id)
        .update(
            payload=None,
            headers={},
            raw_key=None,
            raw_value=None,
            status=Status.CONSUMED,
            next_retry_at=None,
            consumed_at=DatabaseNow(),
            updated_at=DatabaseNow(),
            last_error="",
        )
    )
    if not changed:
        raise MessageNotFound(row.id)
    row.status = Status.CONSUMED
    release_next(row, using=using)


def _messages(using: str) -> QuerySet[InboxMessage]:
    return InboxMessage.objects.using(using).order_by()
