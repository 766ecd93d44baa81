"""Runs the checks one after the other: each has a time limit, and none can change anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from django.db import DatabaseError, connections, transaction
from django.utils import translation

from django_outbox.brokers.calls import Call
from django_outbox.exceptions import in_one_line
from django_outbox.operations.doctor import broker, database, debezium, events, indexes, sessions, vacuum, workers
from django_outbox.operations.doctor.base import Finding, Installation, Level, fault, warning
from django_outbox.worker.pooling import prepare_nothing

TIMEOUT_SECONDS = 10.0

POSTGRESQL = ("postgresql",)
SERVERS = ("postgresql", "mysql")


class Check(NamedTuple):
    """One check: ``find`` yields the problems, and ``ok`` says that there are none."""

    name: str
    find: Callable[[Installation], Iterable[Finding]]
    ok: str
    vendors: Collection[str] | None = None
    """The databases that it is for; None: all."""
    needs_broker: bool = False
    """Skipped if the broker does not answer."""
    needs_database: bool = True
    in_transaction: bool = True
    """False for a check that has to see its own commits."""


class Result(NamedTuple):
    """The findings of a check."""

    check: Check
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        return max((finding.level for finding in self.findings), default=Level.OK)


DATABASE = Check("database", database.answers, "The database answers.")
BROKER = Check("broker", broker.reachable, "The broker answers.", needs_broker=True, needs_database=False)
CHECKS = (
    DATABASE,
    Check("migrations", database.migrations, "All migrations are applied."),
    Check("checks", database.system_checks, "manage.py check finds no problems."),
    Check("routing", database.routing, "The outbox is in the database of the project's models."),
    Check("engine", database.engine, "All tables use InnoDB.", ("mysql",)),
    Check("indexes", indexes.missing, "All indexes and constraints exist."),
    Check("invalid-indexes", indexes.invalid, "All indexes are valid.", POSTGRESQL),
    Check("index-bloat", indexes.bloated, "No index is bloated.", POSTGRESQL),
    Check("isolation", database.isolation, "Transactions are READ COMMITTED.", SERVERS),
    Check("clocks", database.clocks, "The clocks of the database and of this machine agree.", SERVERS),
    Check("deadlines", sessions.deadlines, "No server timeout is too short.", SERVERS),
    Check(
        "connections", sessions.connections, "The server allows as many connections as running workers need.", SERVERS
    ),
    Check("vanished-sessions", sessions.vanished_sessions, "The server detects lost clients soon enough.", POSTGRESQL),
    Check(
        "notify", sessions.notifications, "NOTIFY is off, or notifications arrive.", POSTGRESQL, in_transaction=False
    ),
    Check(
        "prepared-statements", sessions.prepared_statements, "No prepared statements, or no pooler between.", POSTGRESQL
    ),
    Check("old-snapshots", vacuum.old_snapshots, "No session holds vacuum back.", POSTGRESQL),
    Check("prepared-transactions", vacuum.prepared_transactions, "None is open.", POSTGRESQL),
    Check("replication-slots", vacuum.replication_slots, "None holds vacuum back.", POSTGRESQL),
    Check(
        "debezium",
        debezium.debezium,
        'PUBLISHER is "relay", or Debezium has what it needs in the database.',
        POSTGRESQL,
    ),
    Check("autovacuum", vacuum.autovacuum, "Autovacuum is on and keeps up.", POSTGRESQL),
    Check("relays", workers.relays, "A relay is running, and no message is late."),
    Check("consumers", workers.consumers, "Consumers are running, or there is nothing to handle; no message is late."),
    Check("workers", workers.troubles, "No worker is lost or in trouble."),
    Check("pauses", workers.pauses, "Nothing is paused."),
    Check("versions", workers.versions, "All workers run the version installed here."),
    Check("sources", workers.sources, "All unfinished messages have the SOURCE of this project."),
    Check("handlers", events.handlers, "All handlers can be imported.", needs_database=False),
    Check("events", events.without_handler, "Recent events have handlers, or need none."),
    Check("unused-handlers", events.without_events, "Every handler has had events recently."),
    Check("unread-topics", events.unread_topics, "Consumers read all topics with messages for handlers here."),
    BROKER,
    Check("topics", broker.topics, "All topics exist.", needs_broker=True, needs_database=False),
    Check("partitions", broker.partitions, "There is a partition for every consumer.", needs_broker=True),
    Check("retention", broker.retention, "Topics keep records as long as they are needed.", needs_broker=True),
)


def run_checks(
    installation: Installation, *, checks: Iterable[Check] = CHECKS, timeout: float = TIMEOUT_SECONDS
) -> Iterator[Result]:
    """Run the checks that are for this database, each for at most ``timeout`` seconds, and yield each result.

    Each check runs in its own thread and on its own connection, so that one that hangs can be left behind. If the
    database does not answer, the checks that need it are skipped.
    """
    database_result = _run(installation, DATABASE, timeout)
    installation.has_database = database_result.level < Level.FAULT
    for check in checks:
        if check.vendors is not None and installation.connection.vendor not in check.vendors:
            continue
        if check is DATABASE:
            yield database_result
        elif check.needs_database and not installation.has_database:
            yield Result(check, (warning("Skipped: the database does not answer."),))
        else:
            yield _run(installation, check, timeout)


def _run(installation: Installation, check: Check, timeout: float) -> Result:
    def find() -> tuple[Finding, ...]:
        try:
            # Some texts are shared with the overview, which translates them.
            with translation.override("en"), _read_only(installation, check, timeout):
                if check.needs_broker and check is not BROKER and installation.broker.trouble:
                    return (warning("Skipped: the broker does not answer."),)
                return tuple(check.find(installation))
        except DatabaseError:
            if set(installation.tables) <= set(installation.connection.introspection.table_names()):
                raise
            return (warning("Skipped: not all tables of the outbox exist."),)
        finally:
            with suppress(Exception):  # the connection may be lost already
                connections[installation.using].close()

    try:
        return Result(check, Call(find).result(timeout + 1, lambda: False))
    except Exception as error:  # a failed check must not stop the others, nor look like one that found nothing
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        if check is not DATABASE:
            return Result(check, (warning(f"The check failed: {reason}"),))
        away = fault(
            f"The database {installation.using!r} does not answer ({reason}).",
            "No message is published, sent or handled.",
            f'Check that it is running and that DATABASES["{installation.using}"] is correct.',
        )
        return Result(check, (away,))


@contextmanager
def _read_only(installation: Installation, check: Check, timeout: float) -> Iterator[None]:
    """Make the database refuse changes and long statements, for one transaction: a pooler shares the session."""
    if not check.needs_database:
        yield
        return
    connection = installation.connection
    prepare_nothing(connection)
    if connection.vendor == "sqlite":
        connection.cursor().execute("PRAGMA query_only = ON")
        yield
    elif check.needs_broker or not check.in_transaction:
        yield  # a transaction must not stay open while the check waits for something else
    elif connection.vendor == "postgresql":
        with transaction.atomic(using=installation.using):
            connection.cursor().execute(
                f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {int(timeout * 1000)}"
            )
            yield
    else:
        connection.cursor().execute("SET TRANSACTION READ ONLY")  # applies to the next transaction
        with transaction.atomic(using=installation.using):
            yield
