"""Indexes and constraints: whether they exist, are valid, and are not bloated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import models

from django_outbox.models import OutboxMessage
from django_outbox.models.storage import INDEXES
from django_outbox.operations.doctor.base import MODELS, Finding, Installation, fault, warning

TOLERATED_BYTES = 64 * 2**20
TIMES_TOO_LARGE = 4
ENTRY_BYTES = 20  # overhead of an entry of a B-tree
FILL = 0.7  # share of a page that is used after splits


def missing(installation: Installation) -> Iterator[Finding]:
    """Tables, indexes and constraints of the models that the database does not have."""
    introspection = installation.connection.introspection
    present = introspection.table_names()
    for model in MODELS:
        table = model._meta.db_table
        if table not in present:
            yield fault(
                f"The table {table} does not exist.",
                "Nothing works without it.",
                f"manage.py migrate django_outbox{installation.migrate_option}",
            )
            continue
        with installation.connection.cursor() as cursor:
            found = introspection.get_constraints(cursor, table)
        lacking = {
            index.name: _statement(installation, index, model)
            for index in model._meta.indexes
            if index.name not in found
        }
        if model is OutboxMessage and installation.connection.vendor == "postgresql":
            lacking |= {
                name: f"CREATE INDEX CONCURRENTLY {name} ON {table} {definition}"
                for name, definition in INDEXES.items()
                if name not in found
            }
        for name, create in lacking.items():
            yield fault(
                f"{table} lacks the index {name}.", "Queries that need it read the whole table instead.", create
            )
        yield from _missing_constraints(installation, model, found)


def _missing_constraints(
    installation: Installation, model: type[models.Model], found: dict[str, Any]
) -> Iterator[Finding]:
    table = model._meta.db_table
    for constraint in model._meta.constraints:
        if constraint.name not in found:
            find = fault if isinstance(constraint, models.UniqueConstraint) else warning
            yield find(
                f"{table} lacks the constraint {constraint.name}.",
                "The database does not reject invalid rows.",
                _statement(installation, constraint, model),
            )
    unique = [each["columns"] for each in found.values() if each["unique"] or each["primary_key"]]
    for field in model._meta.local_fields:
        if field.unique and [field.column] not in unique:
            yield fault(
                f"{table}.{field.column} is not unique.",
                "A message may be stored twice, and looking one up reads the whole table.",
                f"CREATE UNIQUE INDEX{_concurrently(installation)} ON {table} ({field.column})",
            )


def _statement(installation: Installation, part: Any, model: type[models.Model]) -> str:
    """The SQL that creates an index or a constraint."""
    if installation.connection.vendor == "sqlite" and isinstance(part, models.CheckConstraint):
        return "SQLite cannot add a constraint to a table: recreate the database with manage.py migrate."
    editor = installation.connection.schema_editor(collect_sql=True)
    sql = str(part.create_sql(model, editor))
    return sql.replace("CREATE INDEX", f"CREATE INDEX{_concurrently(installation)}", 1)


def _concurrently(installation: Installation) -> str:
    """Without it, building the index blocks writes."""
    return " CONCURRENTLY" if installation.connection.vendor == "postgresql" else ""


def invalid(installation: Installation) -> Iterator[Finding]:
    """Indexes that PostgreSQL updates but does not use, as after a failed CREATE INDEX CONCURRENTLY."""
    found = installation.rows(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid "
        "WHERE t.relname = ANY(%s) AND pg_table_is_visible(t.oid) AND NOT (i.indisvalid AND i.indisready) ORDER BY 1",
        installation.tables,
    )
    for (name,) in found:
        yield fault(
            f"The index {name} is invalid.",
            "Queries do not use it, but every write updates it. Building it failed or is still in progress.",
            f"REINDEX INDEX CONCURRENTLY {name}",
        )


def bloated(installation: Installation) -> Iterator[Finding]:
    """Indexes that are much larger than their entries, by the statistics of the last vacuum."""
    found = installation.rows(
        """
        SELECT c.relname, pg_relation_size(c.oid), c.reltuples,
               (SELECT sum(coalesce(s.avg_width, 16)) FROM pg_attribute a LEFT JOIN pg_stats s
                 ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = a.attname
                 WHERE a.attrelid = c.oid)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE t.relname = ANY(%s) AND pg_table_is_visible(t.oid) AND c.reltuples >= 0 ORDER BY 1
        """,
        installation.tables,
    )
    for name, size, entries, width in found:
        needed = entries * (float(width) + ENTRY_BYTES) / FILL
        if size > TOLERATED_BYTES + TIMES_TOO_LARGE * needed:
            yield warning(
                f"The index {name} takes {size / 2**20:,.0f} MB for {entries:,.0f} entries.",
                f"About {max(needed / 2**20, 0.1):,.1f} MB would be enough. A bloated index wastes memory and slows "
                "vacuum down.",
                f"REINDEX INDEX CONCURRENTLY {name}",
            )
