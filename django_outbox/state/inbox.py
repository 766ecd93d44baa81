"""The state machine of the inbox: every write of a received message's state.

::

            add                      mark_consumed
    record ─────> pending ──────────────────────────> consumed
      │ │           │  ^ mark_failed, put_back, postpone     ^
      │ │           v  └── retry (an operator)               │ add, with the handlers,
      │ └─────────> dead                                     │ in one transaction
      └──────────────────────────────────────────────────────┘

A record that a mapper of the project reads with care is pending before it is read; then ``identify`` makes an
event of it, or ``forget`` removes it.

``add`` inserts, and the unique key of group, source and event id decides which rows are new. All
other writes name in their WHERE clause the state that they leave. Each failure is also kept as a row
of its own. All take ``using``, the alias of the database, and times come from the database's own clock.
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
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import dead_letters, failures
from django_outbox.state import outbox as state
from django_outbox.state.backoff import backoff
from django_outbox.state.inbox_ordering import CLAIM_SECONDS, Blocker, messages, of_key
from django_outbox.state.inbox_rows import shown_key
from django_outbox.state.ordering import blocking_statuses, has_order

Status = InboxMessage.Status

_SMALL = 2**18
_CHUNK = 1000
_RETURNING = ("id", "source", "event_id")
_CONTENT: dict[str, Any] = {"payload": None, "headers": {}, "raw_key": None, "raw_value": None}


# record -> pending, consumed or dead


class SomeKnown(Exception):
    """Some of several rows were there already, and this database does not tell which."""


def add(rows: Sequence[InboxMessage], *, using: str) -> int:
    """Insert rows, but for those whose identity is there already; returns how many were new.

    Those that were new have an ``id`` afterwards. If another session is about to insert one of
    them, this waits until that transaction has ended.

    Raises:
        SomeKnown: only with several rows, on MySQL: roll back, then add them one by one.
        DatabaseError: they are too large.
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
            names = ", ".join(connection.ops.quote_name(name) for name in _RETURNING)
            cursor.execute(f"{statement} RETURNING {names}", parameters)
            ids = {(source, event_id): id for id, source, event_id in cursor.fetchall()}
        else:
            cursor.execute(statement, parameters)
            if cursor.rowcount not in (0, len(rows)):
                raise SomeKnown
            ids = _ids(rows, using) if cursor.rowcount else {}
    for row in rows:
        # Of copies within these rows the first is the one that was inserted.
        row.id = ids.pop((row.source, row.event_id), None)
    failed = [row for row in rows if row.id is not None and (row.retry_count or row.status == Status.DEAD)]
    if failed:
        failures.record_received(failed, 1, using=using)
    return sum(row.id is not None for row in rows)


def announce(row: InboxMessage, *, using: str) -> None:
    """Send a copy of a row that was added as dead; not before it is certain to stay."""
    if row.status == Status.DEAD:
        dead_letters.announce(row, row.last_error, row.last_error, group=row.group, using=using)


def _ids(rows: Sequence[InboxMessage], using: str) -> dict[tuple[str, str], int]:
    found = messages(using).filter(group=rows[0].group, event_id__in=[row.event_id for row in rows])
    return {(source, event_id): id for id, source, event_id in found.values_list(*_RETURNING)}


def _require_room(rows: Sequence[InboxMessage], using: str) -> None:
    """Refuse what MySQL and MariaDB would not take in one statement: they end the connection over it."""
    connection = connections[using]
    if connection.vendor != "mysql":
        return
    # Drivers write bytes as hexadecimal digits, and escape at most each character of a text.
    size = 2 * sum(
        len(json.dumps([row.payload, row.headers])) + len(row.raw_key or b"") + len(row.raw_value or b"")
        for row in rows
    )
    if size < _SMALL:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        (most,) = cursor.fetchone()
    if size + _SMALL > most:
        raise DatabaseError(
            f"it takes up to {size} bytes in a statement, and the database's max_allowed_packet is {most}"
        )


def are_known(rows: Sequence[InboxMessage], *, using: str) -> bool:
    """True if each of these has a row of its identity."""
    return not rows or {(row.source, row.event_id) for row in rows} <= _ids(rows, using).keys()


