"""The state machine of the inbox: every write of a stored message's status, with ``transitions``, ``retry``, ``controls``.

::

                add                mark_consumed
    record ────────────> pending ────────────────> consumed
      │ │                 │  ^ mark_failed,             ^
      │ │ add mark_failed │  │ requeue, postpone        │
      │ │       mark_dead v  └── retry (an operator)    │ add, with the handlers,
      │ └───────────────> dead                          │ in one transaction
      └─────────────────────────────────────────────────┘

A record that a mapper of the project reads may be stored before it is read; ``identify`` then makes it an event, or
``forget`` removes it. Guards, locks and times are as in ``outbox``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import F, QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import InsertQuery

from django_outbox.exceptions import MessageNotFound
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow, due_at
from django_outbox.models.message import status_is
from django_outbox.state import dead_letters, failures, transitions
from django_outbox.state.inbox_rows import CONTENT
from django_outbox.state.ordering import CLAIM_SECONDS, Blocker, is_blocking, release_next, same_key

Status = InboxMessage.Status

UPDATE_SIZE = 1000
_SMALL_BYTES = 2**18
_IDENTITY = ("id", "source", "event_id")


def in_delivery(row_id: int, *, using: str) -> QuerySet[InboxMessage]:
    """A pending message whose delivery was counted and has not ended; for ``transitions``."""
    return _pending(row_id, using).filter(delivery_count__gt=0)


def _pending(row_id: int, using: str) -> QuerySet[InboxMessage]:
    return InboxMessage.objects.using(using).filter(status_is(Status.PENDING), id=row_id)


# record -> pending, consumed, dead


class PartlyInserted(Exception):
    """Only some rows were inserted, and this database does not return which."""


def add(rows: Sequence[InboxMessage], *, using: str) -> int:
    """Insert rows, except duplicates of stored rows by group, source and event id; returns how many are new.

    New rows have an ``id`` afterwards. If another session is inserting one of them, this waits for that transaction.

    Raises:
        PartlyInserted: some of several rows are duplicates, on MySQL: roll back, then add them one by one.
        DatabaseError: the rows are too large.
    """
    if not rows:
        return 0
    _require_room(rows, using)
    fields = [field for field in InboxMessage._meta.concrete_fields if not field.primary_key]
    query = InsertQuery(InboxMessage, on_conflict=OnConflict.IGNORE)
    query.insert_values(fields, list(rows))
    ((statement, parameters),) = query.get_compiler(using=using).as_sql()
    connection = connections[using]
    with connection.cursor() as cursor:
        if connection.features.can_return_rows_from_bulk_insert:
            names = ", ".join(connection.ops.quote_name(name) for name in _IDENTITY)
            cursor.execute(f"{statement} RETURNING {names}", parameters)
            ids = {(source, event_id): id for id, source, event_id in cursor.fetchall()}
        else:
            cursor.execute(statement, parameters)
            if cursor.rowcount not in (0, len(rows)):
                raise PartlyInserted
            ids = _ids(rows, using) if cursor.rowcount else {}
    for row in rows:
        row.id = ids.pop((row.source, row.event_id), None)  # of duplicates among these rows, the first was inserted
    failed = [row for row in rows if row.id is not None and (row.retry_count or row.status == Status.DEAD)]
    failures.record(failed, stage=failures.Stage.HANDLE, attempt=1, using=using)
    return sum(row.id is not None for row in rows)


def are_known(rows: Sequence[InboxMessage], *, using: str) -> bool:
    """True if each row, or a duplicate of it, is stored."""
    return not rows or {(row.source, row.event_id) for row in rows} <= _ids(rows, using).keys()


def _ids(rows: Sequence[InboxMessage], using: str) -> dict[tuple[str, str], int]:
    found = InboxMessage.objects.using(using).filter(group=rows[0].group, event_id__in=[row.event_id for row in rows])
    return {(source, event_id): id for id, source, event_id in found.values_list(*_IDENTITY)}


def _require_room(rows: Sequence[InboxMessage], using: str) -> None:
    """Refuse rows that are too large for one statement: MySQL and MariaDB would close the connection."""
    if connections[using].vendor != "mysql":
        return
    # Drivers write bytes as hexadecimal digits and may escape every character of a text.
    size = 2 * sum(
        len(json.dumps([row.payload, row.headers])) + len(row.raw_key or b"") + len(row.raw_value or b"")
        for row in rows
    )
    if size < _SMALL_BYTES:
        return
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        (limit,) = cursor.fetchone()
    if size + _SMALL_BYTES > limit:
        raise DatabaseError(f"the statement takes up to {size} bytes; the database's max_allowed_packet is {limit}")


def publish_copy(row: InboxMessage, *, using: str) -> None:
    """Write the copy of a row that was added as dead; see ``dead_letters``."""
    if row.status == Status.DEAD:
        dead_letters.publish_copy(row, row.last_error, using=using)


def confirm(ids: Collection[int], *, using: str) -> None:
    """Check that rows added as consumed are still there, in the transaction that added them.

    A handler that swallowed a database error may have rolled them back.

    Raises:
        MessageNotFound, DatabaseError: the transaction must not be committed.
    """
    if InboxMessage.objects.using(using).filter(id__in=ids, status=Status.CONSUMED).count() != len(ids):
        raise MessageNotFound(min(ids))


def remove(ids: Collection[int], *, using: str) -> None:
    """Delete rows that this transaction added and that there is no time to handle."""
    InboxMessage.objects.using(using).filter(id__in=ids).delete()


def hold(row: InboxMessage, content: InboxMessage, until: datetime | timedelta, *, using: str) -> None:
    """Let a message that this transaction added wait behind an earlier one, uncounted.

    Raises:
        DatabaseError: its content is too large.
    """
    _require_room([content], using)
    rows = InboxMessage.objects.using(using).filter(id=row.id)
    transitions.requeue(rows, until, consumed_at=None, **{name: getattr(content, name) for name in CONTENT})


# pending -> pending


def lock_due(id: int, *, using: str) -> InboxMessage | None:
    """Lock a message; None if it is not due, or another session has locked it."""
    due = InboxMessage.objects.using(using).due().filter(id=id)
    return due.defer("payload", "headers", "raw_key", "raw_value").select_for_update(skip_locked=True).first()


def lock_unread(row: InboxMessage, *, using: str) -> InboxMessage | None:
    """Lock the stored row of a record that was not read yet; waits for others that read it."""
    same = InboxMessage.objects.using(using).filter(group=row.group, source="", event_id=row.event_id)
    return same.filter(status=Status.PENDING).defer("raw_value").select_for_update().first()


def count_delivery(
    row: InboxMessage, *, using: str, outlived: bool, wait: timedelta = timedelta(seconds=CLAIM_SECONDS)
) -> int:
    """Count a delivery before its handler runs, because the handler may kill the process; returns its number.

    Args:
        row: pending and locked.
        outlived: this process has counted the delivery before and is still alive.
        wait: how long the message is not due.
    """
    added = 0 if outlived else 1
    _pending(row.id, using).update(
        delivery_count=F("delivery_count") + added, next_retry_at=due_at(wait), updated_at=DatabaseNow()
    )
    return row.delivery_count + added


def uncount_delivery(row_id: int, *, using: str) -> None:
    """Take a counted delivery back, as neither mapper nor handler did anything wrong."""
    in_delivery(row_id, using=using).update(delivery_count=F("delivery_count") - 1, updated_at=DatabaseNow())


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
    pending = InboxMessage.objects.using(using).filter(status_is(Status.PENDING))
    return sum(
        pending.filter(id__in=ids[start : start + UPDATE_SIZE]).update(next_retry_at=until, updated_at=DatabaseNow())
        for start in range(0, len(ids), UPDATE_SIZE)
    )


def postpone_type(row: InboxMessage, until: datetime, *, using: str) -> None:
    """Let the due messages of a type and topic wait, uncounted, up to a thousand. In the transaction that locked ``row``."""
    due = InboxMessage.objects.using(using).due().filter(group=row.group, topic=row.topic, event_type=row.event_type)
    due = due.exclude(source="")  # not read yet, so of an unknown type
    ids = list(due.select_for_update(skip_locked=True).values_list("id", flat=True)[:UPDATE_SIZE])
    pending = InboxMessage.objects.using(using).filter(status_is(Status.PENDING), id__in=ids)
    pending.update(delivery_count=0, next_retry_at=until, updated_at=DatabaseNow())


def identify(row: InboxMessage, known: InboxMessage, *, using: str) -> bool:
    """Turn the row of an unread record into an event that is due at once.

    False if the event is already stored; the row is then consumed.

    Raises:
        DatabaseError: its content is too large.
    """
    _require_room([known], using)
    names = ("source", "event_id", "event_type", "event_version", "event_time", "message_key", *CONTENT)
    fields: dict[str, Any] = {name: getattr(known, name) for name in names}
    try:
        with transaction.atomic(using=using):
            transitions.requeue(_pending(row.id, using), timedelta(0), raw_key=None, **fields)
    except IntegrityError:
        mark_consumed(row, using=using)
        return False
    return True


def forget(row: InboxMessage, *, using: str) -> None:
    """Delete the row of a record that was stored before it was read and has nothing to handle."""
    InboxMessage.objects.using(using).filter(id=row.id, source="", last_error="").delete()


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
    changed = _pending(row.id, using).update(
        payload=None,
        headers={},
        content_type=None,
        raw_key=None,
        raw_value=None,
        status=Status.CONSUMED,
        next_retry_at=None,
        consumed_at=DatabaseNow(),
        updated_at=DatabaseNow(),
        last_error="",
    )
    if not changed:
        raise MessageNotFound(row.id)
    row.status = Status.CONSUMED
    release_next(row, using=using)
