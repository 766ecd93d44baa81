"""What the database knows of the tables of the outbox."""

from __future__ import annotations

import re
from typing import Any

from django.db import connection

TABLE = "django_outbox_outboxmessage"

_POSTGRESQL = """
    SELECT indexdef FROM pg_indexes WHERE tablename = %(table)s
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = %(table)s::regclass AND contype <> 'n'  -- whether a column may be NULL is part of the column
    UNION ALL SELECT reloptions::text FROM pg_class WHERE relname = %(table)s
"""
_MARIADB = """
    SELECT CONCAT(constraint_name, ': ', check_clause) FROM information_schema.check_constraints
    WHERE constraint_schema = DATABASE() AND table_name = %(table)s
"""


def tables() -> set[str]:
    return set(connection.introspection.table_names())


def constraints(table: str = TABLE) -> dict[str, Any]:
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, table)


def schema() -> dict[str, Any]:
    """All that the database knows of the tables, but for the order of columns."""
    return {table: _schema_of(table) for table in tables() if table.startswith("django_outbox")}


def _schema_of(table: str) -> Any:
    with connection.cursor() as cursor:
        columns = sorted(
            tuple(map(str, each)) for each in connection.introspection.get_table_description(cursor, table)
        )
    # SQLite numbers constraints that have no name.
    found = [
        ("" if "unnamed" in name or "fk_" in name else name, str(each)) for name, each in constraints(table).items()
    ]
    return columns, sorted(found), sorted(_definitions(table))


def _definitions(table: str) -> list[str]:
    """Checks, and indexes with their conditions, in the words of the database."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sql FROM sqlite_master WHERE tbl_name = %s AND sql IS NOT NULL", [table])
            # Django 6.1 writes conditions on a boolean without "= 1".
            return [part for (sql,) in cursor.fetchall() for part in _parts(sql.replace('"final" = 1', '"final"'))]
        cursor.execute(_POSTGRESQL if connection.vendor == "postgresql" else _MARIADB, {"table": table})
        return [str(definition) for (definition,) in cursor.fetchall()]


def _parts(sql: str) -> list[str]:
    """The parts of ``CREATE TABLE``, which are separated by commas outside of inner parentheses; or another statement."""
    if not sql.startswith("CREATE TABLE"):
        return [sql]
    parts, depth = [""], 0
    for token in re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|.", sql.partition("(")[2].rpartition(")")[0], re.DOTALL):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]
