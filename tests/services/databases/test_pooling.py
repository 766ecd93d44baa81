"""Poolers in transaction mode: workers prepare nothing behind one, say so once, and no message comes to harm."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection, connections, transaction

from django_outbox.events.event import Event
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.operations.doctor import sessions
from django_outbox.operations.doctor.base import Installation, Level
from django_outbox.operations.doctor.run import CHECKS, run_checks
from django_outbox.relay.relay import Relay
from django_outbox.worker import pooling
from django_outbox.worker.stop import Stop
from tests.support.inbox import Receiver, received
from tests.support.outbox import Pipeline, make_message, memory_broker, row, statuses
from tests.support.processes import Command, wait_until
from tests.support.servers.pooler import Pooler

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db(transaction=True)]

PREPARES = {"server_side_binding": True, "prepare_threshold": 0}


@pytest.fixture(autouse=True)
def forget_poolers() -> Iterator[None]:
    yield
    pooling._unprepared.clear()


@pytest.fixture
def reconnect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Connect anew with other settings, until the end of the test."""

    def reconnect(**changes: Any) -> None:
        for name, value in changes.items():
            monkeypatch.setitem(connection.settings_dict, name, value)
            monkeypatch.setitem(connections.databases["default"], name, value)
        connection.close()

    yield reconnect
    connection.close()


@pytest.fixture
def preparing(reconnect: Callable[..., None]) -> None:
    """Let psycopg prepare each statement at once."""
    reconnect(OPTIONS=PREPARES)
    connection.ensure_connection()


@pytest.fixture
def pooler(reconnect: Callable[..., None]) -> Iterator[Pooler]:
    """A pooler between this process and its database."""
    connection.ensure_connection()
    with Pooler(int(connection.settings_dict["PORT"])) as pooler:
        reconnect(PORT=str(pooler.port), OPTIONS={**PREPARES, "prepare_threshold": 5})
        yield pooler
        connection.close()


def execute_unseen(statement: str) -> None:
    """As another client of a pooler does it on the same session: psycopg learns nothing of it."""
    connection.ensure_connection()
    connection.connection.execute(f"DO $$ BEGIN {statement} END $$", prepare=False)


def take_names() -> None:
    """Prepare statements by the names that psycopg will use next."""
    execute_unseen("""
        FOR number IN 0..199 LOOP
            IF NOT EXISTS (SELECT FROM pg_prepared_statements WHERE name = '_pg3_' || number) THEN
                EXECUTE 'PREPARE _pg3_' || number || ' AS SELECT 1';
            END IF;
        END LOOP;
    """)


def forget_names() -> None:
    """Let the session not know what psycopg has prepared."""
    execute_unseen("EXECUTE 'DEALLOCATE ALL';")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def the_warning() -> list[str]:
    return [pooling.WARNING % "default"]


# What a session shows


