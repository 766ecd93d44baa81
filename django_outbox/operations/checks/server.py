"""System checks that ask a database's server, as ``migrate`` and ``check --database`` have them made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import DEFAULT_DB_ALIAS, connections, router, transaction

from django_outbox.models import OutboxMessage
from django_outbox.operations.doctor import database
from django_outbox.operations.doctor.finding import Level
from django_outbox.operations.doctor.subject import MODELS, Subject
from django_outbox.worker.database_errors import UNAVAILABLE

# By vendor: what the encoding has to be, and how to ask for it.
_ENCODINGS = {
    "postgresql": ("UTF8", "SHOW server_encoding"),
    "mysql": ("utf8mb4", "SELECT @@character_set_database"),
}


def check_servers(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the servers of the databases that hold an outbox. One that does not answer is for others to tell."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if not router.allow_migrate_model(alias, OutboxMessage):
            continue
        try:
            with transaction.atomic(using=alias):  # whose level of isolation psycopg tells the server only then
                found += _check_server(Subject(alias))
        except UNAVAILABLE:
            continue
    return found


def _check_server(subject: Subject) -> Iterator[CheckMessage]:
    vendor = subject.connection.vendor
    if vendor not in _ENCODINGS:
        return
    for finding in database.isolation(subject):
        text = f"The database {subject.using!r}: {finding.summary} {finding.why}"
        yield Warning(text, hint=finding.remedy, id="django_outbox.W004")
    if vendor == "mysql":
        for finding in database.engine(subject):
            yield Error(f"{finding.summary} {finding.why}", hint=finding.remedy, id="django_outbox.E007")
    yield from _encoding(subject)


def _encoding(subject: Subject) -> Iterator[CheckMessage]:
    wanted, query = _ENCODINGS[subject.connection.vendor]
    encoding = str(subject.value(query))
    if encoding != wanted:
        name = subject.connection.settings_dict["NAME"]
        yield Error(
            f"The database {subject.using!r} has the encoding {encoding}, which cannot hold every text.",
            hint=f"ALTER DATABASE {name} CHARACTER SET utf8mb4, before the tables are made."
            if wanted == "utf8mb4"
            else f"Make it anew: CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0.",
            id="django_outbox.E008",
        )


def check_routing(**kwargs: Any) -> list[CheckMessage]:
    """Check that all tables of the outbox are made where they are written, and that this is beside the project's."""
    homes = {model: router.db_for_write(model) or DEFAULT_DB_ALIAS for model in MODELS}
    home = homes[OutboxMessage]
    strangers = [model.__name__ for model, alias in homes.items() if alias != home]
    hint = "Let DATABASE_ROUTERS send all of the app django_outbox to one database, and migrate it there."
    found: list[CheckMessage] = []
    if strangers:
        text = f"{', '.join(strangers)} are written to another database than OutboxMessage, to {home!r}."
        found.append(Error(text, hint=hint, id="django_outbox.E009"))
    if home not in connections:
        text = f"DATABASE_ROUTERS send the outbox to {home!r}, which is not in DATABASES."
        found.append(Error(text, hint=hint, id="django_outbox.E009"))
    elif not router.allow_migrate_model(home, OutboxMessage):
        text = f"The outbox is written to the database {home!r}, where DATABASE_ROUTERS do not let it be migrated."
        found.append(Error(text, hint=hint, id="django_outbox.E009"))
    for finding in database.models_elsewhere(home) if home in connections else ():
        if finding.level == Level.FAULT:
            text = f"No model of this project is in the database of the outbox. {finding.summary} {finding.why}"
            found.append(Warning(text, hint=finding.remedy, id="django_outbox.W009"))
    return found
