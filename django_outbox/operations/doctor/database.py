"""The settings and the database: system checks, migrations, transaction isolation, clock, routing and engines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from django.apps import apps
from django.core.checks import ERROR, run_checks
from django.db import DEFAULT_DB_ALIAS, router
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model

from django_outbox.conf import settings
from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.operations.counts import counted
from django_outbox.operations.doctor.base import MODELS, Finding, Installation, fault, note, warning

utc_now = partial(datetime.now, UTC)
CLOCK_TOLERANCE = timedelta(seconds=2)
# System checks that report the same as other checks of the doctor.
REPORTED_ELSEWHERE = ("django_outbox.E007", "django_outbox.E009", "django_outbox.W004", "django_outbox.W009")


def answers(installation: Installation) -> Iterator[Finding]:
    """Raises the database's error if it does not answer."""
    installation.value("SELECT 1")
    yield from ()


def migrations(installation: Installation) -> Iterator[Finding]:
    """Migrations of the outbox that are not applied."""
    executor = MigrationExecutor(installation.connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes("django_outbox"))
    if pending := [migration.name for migration, _ in plan if migration.app_label == "django_outbox"]:
        yield fault(
            f"{counted(len(pending), 'migration')} not applied: {', '.join(pending)}.",
            "Relays and consumers do not start until all are applied.",
            f"manage.py migrate django_outbox{installation.migrate_option}",
        )


def system_checks(installation: Installation) -> Iterator[Finding]:
    """What ``manage.py check --database`` reports of the outbox."""
    for message in run_checks(databases=[installation.using]):
        is_ours = str(message.id).startswith("django_outbox.") and message.id not in REPORTED_ELSEWHERE
        if is_ours and not message.is_silenced():
            find = fault if message.level >= ERROR else warning
            yield find(message.msg, f"({message.id})", str(message.hint or ""))


def isolation(installation: Installation) -> Iterator[Finding]:
    """An isolation level that makes relays and consumers fail more often than necessary."""
    options = f'DATABASES["{installation.using}"]["OPTIONS"]'
    if installation.connection.vendor == "postgresql":
        query = "SHOW transaction_isolation"
        repeatable_read = (
            "A worker that waits for a row locked by another fails with a serialization failure and starts over, "
            "instead of reading the row as it is then."
        )
        remedy = (
            f"Remove \"isolation_level\" from {options}, and set default_transaction_isolation to 'read committed' for "
            "server and role. If other code needs a higher level, give relay and consumer their own alias."
        )
    else:
        mariadb = getattr(installation.connection, "mysql_is_mariadb", False)
        query = "SELECT @@tx_isolation" if mariadb else "SELECT @@transaction_isolation"
        repeatable_read = (
            "InnoDB then also locks the gaps between rows: relays block publishers and deadlock with them."
        )
        remedy = f'{options}["isolation_level"] = "read committed" (Django\'s default)'
    level = str(installation.value(query)).lower().replace("-", " ")
    if level == "serializable":
        yield warning(
            "Transactions are SERIALIZABLE.",
            "The database may refuse a relay's transaction after its batch was sent: the batch is then sent again, and "
            "consumers skip the duplicates. Nothing is lost, but much is done twice.",
            remedy,
        )
    elif level == "repeatable read":
        yield warning("Transactions are REPEATABLE READ.", repeatable_read, remedy)


def clocks(installation: Installation) -> Iterator[Finding]:
    """The clocks of this machine and of the database differ."""
    before = utc_now()
    if installation.connection.vendor == "postgresql":  # with USE_TZ = False, a time would be in the session's zone
        seconds = installation.value("SELECT extract(epoch FROM clock_timestamp())")
        database_time = datetime.fromtimestamp(float(seconds), UTC)
    else:
        database_time = installation.value("SELECT UTC_TIMESTAMP(6)").replace(tzinfo=UTC)
    uncertainty = (utc_now() - before) / 2
    difference = database_time - (before + uncertainty)
    if abs(difference) > CLOCK_TOLERANCE + uncertainty:
        direction = "ahead of" if difference > timedelta(0) else "behind"
        yield warning(
            f"The database's clock is {abs(difference).total_seconds():.1f} s {direction} this machine's.",
            "Messages become due by the database's clock; throughput is recorded by the workers' clocks. Ages and rates "
            "are off by the difference.",
            "Synchronize both by NTP: chronyc tracking (or timedatectl) shows the error of each.",
        )


