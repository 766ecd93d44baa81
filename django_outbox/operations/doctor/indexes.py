"""Indexes and constraints: whether all are there, work, and are of a size that fits what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import models

from django_outbox.models import OutboxMessage
from django_outbox.models.storage import PENDING_INDEX, PENDING_INDEX_DEFINITION
from django_outbox.operations.doctor.finding import Finding, fault, warning
from django_outbox.operations.doctor.subject import MODELS, Subject

LEAST_BLOAT_BYTES = 64 * 2**20
TIMES_TOO_LARGE = 4
ENTRY_BYTES = 20  # what an entry of a B-tree takes beside its values
FILL = 0.7  # of a page, as it comes out of splits


def missing(subject: Subject) -> Iterator[Finding]:
    """What the models say and the tables do not have."""
    introspection = subject.connection.introspection
    present = introspection.table_names()
    for model in MODELS:
        table = model._meta.db_table
        if table not in present:
            yield fault(
                f"The table {table} is not there.",
                "Nothing works without it.",
                f"manage.py migrate django_outbox{subject.migrate_option}",
            )
            continue
        with subject.connection.cursor() as cursor:
            found = introspection.get_constraints(cursor, table)
        yield from _missing_indexes(subject, model, found)
        yield from _missing_constraints(subject, model, found)


def _missing_indexes(subject: Subject, model: type[models.Model], found: dict[str, Any]) -> Iterator[Finding]:
    slow = "What looks by it walks the whole table instead, at each look."
    for index in model._meta.indexes:
        if index.name not in found:
            statement = _statement(subject, index, model)
            yield fault(f"{model._meta.db_table} lacks the index {index.name}.", slow, statement)
    if model is OutboxMessage and subject.connection.vendor == "postgresql" and PENDING_INDEX not in found:
        yield fault(
            f"{model._meta.db_table} lacks the index {PENDING_INDEX}.",
            slow,
            f"CREATE INDEX CONCURRENTLY {PENDING_INDEX} ON {model._meta.db_table} {PENDING_INDEX_DEFINITION}",
        )


def _missing_constraints(subject: Subject, model: type[models.Model], found: dict[str, Any]) -> Iterator[Finding]:
    for constraint in model._meta.constraints:
        if constraint.name not in found:
            find = fault if isinstance(constraint, models.UniqueConstraint) else warning
            yield find(
                f"{model._meta.db_table} lacks the constraint {constraint.name}.",
                "Nothing keeps rows from a state that must not be.",
                _statement(subject, constraint, model),
            )
    unique = [each["columns"] for each in found.values() if each["unique"] or each["primary_key"]]
    for field in model._meta.local_fields:
        if field.unique and [field.column] not in unique:
            yield fault(
                f"{model._meta.db_table}.{field.column} is not unique.",
                "The same message may be stored twice, and looking for one walks the whole table.",
                f"CREATE UNIQUE INDEX{_concurrently(subject)} ON {model._meta.db_table} ({field.column})",
            )


def _statement(subject: Subject, part: Any, model: type[models.Model]) -> str:
    """The SQL that makes an index or a constraint."""
    if subject.connection.vendor == "sqlite" and isinstance(part, models.CheckConstraint):
        return "SQLite adds no constraint to a table that is there: make the database anew with manage.py migrate."
    editor = subject.connection.schema_editor(collect_sql=True)
    sql = str(part.create_sql(model, editor))
    return sql.replace("CREATE INDEX", f"CREATE INDEX{_concurrently(subject)}", 1)


def _concurrently(subject: Subject) -> str:
    """Else nobody writes while the index is built."""
    return " CONCURRENTLY" if subject.connection.vendor == "postgresql" else ""


def invalid(subject: Subject) -> Iterator[Finding]:
    """Indexes that PostgreSQL keeps up and does not use: what is left of a CREATE INDEX CONCURRENTLY that failed."""
    found = subject.rows(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid "
        "WHERE t.relname = ANY(%s) AND pg_table_is_visible(t.oid) AND NOT (i.indisvalid AND i.indisready) ORDER BY 1",
        subject.tables,
    )
    for (name,) in found:
        yield fault(
            f"The index {name} is invalid.",
            "It is not used, and slows down each write all the same: building it failed or is still going on.",
            f"REINDEX INDEX CONCURRENTLY {name}",
        )


def bloated(
    subject: Subject, *, least_bytes: int = LEAST_BLOAT_BYTES, times: float = TIMES_TOO_LARGE
) -> Iterator[Finding]:
    """Indexes that are far larger than what they hold, by the statistics of the last vacuum."""
    found = subject.rows(
        """
        SELECT c.relname, pg_relation_size(c.oid), c.reltuples,
               (SELECT sum(coalesce(s.avg_width, 16)) FROM pg_attribute a LEFT JOIN pg_stats s
                 ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = a.attname
                 WHERE a.attrelid = c.oid)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE t.relname = ANY(%s) AND pg_table_is_visible(t.oid) AND c.reltuples >= 0 ORDER BY 1
        """,
        subject.tables,
    )
    for name, size, entries, width in found:
        fitting = entries * (float(width) + ENTRY_BYTES) / FILL
        if size > least_bytes + times * fitting:
            yield warning(
                f"The index {name} takes {size / 2**20:,.0f} MB for {entries:,.0f} entries.",
                f"About {max(fitting / 2**20, 0.1):,.1f} MB would do. It takes memory from others, and vacuums take longer.",
                f"REINDEX INDEX CONCURRENTLY {name}",
            )
