"""Runs the examinations: one after the other, none for longer than its time, none able to change anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from django.db import DatabaseError, connections, transaction
from django.utils import translation

from django_outbox.brokers.calls import Call
from django_outbox.exceptions import in_one_line
from django_outbox.operations.doctor import broker, database, events, indexes, project, sessions, vacuum, workers
from django_outbox.operations.doctor.broker import NotAnswered
from django_outbox.operations.doctor.finding import Finding, Level, fault, warning
from django_outbox.operations.doctor.subject import Subject
from django_outbox.worker.pooling import prepare_nothing

SECONDS = 10.0

POSTGRESQL = ("postgresql",)
SERVERS = ("postgresql", "mysql")


@dataclass(frozen=True)
class Examination:
    """One examination.

    Attributes:
        name: to ask for it alone.
        find: yields what is wrong.
        fine: what to say when nothing is.
        vendors: of the databases that it is for; None: all.
        asks_broker: it waits for the broker.
        asks_database: False for what is known without it.
        in_transaction: False for what has to see its own commits.
    """

    name: str
    find: Callable[[Subject], Iterable[Finding]]
    fine: str
    vendors: Collection[str] | None = None
    asks_broker: bool = False
    asks_database: bool = True
    in_transaction: bool = True


@dataclass(frozen=True)
class Result:
    """What an examination came to; without findings all is well."""

    examination: Examination
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        return max((finding.level for finding in self.findings), default=Level.OK)


DATABASE = Examination("database", database.answers, "It answers.")
EXAMINATIONS = (
    DATABASE,
    Examination("migrations", database.migrations, "All are applied."),
    Examination("checks", project.checks, "manage.py check finds nothing."),
    Examination("routing", database.routing, "The outbox is where the project's models are."),
    Examination("engine", database.engine, "All tables are of InnoDB.", ("mysql",)),
    Examination("indexes", indexes.missing, "All indexes and constraints are there."),
    Examination("invalid-indexes", indexes.invalid, "All indexes are valid.", POSTGRESQL),
    Examination("index-bloat", indexes.bloated, "No index is much larger than what it holds.", POSTGRESQL),
    Examination("isolation", database.isolation, "Transactions are READ COMMITTED.", SERVERS),
    Examination("clocks", database.clocks, "Database and this machine have the same time.", SERVERS),
    Examination("deadlines", sessions.deadlines, "The server ends nothing too early.", SERVERS),
    Examination("vanished-sessions", sessions.vanished_sessions, "The server notices soon enough.", POSTGRESQL),
    Examination(
        "notify", sessions.notifications, "Notifications are off, or arrive.", POSTGRESQL, in_transaction=False
    ),
    Examination(
        "prepared-statements",
        sessions.prepared_statements,
        "None are prepared, or no pooler is in the way.",
        POSTGRESQL,
    ),
    Examination("old-snapshots", vacuum.old_snapshots, "No session holds vacuum back.", POSTGRESQL),
    Examination("prepared-transactions", vacuum.prepared_transactions, "None is left open.", POSTGRESQL),
    Examination("replication-slots", vacuum.replication_slots, "None holds vacuum back.", POSTGRESQL),
    Examination("autovacuum", vacuum.autovacuum, "It is on, and keeps up.", POSTGRESQL),
    Examination("relays", workers.relays, "At least one is running, and no message is late."),
    Examination(
        "consumers", workers.consumers, "At least one is running, or there is nothing to handle; no message is late."
    ),
    Examination("workers", workers.troubles, "None is lost or in trouble."),
    Examination("versions", workers.versions, "All workers are of the version that is installed here."),
    Examination("sources", workers.sources, "All unfinished messages have the SOURCE of this project."),
    Examination("handlers", events.handlers, "All can be imported.", asks_database=False),
    Examination("events", events.without_handler, "All that was published lately has a handler, or none is wanted."),
    Examination("unused-handlers", events.without_events, "Each handler has seen events lately."),
    Examination(
        "unread-topics", events.unread_topics, "Consumers read all topics that have messages for handlers here."
    ),
    Examination("broker", broker.reachable, "It answers.", asks_broker=True, asks_database=False),
    Examination("topics", broker.topics, "All exist.", asks_broker=True, asks_database=False),
    Examination("partitions", broker.partitions, "There is one for each consumer.", asks_broker=True),
    Examination("retention", broker.retention, "Records are kept for as long as they are needed.", asks_broker=True),
)


def examine(
    subject: Subject, *, examinations: Iterable[Examination] = EXAMINATIONS, seconds: float = SECONDS
) -> Iterator[Result]:
    """What each examination finds, as it ends. If the database does not answer, what needs it is left out.

    Each one runs in a thread and on a connection of its own, so that one that hangs can be left behind.

    Args:
        subject: what to examine.
        examinations: which; those that are for other databases are passed over.
        seconds: how long each may take.
    """
    reached = _examine(subject, DATABASE, seconds)
    is_away = reached.level >= Level.FAULT
    subject.has_database = not is_away
    for each in examinations:
        if each.vendors is not None and subject.connection.vendor not in each.vendors:
            continue
        if each is DATABASE:
            yield reached
        elif is_away and each.asks_database:
            yield Result(each, (warning("Not examined: the database does not answer."),))
        else:
            yield _examine(subject, each, seconds)


def _examine(subject: Subject, examination: Examination, seconds: float) -> Result:
    def run() -> tuple[Finding, ...]:
        try:
            # The overview shows some of these findings in its reader's language.
            with translation.override("en"), _reading_only(subject, examination, seconds):
                return tuple(examination.find(subject))
        except DatabaseError:
            if _has_tables(subject):
                raise
            raise _NoTables("the tables of the outbox are not all there") from None
        finally:
            with suppress(Exception):  # of a connection that is lost already
                connections[subject.using].close()

    try:
        return Result(examination, Call(run).result(seconds + 1, lambda: False))
    except (NotAnswered, _NoTables) as error:
        return Result(examination, (warning(f"Not examined: {error}."),))
    except Exception as error:  # an examination that fails keeps no other from being made
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        if examination is DATABASE:
            return Result(examination, (_away(subject, reason),))
        # Nobody may take what was not looked at for well.
        return Result(examination, (warning(f"Could not be examined: {reason}"),))


class _NoTables(Exception):
    """What an examination looks at has not been made yet."""


def _has_tables(subject: Subject) -> bool:
    return set(subject.tables) <= set(subject.connection.introspection.table_names())


def _away(subject: Subject, reason: str) -> Finding:
    return fault(
        f"The database {subject.using!r} does not answer ({reason}).",
        "Nothing is published, sent or handled.",
        f'See whether it is running, and whether DATABASES["{subject.using}"] is right.',
    )


@contextmanager
def _reading_only(subject: Subject, examination: Examination, seconds: float) -> Iterator[None]:
    """Let the database refuse every change, and end what takes too long. For one transaction only: behind a pooler
    the session is not ours alone."""
    vendor = subject.connection.vendor
    if examination.asks_database:
        prepare_nothing(subject.connection)
    if not examination.asks_database:
        yield
    elif vendor == "sqlite":
        subject.connection.cursor().execute("PRAGMA query_only = ON")
        yield
    elif examination.asks_broker or not examination.in_transaction:
        yield  # no transaction is to be open while something else is waited for
    elif vendor == "postgresql":
        with transaction.atomic(using=subject.using):
            subject.connection.cursor().execute(
                f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {int(seconds * 1000)}"
            )
            yield
    else:
        subject.connection.cursor().execute("SET TRANSACTION READ ONLY")  # the next one
        with transaction.atomic(using=subject.using):
            yield