def routing(installation: Installation) -> Iterator[Finding]:
    """Routers that separate the outbox from the models in whose transactions it is written."""
    home = outbox_database()
    if home != installation.using and not _is_routed():
        yield note(
            f"publish() writes to the database {home!r} unless it is called with using={installation.using!r}.",
            f"This run examines {installation.using!r}. Messages published without using= are not stored here.",
            "Nothing, if all messages for this database are published with using=. Otherwise route django_outbox here "
            "in DATABASE_ROUTERS.",
        )
    elif home != installation.using:
        yield fault(
            f"publish() writes to the database {home!r}, and this is {installation.using!r}.",
            "A relay for this database never sees the published messages.",
            f"manage.py outbox_doctor --database {home}, and the same for outbox_relay and outbox_consume; or route "
            "django_outbox here in DATABASE_ROUTERS",
        )
    if separate := separate_models(home):
        yield fault(
            f"{separate} are not in the database of OutboxMessage, {home!r}.",
            "All tables of the outbox are written in one transaction.",
            "Route the whole app django_outbox to one database in DATABASE_ROUTERS.",
        )
    yield from models_elsewhere(home)


def separate_models(home: str) -> str:
    """The names of our models that are written to another database."""
    return ", ".join(model.__name__ for model in MODELS if (router.db_for_write(model) or DEFAULT_DB_ALIAS) != home)


def _is_routed() -> bool:
    """True if a router names the database of the outbox, rather than Django's default."""
    return any(each.db_for_write(OutboxMessage) for each in router.routers if hasattr(each, "db_for_write"))


def models_elsewhere(home: str) -> Iterator[Finding]:
    """Models of the project in another database than the outbox; a fault if all are."""
    elsewhere: dict[str, list[str]] = {}
    some_at_home = False
    for model in _project_models():
        alias = router.db_for_write(model) or DEFAULT_DB_ALIAS
        if alias == home:
            some_at_home = True
        else:
            elsewhere.setdefault(alias, []).append(model._meta.label)
    for alias, models in elsewhere.items():
        shown = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
        find = fault if not some_at_home else note if settings.require_transaction else warning
        yield find(
            f"{shown} are written to the database {alias!r}, the outbox to {home!r}.",
            "A message and the change that it is about share a transaction only within one database. Otherwise the "
            "change may be committed without the message, or the message without the change.",
            f"If these models publish: route django_outbox to {alias!r} as well, or publish with using={alias!r} and run "
            f"a relay and a consumer with --database {alias}.",
        )


def _project_models() -> list[type[Model]]:
    """Models outside of site-packages; if there are none, all but Django's and ours."""
    found = [
        (model, app)
        for model in apps.get_models()
        if (app := model._meta.app_config) is not None
        and model._meta.managed
        and app.name != "django_outbox"
        and not app.name.startswith("django.contrib.")
    ]
    own = [model for model, app in found if not {"site-packages", "dist-packages"} & set(Path(app.path).parts)]
    return own or [model for model, _ in found]


def engine(installation: Installation) -> Iterator[Finding]:
    """Tables of MySQL or MariaDB without transactions."""
    found = installation.rows(
        "SELECT table_name, engine FROM information_schema.tables "
        "WHERE table_schema = database() AND table_name IN %s AND engine <> 'InnoDB'",
        tuple(installation.tables),
    )
    for table, name in found:
        yield fault(
            f"The table {table} uses the engine {name}.",
            "This engine has no transactions and no row locks: messages get lost or are sent several times.",
            f"ALTER TABLE {table} ENGINE = InnoDB",
        )
