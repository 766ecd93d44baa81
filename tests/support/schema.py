"""What the database knows of the tables of the outbox."""

from __future__ import annotations

import re
from typing import Any

from django.db import connection

TABLE = "django_outbox_outboxmessage"


def tables() -> set[str]:
    return set(connection.introspection.table_names())


def constraints(table: str = TABLE) -> dict[str, Any]:
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, table)


def schema() -> dict[str, Any]:
    """All that the database knows of the tables, but for the order of columns."""
    return {table: _schema_of(table) for table in tables() if table.startswith("django_outbox")}


def _without_casts(definition: str) -> str:
    """PostgreSQL casts the elements of an array in an index that was restored, and the whole array elsewhere."""
    return re.sub(r"::(character varying|text)(\[\])?|[()]", "", definition)


def _schema_of(table: str) -> Any:
    with connection.cursor() as cursor:
        columns = sorted(
            tuple(map(str, each)) for each in connection.introspection.get_table_description(cursor, table)
        )
        storage = None
        if connection.vendor == "postgresql":
            cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [table])
            storage = cursor.fetchall()
            cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s ORDER BY 1", [table])
            storage += [_without_casts(definition) for (definition,) in cursor.fetchall()]
    # SQLite numbers constraints that have no name.
    found = [
        ("" if "unnamed" in name or "fk_" in name else name, str(each)) for name, each in constraints(table).items()
    ]
    return columns, sorted(found), storage