def confirm(ids: Collection[int], *, using: str) -> None:
    """Make sure that rows added as consumed are still there, in the transaction that added them.

    A handler that hid a database error may have undone them, or left a transaction that cannot be
    committed; then this raises.

    Raises:
        MessageNotFound, DatabaseError: nothing must be committed.
    """
    if messages(using).filter(id__in=ids, status=Status.CONSUMED).count() != len(ids):
        raise MessageNotFound(min(ids))


def take_back(ids: Collection[int], *, using: str) -> None:
    """Remove rows that this very transaction has added, as there is no time to handle them now."""
    messages(using).filter(id__in=ids).delete()


def hold(row: InboxMessage, content: InboxMessage, until: datetime | timedelta, *, using: str) -> None:
    """Let a message that this very transaction has added wait behind an earlier one, uncounted.

    Raises:
        DatabaseError: its content is too large.
    """
    _require_room([content], using)
    messages(using).filter(id=row.id).update(
        status=Status.PENDING,
        consumed_at=None,
        payload=content.payload,
        headers=content.headers,
        delivery_count=0,
        next_retry_at=_at(until),
    )


# pending -> pending


def next_due(group: str, *, using: str, only: int | None = None) -> InboxMessage | None:
    """Lock the message of a group that has been due for longest, but for those that others have locked.

    Args:
        group: of consumers.
        using: alias of the database.
        only: the id of the one that is wanted, if it is due; None takes any.
    """
    due = InboxMessage.objects.using(using).due().filter(group=group, **({} if only is None else {"id": only}))
    return due.defer("payload", "headers", "raw_key", "raw_value").select_for_update(skip_locked=True).first()


def lock_unread(record_row: InboxMessage, *, using: str) -> InboxMessage | None:
    """Lock the row that a record has already, by its place, if it is yet to be read; waits for others that read it."""
    same = messages(using).filter(group=record_row.group, source="", event_id=record_row.event_id)
    return same.filter(status=Status.PENDING).defer("raw_value").select_for_update().first()


def count_delivery(
    row: InboxMessage, *, using: str, outlived: bool, wait: timedelta = timedelta(seconds=CLAIM_SECONDS)
) -> None:
    """Count a delivery that may take the process down, before it can.

    Args:
        row: pending and locked.
        using: alias of the database.
        outlived: this process has counted it before and lives.
        wait: for how long it is not due.
    """
    messages(using).filter(id=row.id, status=Status.PENDING).update(
        delivery_count=F("delivery_count") + (0 if outlived else 1),
        next_retry_at=_at(wait),
        updated_at=DatabaseNow(),
    )


def postpone(row: InboxMessage, blocker: Blocker, *, using: str) -> int:
    """Let all that is behind a message, in its key, wait as long as it does, uncounted.

    All of it, so that a hundred thousand messages behind one that fails do not come up, one after
    the other, before anything else. Within a transaction. Returns how many messages wait longer
    than before.
    """
    until = _at(blocker.until)
    behind = of_key(row, using).filter(status=Status.PENDING, id__gt=blocker.id, next_retry_at__lt=until)
    # Others may be about to do the same from another end of the key: no waiting for one another.
    ids = list(behind.select_for_update(skip_locked=True).values_list("id", flat=True))
    # Has it ended meanwhile, then it has let the next one go, and that must not wait again. Asked now that they are
    # locked: if it ends after this, it waits for these locks before it lets the next one go.
    if not messages(using).filter(id=blocker.id, status__in=blocking_statuses()).exists():
        return 0
    # MySQL does not update a table that the same statement reads, and PostgreSQL, with old statistics, would join
    # a hundred thousand rows with each other one by one.
    return sum(
        messages(using)
        .filter(id__in=ids[start : start + _CHUNK], status=Status.PENDING)
        .update(next_retry_at=until, updated_at=DatabaseNow())
        for start in range(0, len(ids), _CHUNK)
    )


def mark_failed(
    row_id: int, error: BaseException | str, *, using: str, delay: timedelta | None = None
) -> InboxMessage | None:
    """Count a failure of the handler; returns the message: pending, or dead at the last.

    None if its delivery was over already.
    """
    with transaction.atomic(using=using):
        row = lock(row_id, using=using)
        if row is None:
            return None
        row.retry_count += 1
        alive = row.retry_count < row.max_retry
        row.status = Status.PENDING if alive else Status.DEAD
        row.last_error, row.fingerprint = failures.error_text(error), failures.fingerprint(error)
        wait = backoff(row.retry_count) if delay is None else delay
        messages(using).filter(id=row.id, status=Status.PENDING).update(
            status=row.status,
            retry_count=row.retry_count,
            delivery_count=0,  # the process outlived it
            next_retry_at=_at(wait) if alive else None,
            last_error=row.last_error,
            fingerprint=row.fingerprint,
            updated_at=DatabaseNow(),
        )
        failures.record_received([row], row.retry_count, using=using)
        if not alive:
            dead_letters.announce(row, error, row.last_error, group=row.group, using=using)
            _let_next_go(row, using)
        return row


