"""NOTIFY: the relay is woken after a commit, and still polls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.test.utils import CaptureQueriesContext

from django_outbox import Event, publish, publish_many
from django_outbox.relay.relay import Pass, Relay
from django_outbox.signals import message_published
from django_outbox.worker import notify
from django_outbox.worker.notify import Listener
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import Status, in_thread, memory_broker, row
from tests.support.processes import wait_until

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def notifying(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "NOTIFY": True}
    notify._allowed.clear()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener("default")
    assert listener.open()
    notify._allowed.clear()
    yield listener
    listener.close()


def publish_now() -> Any:
    with transaction.atomic():
        return publish("order.created", {})


def test_a_commit_notifies(listener: Listener, stop: Stop) -> None:
    publish_now()
    assert listener.wait(stop, 30)
    assert not listener.wait(stop, 0)


def test_publish_many_notifies_once(listener: Listener, stop: Stop) -> None:
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        publish_many([Event(type="order.created", payload=n) for n in range(50)])

    assert [query["sql"] for query in queries if "NOTIFY" in query["sql"]] == ["NOTIFY django_outbox"]
    assert listener.wait(stop, 30)


def test_a_rollback_notifies_nobody(listener: Listener, stop: Stop) -> None:
    with transaction.atomic():
        publish("order.created", {})
        transaction.set_rollback(True)

    assert not listener.wait(stop, 0.05)


def test_the_notification_comes_after_the_commit_not_within() -> None:
    with CaptureQueriesContext(connection) as queries:
        publish_now()

    statements = [query["sql"] for query in queries]
    assert statements.index("NOTIFY django_outbox") > statements.index("COMMIT")


def test_a_burst_costs_at_most_a_hundred_notifications_a_second() -> None:
    started = time.monotonic()
    with CaptureQueriesContext(connection) as queries:
        for _ in range(200):
            publish_now()
    seconds = time.monotonic() - started

    sent = sum("NOTIFY" in query["sql"] for query in queries)
    assert notify.BURST <= sent <= notify.BURST + seconds * notify.PER_SECOND + 1


@pytest.mark.parametrize("per_second", [50, 100, 150, 1000])
def test_in_no_second_there_are_more_than_a_hundred_notifications(per_second: int) -> None:
    times = [n / per_second for n in range(5 * per_second)]

    sent = [at for at in times if notify._may_notify("other", at)]

    for begin in sent:
        assert sum(begin <= at < begin + 1 for at in sent) <= 100
    assert len(sent) >= min(per_second, 80) * 5


def test_a_failure_to_notify_is_no_failure_to_publish(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "CHANNEL", "not a channel")

    message = publish_now()

    assert row(message).status == Status.PENDING
    assert "The relay was not notified: syntax error" in caplog.text


def test_a_connection_that_was_closed_after_the_commit_is_no_failure_to_publish(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: connection.connection.close())
        message = publish("order.created", {})
    connection.close()

    assert row(message).status == Status.PENDING
    assert "The relay was not notified: " in caplog.text


def test_without_the_setting_nothing_is_sent(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "NOTIFY": False}
    with CaptureQueriesContext(connection) as queries:
        publish_now()

    assert not any("NOTIFY" in query["sql"] for query in queries)


def test_the_relay_is_woken_long_before_it_would_look(stop: Stop) -> None:
    relay = Relay(memory_broker(), using="default", poll_interval=600)
    with in_thread(lambda: relay.run(stop)):
        try:
            wait_until(lambda: relay.listener.is_open and relay.is_idle)
            messages = [publish_now() for _ in range(20)]
            wait_until(lambda: all(row(m).status == Status.PUBLISHED for m in messages))
        finally:
            stop.request()


def test_a_relay_that_was_woken_looks_once_more_behind_the_last_that_was_not_announced(
    stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its looks take: what was committed while it looked may not be in what it saw."""
    clock = Clock()
    waits: list[float] = []

    def wait(seconds: float, *others: Any) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            stop.request()
        return stop.requested

    def look(self: Relay) -> Pass:
        done = run_once(self)
        clock.now += 2 * notify.ALERT_FOR_SECONDS
        return done

    run_once = Relay.run_once
    monkeypatch.setattr(Relay, "run_once", look)
    monkeypatch.setattr(stop, "wait", wait)
    # The test of the connection and the first wait see a notification.
    monkeypatch.setattr(Listener, "_take", lambda self: len(waits) <= 1)

    Relay(memory_broker(), using="default", poll_interval=30, clock=clock).run(stop)

    assert waits == [30, notify.ALERT_SECONDS, 30]


