"""The outbox table of a run: filling it with equal rows, emptying it, checking what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from benchmarks import tables
from benchmarks.payloads import KEYS, payload
from django_outbox.models import OutboxMessage

__all__ = ["KEYS", "payload"]

TABLE = OutboxMessage._meta.db_table
# Milliseconds first, as the package's own: the unique index grows at its end.
UUID7 = """(
    lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
    || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14)
)::uuid"""


def empty() -> None:
    """Take all rows away, those of the handlers too."""
    tables.empty(TABLE, "benchmarks_effect")


@contextmanager
def another_table() -> Iterator[None]:
    """For the block, an empty table in the place of the one that is there."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {TABLE} RENAME TO {TABLE}_aside")
        cursor.execute(f"CREATE TABLE {TABLE} (LIKE {TABLE}_aside INCLUDING ALL)")
        try:
            yield
        finally:
            cursor.execute(f"DROP TABLE {TABLE}")
            cursor.execute(f"ALTER TABLE {TABLE}_aside RENAME TO {TABLE}")


def settle() -> None:
    """Let nothing that was done before fall into the run that follows."""
    tables.settle(TABLE)


def fill(
    rows: int,
    *,
    topic: str,
    keys: int = KEYS,
    event_type: str = "bench.sql",
    status: str = "pending",
    days_ago: int = 0,
    publish_count: int = 0,
) -> None:
    """Insert due messages (or, with ``status``, others) as fast as the database can, keys at random."""
    then = f"statement_timestamp() - interval '{int(days_ago)} days'"
    expressions = {
        "event_id": UUID7,
        "message_key": f"'customer-' || floor(random() * {int(keys)})::int",
        "next_retry_at": "statement_timestamp()" if status == "pending" else "NULL",
        "consumed_at": then if status == "consumed" else "NULL",
        "created_at": then,
        "updated_at": then,
    }
    values = {"event_type": event_type, "topic": topic, "payload": payload(), "status": status}
    model = OutboxMessage(**values, publish_count=publish_count)
    columns, parts, parameters = [], [], []
    for field in OutboxMessage._meta.concrete_fields:
        if field.primary_key:
            continue
        columns.append(connection.ops.quote_name(field.column or field.name))
        if field.name in expressions:
            parts.append(expressions[field.name])
        else:
            parts.append("%s")
            parameters.append(field.get_db_prep_save(getattr(model, field.attname), connection))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.5)")
        cursor.execute(
            f"INSERT INTO {TABLE} ({', '.join(columns)}) SELECT {', '.join(parts)} FROM generate_series(1, %s)",
            [*parameters, rows],
        )
    settle()


def count(status: str) -> int:
    """How many messages have this status."""
    return OutboxMessage.objects.filter(status=status).count()