@pytest.mark.usefixtures("preparing")
def test_a_relay_goes_on_where_its_statements_exist_already(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    message = make_message()
    take_names()
    Relay(memory_broker(), using="default").run(stop, drain=True)
    assert (row(message).status, row(message).retry_count, row(message).publish_count) == ("published", 0, 1)
    assert warnings(caplog) == the_warning()


@pytest.mark.usefixtures("preparing")
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("spoil", [take_names, forget_names])
def test_a_consumer_goes_on_and_counts_nothing(
    spoil: Callable[[], None], steady: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil_once(event: Event) -> None:
        if not spoiled:
            spoiled.append(event)
            spoil()

    spoiled: list[Event] = []
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", spoil_once)
    for _ in range(3):
        make_message()
    pipeline.relay.run_once()
    for _ in range(5):
        pipeline.consumer.run_once()
    assert statuses() == ["consumed"] * 3
    assert set(OutboxMessage.objects.values_list("retry_count", "publish_count")) == {(0, 1)}
    assert warnings(caplog) == the_warning()


@pytest.mark.usefixtures("preparing")
def test_an_event_of_the_inbox_is_not_taken_for_one_that_cannot_be_stored(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise ArithmeticError("this never works")

    def spoil_second_insert(execute: Any, sql: str, *others: Any) -> Any:
        if sql.startswith('INSERT INTO "django_outbox_inboxmessage"'):
            inserts.append(sql)
            if len(inserts) == 2:  # the first one has been rolled back with the handler
                take_names()
        return execute(sql, *others)

    inserts: list[str] = []
    receiver = Receiver()
    receiver.on("order.created", fail)
    record = received()
    with connection.execute_wrapper(spoil_second_insert):
        with pytest.raises(ProgrammingError) as raised:
            receiver.receive(record)
        assert pooling.stop_preparing(raised.value, "default")  # as the loop of the consumer does
        assert receiver.receive(record) == ["failed"]
    message = InboxMessage.objects.get()
    assert (message.status, message.retry_count) == ("pending", 1)
    assert the_warning()[0] in warnings(caplog)


@pytest.mark.usefixtures("preparing")
def test_nothing_is_prepared_any_more_after_a_new_connection(stop: Stop) -> None:
    take_names()
    Relay(memory_broker(), using="default").run(stop, drain=True)
    connection.close()
    make_message()
    Relay(memory_broker(), using="default").run(stop, drain=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone() == (0,)


@pytest.mark.usefixtures("preparing")
def test_a_statement_that_a_handler_prepares_twice_is_its_own_fault() -> None:
    def prepare_twice(event: Event) -> None:
        for _ in range(2):
            with connection.cursor() as cursor:
                cursor.execute("PREPARE mine AS SELECT 1")

    pipeline = Pipeline()
    pipeline.on("order.created", prepare_twice)
    message = make_message()
    pipeline.turn()
    assert (row(message).status, row(message).retry_count) == ("pending", 1)


# A pooler


@pytest.mark.usefixtures("pooler")
def test_a_worker_prepares_nothing_behind_a_pooler(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    """It would execute what another client has prepared on the session that its transaction gets."""
    with transaction.atomic():  # on one session
        messages = [make_message() for _ in range(10)]
    Relay(memory_broker(), using="default", batch_size=1).run(stop, drain=True)
    assert {row(message).status for message in messages} == {"published"}
    assert warnings(caplog) == the_warning()


def test_workers_carry_messages_through_a_pooler(
    manage: Callable[..., Command], subprocess_env: dict[str, str], topic: str
) -> None:
    (port,) = re.findall(r":(\d+)/", subprocess_env["DATABASE_URL"])
    for number in range(20):
        make_message(event_type="test.effect", topic=topic, message_key=str(number % 3))
    with Pooler(int(port)) as pooler:
        env = {
            "DATABASE_URL": subprocess_env["DATABASE_URL"].replace(port, str(pooler.port)),
            "PREPARED_STATEMENTS": "yes",
        }
        relay = manage("outbox_relay", "--create-topics", "--batch-size", 2, env=env)
        consumer = manage("outbox_consume", env=env)
        wait_until(lambda: statuses() == ["consumed"] * 20, what="20 consumed")
        for worker in (relay, consumer):
            assert worker.stop() == 0
            assert worker.output.count("is behind a pooler such as PgBouncer") == 1
            assert " ERROR " not in worker.output


def test_an_operator_s_command_needs_no_prepared_statements(pooler: Pooler, reconnect: Callable[..., None]) -> None:
    for _ in range(5):
        reconnect(OPTIONS={**PREPARES, "prepare_threshold": 1})
        call_command("outbox_status", "--no-broker", stdout=io.StringIO())


# The doctor


def findings(name: str = "prepared-statements") -> list[tuple[Level, str]]:
    chosen = [each for each in CHECKS if each.name == name]
    return [
        (finding.level, finding.summary)
        for result in run_checks(Installation("default"), checks=chosen)
        for finding in result.findings
    ]


@pytest.mark.usefixtures("pooler")
def test_the_doctor_names_the_pooler() -> None:
    ((level, summary),) = findings()
    assert level == Level.WARNING
    assert summary == (
        "The database 'default' is behind a pooler such as PgBouncer, and its OPTIONS have prepare_threshold."
    )


@pytest.mark.usefixtures("preparing")
def test_the_doctor_finds_nothing_wrong_with_prepared_statements_on_the_server_itself() -> None:
    assert findings() == []
    assert pooling.may_prepare("default")


def test_the_doctor_finds_nothing_wrong_with_a_pooler_where_nothing_is_prepared(
    pooler: Pooler, reconnect: Callable[..., None]
) -> None:
    reconnect(OPTIONS={})
    assert list(sessions.prepared_statements(Installation("default"))) == []
