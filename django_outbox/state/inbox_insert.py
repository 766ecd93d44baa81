"""Inserting received events into the inbox. The unique key of group, source and event id finds duplicates."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from django.db import DatabaseError, connections
from django.db.models.constants import OnConflict
from django.db.models.sql import InsertQuery

from django_outbox.exceptions import MessageNotFound
from django_outbox.models import InboxMessage
from django_outbox.state import dead_letters, failures
from django_outbox.state.transitions import due_at

Status = InboxMessage.Status

_SMALL = 2**18
_RETURNING = ("id", "source", "event_id")


class PartlyInserted(Exception):
    """Only some rows were inserted, and this database does not return which."""


def add(rows: Sequence[InboxMessage], *, using: str) -> int:
    """Insert rows, except duplicates of stored rows; returns how many are new.

    New rows have an ``id`` afterwards. If another session is inserting one of them, this waits for that transaction.

    Raises:
        PartlyInserted: some of several rows are duplicates, on MySQL: roll back, then add them one by one.
        DatabaseError: the rows are too large.
    """
    if not rows:
        return 0
    require_room(rows, using=using)
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
    require_room([content], using=using)
    InboxMessage.objects.using(using).filter(id=row.id).update(
        status=Status.PENDING,
        consumed_at=None,
        payload=content.payload,
        headers=content.headers,
        delivery_count=0,
        next_retry_at=due_at(until),
    )


def require_room(rows: Sequence[InboxMessage], *, using: str) -> None:
    """Refuse rows that are too large for one statement: MySQL and MariaDB would close the connection."""
    connection = connections[using]
    if connection.vendor != "mysql":
        return
    # Drivers write bytes as hexadecimal digits and may escape every character of a text.
    size = 2 * sum(
        len(json.dumps([row.payload, row.headers])) + len(row.raw_key or b"") + len(row.raw_value or b"")
        for row in rows
    )
    if size < _SMALL:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        (limit,) = cursor.fetchone()
    if size + _SMALL > limit:
        raise DatabaseError(f"the statement takes up to {size} bytes; the database's max_allowed_packet is {limit}")


def _ids(rows: Sequence[InboxMessage], using: str) -> dict[tuple[str, str], int]:
    found = InboxMessage.objects.using(using).filter(group=rows[0].group, event_id__in=[row.event_id for row in rows])
    return {(source, event_id): id for id, source, event_id in found.values_list(*_RETURNING)}
