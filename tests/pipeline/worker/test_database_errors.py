"""Which errors of the database pass, and which are a message's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)

from django_outbox.brokers.base import Record, SendResult
from django_outbox.events.event import Event
from django_outbox.exceptions import in_one_line, text_of
from django_outbox.relay.relay import Relay
from django_outbox.worker.database_errors import (
    drop_broken_connections,
    is_connected,
    is_outage,
    is_transient,
    is_unavailable,
)
from django_outbox.worker.stop import Stop
from django_outbox.worker.transactions import MAX_ATTEMPTS, handler_transaction, retry_transaction
from tests.support.app.models import Effect
from tests.support.database_errors import caused
from tests.support.mute import Mute
from tests.support.outbox import Pipeline, ScriptedBroker, Status, make_message, memory_broker, row
from tests.support.processes import wait_until


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "57P01", "57P03", "08006", "53300"])
def test_what_postgresql_says_of_itself_passes(sqlstate: str) -> None:
    error = caused(OperationalError("x"), Exception(), sqlstate=sqlstate)
    assert is_transient(error, "default")


@pytest.mark.parametrize("sqlstate", ["57014", "22001", "23505", "42P01", "25P02"])
def test_what_postgresql_says_of_the_statement_does_not_pass(sqlstate: str) -> None:
    error = caused(OperationalError("x"), Exception(), sqlstate=sqlstate)
    assert not is_transient(error, "default")


@pytest.mark.parametrize("code", [1205, 1213, 2006, 2013, 2003])
def test_what_mysql_says_of_itself_passes(code: int) -> None:
    error = caused(OperationalError("x"), Exception(code, "text"))
    assert is_transient(error, "default")


@pytest.mark.parametrize("code", [1048, 1062, 1146, 1406])
def test_what_mysql_says_of_the_statement_does_not_pass(code: int) -> None:
    error = caused(OperationalError("x"), Exception(code, "text"))
    assert not is_transient(error, "default")


@pytest.fixture
def read_only() -> Iterator[None]:
    """A server that takes no writes, as the one that was the primary before a failover."""
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    connection.close_at = None  # as with CONN_MAX_AGE, which keeps connections that still work
    yield
    connection.close()


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
def test_a_server_that_takes_no_writes_passes(request: pytest.FixtureRequest, attribute: str) -> None:
    """Unless this database does take them: a handler may have written to another one, or in a transaction made so."""
    error = caused(InternalError("x"), Exception(), **{attribute: "25006"})
    assert is_unavailable(error)
    assert not is_transient(error, "default")
    assert not is_outage(error, "default")
    request.getfixturevalue("read_only")
    assert is_transient(error, "default")
    assert is_outage(error, "default")


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_relay_outlives_a_failover(
    request: pytest.FixtureRequest, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the old primary still answers, and the next connection finds the new one."""
    caplog.set_level("INFO")
    message = make_message()
    request.getfixturevalue("read_only")
    Relay(memory_broker(), using="default").run(stop, drain=True)
    assert (row(message).status, row(message).publish_count) == (Status.PUBLISHED, 1)
    assert "read-only transaction. Trying again until it works." in caplog.text
    assert "The database is available again after" in caplog.text


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_relay_outlives_the_end_of_its_session(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    """A broker takes longer than the server lets a transaction be idle."""
    caplog.set_level("INFO")
    message = make_message()
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = '100ms'")
    connection.close_at = None  # as with CONN_MAX_AGE
    session = connection.connection.info.backend_pid

    def is_over() -> bool:
        with closing(connection.copy()) as beside, beside.cursor() as cursor:
            cursor.execute("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s", [session])
            return bool(cursor.fetchone()[0])

    def answer(records: Sequence[Record], results: list[SendResult]) -> list[SendResult]:
        wait_until(is_over)
        return results

    Relay(ScriptedBroker(answer), using="default").run(stop, drain=True)
    assert (row(message).status, row(message).retry_count) == (Status.PUBLISHED, 0)
    assert "Trying again until it works." in caplog.text
    assert "The database is available again after" in caplog.text


@pytest.mark.parametrize("sqlstate", ["25P03", "25P04"])
def test_a_session_that_the_server_ended_is_an_outage_and_the_failure_of_the_handler_that_took_so_long(
    sqlstate: str,
) -> None:
    error = caused(InternalError("x"), Exception(), sqlstate=sqlstate)
    assert is_unavailable(error)
    assert not is_transient(error, "default")


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_a_consumer_outlives_a_failover(
    request: pytest.FixtureRequest, stop: Stop, caplog: pytest.LogCaptureFixture, steady: bool
) -> None:
    messages = [make_message() for _ in range(2)]
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created")
    pipeline.relay.run_once()
    request.getfixturevalue("read_only")
    pipeline.consumer.run(stop, drain=True)
    assert [event.id for event in pipeline.handled] == [str(message.event_id) for message in messages]
    assert [(row(m).status, row(m).retry_count, row(m).publish_count) for m in messages] == [("consumed", 0, 1)] * 2
    assert "read-only transaction. Trying again until it works." in caplog.text


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_handler_that_makes_its_own_transaction_read_only_fails_by_itself() -> None:
    def handle(event: Event) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        Effect.objects.create(event_id=event.id)

    message = make_message()
    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    assert pipeline.turn().failed == 1
    assert (row(message).status, row(message).retry_count) == (Status.PENDING, 1)


@pytest.mark.django_db
def test_a_locked_sqlite_passes_and_a_missing_table_does_not() -> None:
    assert is_transient(OperationalError("database is locked"), "default")
    assert not is_transient(OperationalError("no such table: x"), "default")


@pytest.mark.parametrize(
    "error", [IntegrityError("x"), DataError("x"), ProgrammingError("x"), ValueError("x"), KeyError(1)]
)
def test_other_errors_are_the_messages_own(error: Exception) -> None:
    assert not is_transient(error, "default")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
def test_without_a_connection_what_the_driver_cannot_do_passes(kind: type[DatabaseError]) -> None:
    connection.close()
    assert not is_connected("default")
    assert is_transient(kind("the connection is closed"), "default")


@pytest.mark.django_db
def test_a_connection_that_works_is_connected() -> None:
    assert Effect.objects.count() == 0
    assert is_connected("default")


def test_a_driver_that_raises_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("what a driver may do")

    monkeypatch.setattr(connections["default"], "connection", object())
    monkeypatch.setattr(connections["default"], "is_usable", broken)
    assert not is_connected("default")


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_broken_connections_are_dropped_but_not_within_a_transaction() -> None:
    with transaction.atomic():
        Effect.objects.count()
        mine = connection.connection
        drop_broken_connections()
        assert connection.connection is mine
    mine.close()
    connection.errors_occurred = True

    drop_broken_connections()

    assert connection.connection is None
    assert Effect.objects.count() == 0


def test_an_error_fits_into_a_log_line() -> None:
    assert in_one_line(ValueError("a\n  b\tc")) == "a b c"
    assert in_one_line(ValueError()) == "ValueError"


def test_an_error_that_cannot_say_what_it_is_has_a_text_all_the_same() -> None:
    assert text_of(Mute()) == in_one_line(Mute()) == "<exception str() failed>"


# On commit


@pytest.mark.django_db(transaction=True)
def fail_on_commit(*arguments: object) -> None:
    raise ConnectionError("mail server")


async def cancelled() -> None:
    raise asyncio.CancelledError


class Hook:
    def __call__(self) -> None:
        asyncio.run(cancelled())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("hook", "name"),
    [(fail_on_commit, "fail_on_commit"), (partial(fail_on_commit, 1), "fail_on_commit"), (Hook(), "Hook")],
)
def test_what_raises_on_commit_is_logged_by_name_and_keeps_nothing_else_back(
    hook: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    committed: list[int] = []

    with handler_transaction("default"):
        transaction.on_commit(hook)
        transaction.on_commit(partial(committed.append, 1))

    assert committed == [1]
    assert (
        f"An on_commit function of a handler raised: tests.pipeline.worker.test_database_errors.{name}." in caplog.text
    )


@pytest.mark.django_db(transaction=True)
def test_what_others_do_on_commit_raises_as_ever() -> None:
    def work() -> None:
        with transaction.atomic():
            transaction.on_commit(fail_on_commit)
            with handler_transaction("default"):
                pass

    with pytest.raises(ConnectionError):
        work()


# Trying again

DEADLOCK = caused(OperationalError("x"), Exception(1213, "Deadlock found when trying to get lock"))


@pytest.mark.django_db
def test_a_transaction_that_met_a_deadlock_is_made_anew() -> None:
    tries: list[int] = []

    def statement() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise DEADLOCK
        return "done"

    assert retry_transaction(statement, using="default") == "done"
    assert len(tries) == 3


@pytest.mark.django_db
@pytest.mark.parametrize(("error", "tries"), [(DEADLOCK, MAX_ATTEMPTS), (IntegrityError("unique"), 1)])
def test_what_does_not_pass_is_raised(error: DatabaseError, tries: int) -> None:
    made: list[int] = []

    def statement() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        retry_transaction(statement, using="default")
    assert len(made) == tries