def put_back(row_id: int, wait: timedelta, *, using: str) -> bool:
    """Let a message wait, uncounted, as it was not its fault; False if it was no longer pending."""
    return bool(
        messages(using)
        .filter(id=row_id, status=Status.PENDING)
        .update(delivery_count=0, next_retry_at=_at(wait), updated_at=DatabaseNow())
    )


def identify(row: InboxMessage, known: InboxMessage, *, using: str) -> bool:
    """Make an event of a record that could not be read before, due at once under its real identity.

    False if that event has come another way: then there is nothing left to do for this record.

    Raises:
        DatabaseError: its content is too large.
    """
    _require_room([known], using)
    names = ("source", "event_id", "event_type", "event_version", "event_time", "message_key", "payload", "headers")
    fields: dict[str, Any] = {name: getattr(known, name) for name in names}
    try:
        with transaction.atomic(using=using):
            messages(using).filter(id=row.id, status=Status.PENDING).update(
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
    """Remove the row of a record that was counted before it was read, as there is nothing to do for it."""
    messages(using).filter(id=row.id, source="", last_error="").delete()


# pending -> consumed


def lock(row_id: int, *, using: str) -> InboxMessage | None:
    """A message whose delivery is counted and not over, locked until the transaction ends; else None.

    Waits for another consumer that has it. That one's success or failure ends the delivery.
    """
    return messages(using).select_for_update().filter(id=row_id, status=Status.PENDING, delivery_count__gt=0).first()


def mark_consumed(row: InboxMessage, *, using: str) -> None:
    """Mark a locked, pending message as handled; what deduplication does not need is dropped.

    Raises:
        MessageNotFound: if the handler removed or changed the row itself.
    """
    changed = (
        messages(using)
        .filter(id=row.id, status=Status.PENDING)
        .update(
            **_CONTENT,
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
    _let_next_go(row, using)


# pending -> dead


def mark_dead(row_id: int, error: BaseException | str, *, using: str) -> InboxMessage | None:
    """Give up a message that can never be handled; None if its delivery was over already."""
    with transaction.atomic(using=using):
        row = lock(row_id, using=using)
        if row is not None:
            row.status = Status.DEAD
            row.last_error, row.fingerprint = failures.error_text(error), failures.fingerprint(error)
            if not row.source:
                row.message_key = shown_key(row.raw_key)  # it had none as long as it was not read
            messages(using).filter(id=row.id, status=Status.PENDING).update(
                status=row.status,
                message_key=row.message_key,
                next_retry_at=None,
                last_error=row.last_error,
                fingerprint=row.fingerprint,
                updated_at=DatabaseNow(),
            )
            failures.record_received([row], row.retry_count + 1, using=using)
            dead_letters.announce(row, error, row.last_error, group=row.group, using=using)
            _let_next_go(row, using)
        return row


# dead -> pending


def retry(chosen: QuerySet[Any], *, using: str, rate: int | None = None) -> int:
    """Give dead messages a new life; returns how many were dead and now are pending. See ``state.retry``."""
    return state.retry(chosen, using=using, rate=rate)


def _let_next_go(row: InboxMessage, using: str) -> None:
    """Let the next of a key be due at once, if it only waits for this one, which has ended."""
    if not has_order(row) or row.status in blocking_statuses():
        return
    behind = of_key(row, using).filter(status=Status.PENDING, id__gt=row.id).order_by("id")
    # Locked, and so as it is once another consumer has let it wait, which may be about to.
    next_id = behind.select_for_update().values_list("id", flat=True).first()
    if next_id is not None:
        messages(using).filter(
            id=next_id, status=Status.PENDING, retry_count=0, next_retry_at__gt=DatabaseNow()
        ).update(next_retry_at=DatabaseNow())


def _at(when: datetime | timedelta) -> Any:
    return DatabaseNow() + when if isinstance(when, timedelta) else when
