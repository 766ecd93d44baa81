"""System checks that query a database server (``migrate``, ``check --database``), and the check of routers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import connections, router, transaction

from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.operations.doctor import database
from django_outbox.operations.doctor.base import Installation, Level
from django_outbox.worker.database_errors import UNAVAILABLE

# By vendor: the required encoding, and the query for the encoding in use.
_ENCODINGS = {"postgresql": ("UTF8", "SHOW server_encoding"), "mysql": ("utf8mb4", "SELECT @@character_set_database")}


def check_servers(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the servers of the databases with an outbox. Django reports those that do not answer."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if not router.allow_migrate_model(alias, OutboxMessage):
            continue
        try:
            with transaction.atomic(using=alias):  # psycopg sets the isolation level only in a transaction
                found += _check_server(Installation(alias))
        except UNAVAILABLE:
            continue
    return found


def _check_server(installation: Installation) -> Iterator[CheckMessage]:
    vendor = installation.connection.vendor
    if vendor not in _ENCODINGS:
        return
    for finding in database.isolation(installation):
        text = f"The database {installation.using!r}: {finding.summary} {finding.why}"
        yield Warning(text, hint=finding.remedy, id="django_outbox.W004")
    if vendor == "mysql":
        for finding in database.engine(installation):
            yield Error(f"{finding.summary} {finding.why}", hint=finding.remedy, id="django_outbox.E007")
    required, query = _ENCODINGS[vendor]
    encoding = str(installation.value(query))
    if encoding != required:
        name = installation.connection.settings_dict["NAME"]
        yield Error(
            f"The database {installation.using!r} has the encoding {encoding}, which cannot store every character.",
            hint=f"ALTER DATABASE {name} CHARACTER SET utf8mb4, before the tables are created."
            if required == "utf8mb4"
            else f"Recreate it: CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0.",
            id="django_outbox.E008",
        )


def check_routing(**kwargs: Any) -> list[CheckMessage]:
    """Check that all tables of the outbox are in one database, with the project's models."""
    home = outbox_database()
    problems: list[str] = []
    if separate := database.separate_models(home):
        problems.append(f"{separate} are written to another database than OutboxMessage, to {home!r}.")
    if home not in connections:
        problems.append(f"DATABASE_ROUTERS route the outbox to {home!r}, which is not in DATABASES.")
    elif not router.allow_migrate_model(home, OutboxMessage):
        problems.append(
            f"The outbox is written to the database {home!r}, but DATABASE_ROUTERS do not allow its migrations there."
        )
    hint = "Route the whole app django_outbox to one database in DATABASE_ROUTERS, and migrate it there."
    found: list[CheckMessage] = [Error(text, hint=hint, id="django_outbox.E009") for text in problems]
    for finding in database.models_elsewhere(home) if home in connections else ():
        if finding.level == Level.FAULT:
            text = f"No model of this project is in the database of the outbox. {finding.summary} {finding.why}"
            found.append(Warning(text, hint=finding.remedy, id="django_outbox.W009"))
    return found
