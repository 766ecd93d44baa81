"""The consumer: faults of the database and other sessions are not the fault of a message."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from tests.support.app.models import Effect
from tests.support.effects import effect_of_type, effects
from tests.support.outbox import (
    Pipeline,
    Status,
    in_thread,
    is_waiting_for_a_lock,
    make_message,
    memory_broker,
    publish_again,
    row,
)
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db


# Faults that pass


class PassingFault(OperationalError):
    """A deadlock, as PostgreSQL tells it."""

    sqlstate = "40P01"


def test_a_deadlock_is_tried_again_and_not_counted(pipeline: Pipeline) -> None:
    faults = [PassingFault("deadlock detected"), PassingFault("deadlock detected")]

    def handle(event: Event) -> None:
        if faults:
            raise faults.pop()
        effect_of_type(event)

    pipeline.on("order.created", handle)
    message = make_message()

    assert pipeline.turn().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


def test_a_message_that_deadlocks_again_and_again_lets_others_pass(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise PassingFault("deadlock detected")

    pipeline.on("unlucky", handle)
    pipeline.on("order.created", effect_of_type)
    unlucky = make_message(event_type="unlucky")
    make_message()

    batch = pipeline.turn()

    assert (batch.requeued, batch.consumed) == (1, 1)
    now = row(unlucky)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 0, "")
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at > timedelta(seconds=30)


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_lost_connection_is_not_the_messages_fault(pipeline: Pipeline) -> None:
    lose = [True]

    def handle(event: Event) -> None:
        effect_of_type(event)
        if lose:
            lose.clear()
            pid = connection.connection.info.backend_pid
            other = connections["default"].copy()
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
            other.close()
        Effect.objects.count()

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 1

    assert not lose
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_server_that_just_goes_away_is_not_the_messages_fault(pipeline: Pipeline) -> None:
    """Without a word: the error has no code, and Django connects anew by itself."""
    lose = [True]

    def handle(event: Event) -> None:
        effect_of_type(event)
        if lose:
            lose.clear()
            with socket.socket(fileno=os.dup(connection.connection.fileno())) as peer:
                peer.shutdown(socket.SHUT_RDWR)
        Effect.objects.count()

    pipeline.on("order.created", handle)
    messages = [make_message(), make_message()]
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 2

    assert effects() == ["order.created"] * 2
    assert [row(message).retry_count for message in messages] == [0, 0]


def test_a_message_that_is_removed_while_it_fails_is_skipped(pipeline: Pipeline) -> None:
    removed = []

    def handle(event: Event) -> None:
        raise ArithmeticError("boom")

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()
    real_mark = transitions.mark_failed

    def mark_failed(*args: Any, **kwargs: Any) -> Any:
        removed.append(OutboxMessage.objects.all().delete())
        return real_mark(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "mark_failed", mark_failed)
        batch = pipeline.consumer.run_once()

    assert (batch.received, batch.skipped, batch.failed) == (1, 1, 0)
    assert not OutboxMessage.objects.filter(id=message.id).exists()


def test_a_database_that_is_gone_leaves_the_record_in_hand(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message()
    pipeline.relay.run_once()
    gone = True

    def lock(*args: Any, **kwargs: Any) -> Any:
        if gone:
            raise OperationalError("connection refused")
        return real_lock(*args, **kwargs)

    real_lock = state.lock
    monkeypatch.setattr(state, "lock", lock)
    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    with pytest.raises(OperationalError):
        pipeline.consumer.run_once()
    gone = False

    assert pipeline.consumer.run_once().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


@pytest.mark.parametrize("locked", [0, 2])
def test_a_message_that_cannot_even_be_locked_stays_in_hand(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, locked: int
) -> None:
    """Such as with a short ``lock_timeout``: the record is not done with, so its offset is not committed.

    It may have been locked by earlier tries.
    """
    busy = True
    tries: list[int] = []

    def handle(event: Event) -> None:
        if busy:
            raise PassingFault("deadlock detected")
        effect_of_type(event)

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()

    def lock(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        if busy and len(tries) > locked:
            raise PassingFault("canceling statement due to lock timeout")
        return real_lock(*args, **kwargs)

    real_lock = state.lock
    monkeypatch.setattr(state, "lock", lock)
    with pytest.raises(OperationalError, match="lock timeout"):
        pipeline.consumer.run_once()
    busy = False

    assert pipeline.consumer.run_once().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


# Between sessions


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_consumer_faster_than_the_relay_waits_for_its_commit(pipeline: Pipeline) -> None:
    """The record is in the log, the relay's transaction is still open."""
    pipeline.on("order.created", effect_of_type)
    message = make_message()

    with ExitStack() as beside, transaction.atomic():
        OutboxMessage.objects.select_for_update().get(id=message.id)
        pipeline.deliver(message)
        beside.enter_context(in_thread(pipeline.consumer.run_once))
        wait_until(is_waiting_for_a_lock)
        publish_again(message, partition=0, offset=0)

    assert row(message).status == Status.CONSUMED
    assert effects() == ["order.created"]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_two_consumers_with_the_same_record_handle_it_once() -> None:
    """As in a rebalance: both have read it, neither has committed the offset."""
    message = make_message()
    start = threading.Barrier(2)

    def work(pipeline: Pipeline) -> None:
        start.wait(30)
        pipeline.consumer.run_once()

    broker = memory_broker()
    pipelines = [Pipeline(broker, group="one"), Pipeline(broker, group="two")]
    for pipeline in pipelines:
        pipeline.on("order.created", effect_of_type)
    pipelines[0].relay.run_once()

    with in_thread(lambda: work(pipelines[0])), in_thread(lambda: work(pipelines[1])):
        pass

    assert row(message).status == Status.CONSUMED
    assert effects() == ["order.created"]
