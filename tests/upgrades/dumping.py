"""Dumps the tables of the outbox as SQL that an empty database takes: one statement after the other, columns named."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import sqlparse
from django.db import connection

from tests.support.servers.mariadb import MariaDB
from tests.support.servers.postgres import PostgreSQL
from tests.upgrades.releases import TABLES

_COMMENTS = re.compile(r"\A(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", re.DOTALL)
MIGRATIONS = (
    "INSERT INTO django_migrations (app, name, applied) VALUES ('django_outbox', '{}', '2026-11-01 00:00:00');\n"
)


def dump() -> str:
    """The tables of the outbox in the default database, with their rows and the migrations that made them."""
    tables = sorted(name for name in connection.introspection.table_names() if name.startswith(TABLES))
    write = {"postgresql": _postgresql, "mysql": _mariadb, "sqlite": _sqlite}[connection.vendor]
    return write(tables) + "".join(MIGRATIONS.format(name) for name in _migrations())


def _migrations() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM django_migrations WHERE app = 'django_outbox' ORDER BY id")
        return [name for (name,) in cursor.fetchall()]


def _postgresql(tables: list[str]) -> str:
    database = connection.settings_dict
    options = ["--column-inserts", "--no-owner", "--no-privileges", "--no-comments"]
    address = [f"--host={database['HOST']}", f"--port={database['PORT']}", f"--username={database['USER']}"]
    chosen = [f"--table=public.{name}" for name in tables]
    text = _run(PostgreSQL.program("pg_dump"), *options, *address, *chosen, database["NAME"])
    text = re.sub(r"^\\(un)?restrict \w+$", "", text, flags=re.MULTILINE)  # commands of psql
    # Settings of this session, which older servers may not know.
    return _without(text, r"SET |SELECT pg_catalog\.set_config")


def _mariadb(tables: list[str]) -> str:
    database = connection.settings_dict
    options = [
        "--no-defaults",
        "--compact",
        "--complete-insert",
        "--skip-extended-insert",
        "--hex-blob",
        "--skip-triggers",
    ]
    address = [f"--host={database['HOST']}", f"--port={database['PORT']}", f"--user={database['USER']}"]
    text = _run(MariaDB.program("mariadb-dump"), *options, *address, database["NAME"], *tables)
    text = re.sub(r"( ENGINE=\w+) .*;", r"\1;", text)  # the collation is that of the database
    return _without(text, r"SET ")


def _sqlite(tables: list[str]) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql, tbl_name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
        lines = [sql for sql, table in cursor.fetchall() if table in tables]
        for table in tables:
            columns = [f'"{column.name}"' for column in connection.introspection.get_table_description(cursor, table)]
            quoted = " || ', ' || ".join(f"quote({column})" for column in columns)
            cursor.execute(f'SELECT {quoted} FROM "{table}" ORDER BY id')  # noqa: S608
            head = f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES'
            lines += [f"{head} ({values})" for (values,) in cursor.fetchall()]
    return "".join(f"{line};\n" for line in lines)


def _run(*command: Any) -> str:
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, timeout=120
    ).stdout.decode()


def _without(text: str, beginnings: str) -> str:
    """Leave out statements that begin so, and comments between statements."""
    bare = (_COMMENTS.sub("", statement) for statement in sqlparse.split(text))
    return "".join(
        f"{statement}\n" for statement in bare if statement.strip(";") and not re.match(beginnings, statement)
    )