def test_a_relay_whose_listening_connection_is_lost_listens_again(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    relay = Relay(memory_broker(), using="default", poll_interval=600)
    with in_thread(lambda: relay.run(stop)):
        try:
            wait_until(lambda: relay.listener.is_open and relay.is_idle)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
                )
            wait_until(lambda: "The database: " in caplog.text)
            wait_until(lambda: relay.listener.is_open and relay.is_idle)
            message = publish_now()
            wait_until(lambda: row(message).status == Status.PUBLISHED)
        finally:
            stop.request()


@pytest.mark.parametrize("refused", ["LISTEN", "NOTIFY"])
def test_a_relay_that_cannot_listen_yet_listens_when_it_can(
    refused: str, stop: Stop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server that has no connection left lets it do its own work, and not listen."""
    execute = CursorWrapper.execute
    refusals = iter([True])

    def refuse_once(self: CursorWrapper, sql: Any, *others: Any) -> Any:
        if str(sql).startswith(refused) and threading.current_thread() is not test and next(refusals, False):
            raise OperationalError("too many connections")
        return execute(self, sql, *others)

    test = threading.current_thread()
    monkeypatch.setattr(CursorWrapper, "execute", refuse_once)
    relay = Relay(memory_broker(), using="default", poll_interval=0.01)
    with in_thread(lambda: relay.run(stop)):
        try:
            wait_until(lambda: relay.listener.is_open)  # as it is once that has been tested
            message = publish_now()
            wait_until(lambda: row(message).status == Status.PUBLISHED)
        finally:
            stop.request()
    assert "Listening for NOTIFY: Polling meanwhile. too many connections. Trying again until it works." in caplog.text
    assert "The database: " not in caplog.text
    assert "NOTIFY does not arrive" not in caplog.text


def test_a_relay_that_cannot_listen_polls(
    stop: Stop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Listener) -> bool:
        raise OperationalError("too many connections")

    monkeypatch.setattr(Listener, "open", refuse)
    relay = Relay(memory_broker(), using="default", poll_interval=0.01)
    with in_thread(lambda: relay.run(stop)):
        try:
            messages = [publish_now() for _ in range(3)]
            wait_until(lambda: all(row(message).status == Status.PUBLISHED for message in messages))
        finally:
            stop.request()
    assert caplog.text.count("Listening for NOTIFY: ") == 1


def test_behind_a_transaction_pooler_the_relay_polls_and_says_so(
    stop: Stop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SELF_TEST_SECONDS", 0.05)
    monkeypatch.setattr(Listener, "_is_readable", lambda self, seconds: False)
    relay = Relay(memory_broker(), using="default", poll_interval=0.01)
    with in_thread(lambda: relay.run(stop)):
        try:
            wait_until(lambda: "NOTIFY does not arrive" in caplog.text)
            message = publish_now()
            wait_until(lambda: row(message).status == Status.PUBLISHED)
        finally:
            stop.request()

    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_a_lost_connection_is_told_as_django_tells_it(listener: Listener, stop: Stop) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
        )

    def wait_for_it() -> None:
        while not stop.requested:  # the server's last words come first
            listener.wait(stop, 30)

    with pytest.raises(OperationalError):
        wait_for_it()


def prepared_by_a_relay(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a relay that sends ten messages one by one has the server prepare; receivers of signals see none of it."""
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})  # as a project has it that asks for nothing
    monkeypatch.setattr("django_outbox.relay.growth.MOST_CLAIMS", 1)  # a transaction for each message
    connection.close()
    seen = []

    def note(**others: Any) -> None:
        driver = connection.connection
        seen.append((driver.cursor_factory, driver.prepare_threshold))
        if len(seen) == 10:
            stop.request()

    connection.ensure_connection()
    before = connection.connection.cursor_factory, connection.connection.prepare_threshold
    for _ in range(10):
        publish_now()
    message_published.connect(note)
    try:
        Relay(memory_broker(), using="default", batch_size=1, poll_interval=0.01).run(stop)
    finally:
        message_published.disconnect(note)
    assert seen == [before] * 10
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        found = [statement for (statement,) in cursor.fetchall()]
    connection.close()
    return found


def test_a_relay_that_listens_has_its_own_statements_prepared(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """For where notifications arrive, the next transaction meets the same session."""
    found = prepared_by_a_relay(stop, monkeypatch)
    assert any("SKIP LOCKED" in statement for statement in found), found
    assert any("SET status = 'published'" in statement for statement in found), found


def test_a_relay_that_does_not_listen_prepares_nothing(
    stop: Stop, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "NOTIFY": False}
    assert prepared_by_a_relay(stop, monkeypatch) == []


def test_behind_a_transaction_pooler_nothing_is_prepared(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "open", lambda self: False)
    assert prepared_by_a_relay(stop, monkeypatch) == []
