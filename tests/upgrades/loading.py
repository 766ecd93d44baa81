"""Loads the dump of a release into the default database."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import sqlparse
from django.core.management import call_command
from django.db import connection, transaction

from tests.upgrades.releases import TABLES, dump_of


def load_database(release: str) -> None:
    """Replace the tables of the outbox with those of a release."""
    drop_tables()
    _execute(_statements(release))


def load_dump(text: str) -> None:
    """Replace the tables of the outbox with those of a dump."""
    drop_tables()
    _execute(sqlparse.split(text))


def load_rows(release: str) -> None:
    """Insert what a release inserted into today's tables, as its code does while both versions run."""
    # PostgreSQL: with the numbers that its code would have taken from sequences.
    heads = (
        f"INSERT INTO public.{TABLES}",
        f'INSERT INTO "{TABLES}',
        f"INSERT INTO `{TABLES}",
        "SELECT pg_catalog.setval",
    )
    _execute([statement for statement in _statements(release) if statement.startswith(heads)])


def drop_tables() -> None:
    """Drop the tables of the outbox and forget their migrations, whichever release they are of."""
    tables = [name for name in connection.introspection.table_names() if name.startswith(TABLES)]
    quoted = (connection.ops.quote_name(name) for name in tables)
    cascade = " CASCADE" if connection.vendor == "postgresql" else ""
    drops = [f"DROP TABLE {name}{cascade}" for name in quoted]
    _execute([*drops, "DELETE FROM django_migrations WHERE app = 'django_outbox'"])


def renew_tables() -> None:
    """Leave the tables empty and of today."""
    drop_tables()
    call_command("migrate", "django_outbox", verbosity=0)


def _statements(release: str) -> tuple[str, ...]:
    return _split(dump_of(release, connection.vendor))


@cache
def _split(text: str) -> tuple[str, ...]:
    """Split a dump once, since that takes a moment and many tests load it."""
    return tuple(sqlparse.split(text))


def _execute(statements: Iterable[str]) -> None:
    """Execute statements whose order no foreign key minds."""
    # PostgreSQL checks foreign keys at the commit.
    with connection.constraint_checks_disabled(), transaction.atomic(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
