"""The database itself: whether its tables are up to date, how its transactions work, what time it has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, router
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model

from django_outbox.conf import settings
from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import MODELS, Subject
from django_outbox.operations.stats import counted

CLOCKS_APART = timedelta(seconds=2)


def answers(subject: Subject) -> Iterator[Finding]:
    """Raises whatever the database does if it does not answer."""
    subject.value("SELECT 1")
    yield from ()


def migrations(subject: Subject) -> Iterator[Finding]:
    """Migrations of the outbox that are not applied."""
    executor = MigrationExecutor(subject.connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "django_outbox"]
    pending = [
        migration.name for migration, _ in executor.migration_plan(targets) if migration.app_label == targets[0][0]
    ]
    if pending:
        yield fault(
            f"{counted(len(pending), 'migration')} not applied: {', '.join(pending)}.",
            "Relay and consumer do not start before they are.",
            f"manage.py migrate django_outbox{subject.migrate_option}",
        )


def isolation(subject: Subject) -> Iterator[Finding]:
    """A level of isolation at which the work of relay and consumer fails more often than it has to."""
    level = str(subject.value(_isolation_query(subject))).lower().replace("-", " ")
    if level == "serializable":
        yield warning(
            "Transactions are SERIALIZABLE.",
            "The database may refuse a relay's transaction when its batch is sent already: the batch is then sent once "
            "more, and consumers skip the copies. Nothing is lost, but much is done twice.",
            _isolation_remedy(subject),
        )
    elif level == "repeatable read":
        why = (
            "Workers that wait for each other's rows fail with a serialization failure and begin anew, instead of "
            "seeing the rows as they are by then."
            if subject.connection.vendor == "postgresql"
            else "InnoDB then also locks the gaps between rows: relays make those wait who publish, and run into "
            "deadlocks with them."
        )
        yield warning("Transactions are REPEATABLE READ.", why, _isolation_remedy(subject))


def _isolation_query(subject: Subject) -> str:
    if subject.connection.vendor == "postgresql":
        return "SHOW transaction_isolation"
    mariadb = getattr(subject.connection, "mysql_is_mariadb", False)
    return "SELECT @@tx_isolation" if mariadb else "SELECT @@transaction_isolation"


def _isolation_remedy(subject: Subject) -> str:
    if subject.connection.vendor == "postgresql":
        return (
            f'Leave "isolation_level" out of DATABASES["{subject.using}"]["OPTIONS"], and see that neither server nor role '
            "has another default_transaction_isolation than 'read committed'. Where other code needs more, give relay "
            "and consumer an alias of their own."
        )
    return f'DATABASES["{subject.using}"]["OPTIONS"]["isolation_level"] = "read committed" (Django\'s default)'


def clocks(subject: Subject, *, tolerance: timedelta = CLOCKS_APART) -> Iterator[Finding]:
    """This machine and the database have different times."""
    before = subject.clock()
    if subject.connection.vendor == "postgresql":  # with USE_TZ = False, a time would come in the session's zone
        seconds = subject.value("SELECT extract(epoch FROM clock_timestamp())")
        theirs = datetime.fromtimestamp(float(seconds), UTC)
    else:
        theirs = subject.value("SELECT UTC_TIMESTAMP(6)").replace(tzinfo=UTC)
    after = subject.clock()
    uncertainty = (after - before) / 2
    apart = theirs - (before + uncertainty)
    if abs(apart) > tolerance + uncertainty:
        behind = "ahead of" if apart > timedelta(0) else "behind"
        yield warning(
            f"The database's clock is {abs(apart).total_seconds():.1f} s {behind} this machine's.",
            "Messages are due by the database's clock, and throughput is written down by the workers': ages and rates "
            "are wrong by as much, and so is whatever compares the times of events.",
            "Let both be set by NTP: chronyc tracking (or timedatectl) says by how much each is wrong.",
        )


def routing(subject: Subject) -> Iterator[Finding]:
    """A router that keeps the outbox apart from the models in whose transactions it has to be written."""
    home = outbox_database()
    if home != subject.using and not _is_routed():
        yield note(
            f"publish() writes to the database {home!r} unless it is given using={subject.using!r}.",
            f"This examines {subject.using!r}. A message that is published without using= does not come here.",
            "None if all that belongs here is published that way; otherwise let DATABASE_ROUTERS send django_outbox here.",
        )
    elif home != subject.using:
        yield fault(
            f"publish() writes to the database {home!r}, and this is {subject.using!r}.",
            "A relay for this database never sees what is published.",
            f"manage.py outbox_doctor --database {home}, and the same for outbox_relay and outbox_consume; or let "
            "DATABASE_ROUTERS send django_outbox here",
        )
    strangers = [model.__name__ for model in MODELS if (router.db_for_write(model) or DEFAULT_DB_ALIAS) != home]
    if strangers:
        yield fault(
            f"{', '.join(strangers)} are not in the database of OutboxMessage, {home!r}.",
            "They are written in one transaction.",
            "Let DATABASE_ROUTERS send all of the app django_outbox to one database.",
        )
    yield from models_elsewhere(home)


def _is_routed() -> bool:
    """True if one of ``DATABASE_ROUTERS`` says where to write the outbox, rather than Django's default."""
    return any(each.db_for_write(OutboxMessage) for each in router.routers if hasattr(each, "db_for_write"))


def models_elsewhere(home: str) -> Iterator[Finding]:
    """Models of the project that are not written to the database of the outbox; a fault if none is."""
    elsewhere: dict[str, list[str]] = {}
    at_home = False
    for model in _models_of_the_project():
        alias = router.db_for_write(model) or DEFAULT_DB_ALIAS
        if alias == home:
            at_home = True
        else:
            elsewhere.setdefault(alias, []).append(model._meta.label)
    for alias, models in elsewhere.items():
        shown = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
        find = fault if not at_home else note if settings.require_transaction else warning
        yield find(
            f"{shown} are written to the database {alias!r}, the outbox to {home!r}.",
            "A message is part of the transaction that writes it only within one database: what is published along "
            "with a change of these may be lost when the change is kept, or sent when it is not.",
            f"Let DATABASE_ROUTERS send django_outbox to {alias!r} as well, or publish with using={alias!r} and run a "
            f"relay and a consumer with --database {alias}, if these models publish; else leave it.",
        )


def _models_of_the_project() -> list[type[Model]]:
    """Those outside of site-packages; all but Django's and ours if the project itself is installed there."""
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


def engine(subject: Subject) -> Iterator[Finding]:
    """Tables of MySQL or MariaDB without transactions."""
    marks = ", ".join(["%s"] * len(subject.tables))
    found = subject.rows(
        "SELECT table_name, engine FROM information_schema.tables "  # noqa: S608  # nothing but marks
        f"WHERE table_schema = database() AND table_name IN ({marks}) AND engine <> 'InnoDB'",
        *subject.tables,
    )
    for table, name in found:
        yield fault(
            f"The table {table} is of the engine {name}.",
            "It knows no transactions and locks no rows: messages are lost and sent several times.",
            f"ALTER TABLE {table} ENGINE = InnoDB",
        )
