"""The consumer's loop: how long it waits, what it does while the broker is away, what it reports, and when a drain ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError

from django_outbox.conf import settings as outbox
from django_outbox.consumer.consumer import DRAIN_PATIENCE_SECONDS, INBOX_SECONDS, Consumer
from django_outbox.consumer.source import RoundCounts
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.handlers.registry import Registry
from django_outbox.models import Worker
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.effects import effect_of_type
from tests.support.inbox import make_received
from tests.support.outbox import Pipeline, Status, make_message, memory_broker, row, statuses

pytestmark = pytest.mark.django_db

STEP_SECONDS = 2.5
MOST_WAITS = 60


class CountingStop(Stop):
    """Its waits only move the clock. It stops a loop that goes on for too long."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float | None] = []
        self.most = MOST_WAITS
        self.after_wait: Callable[[], object] = lambda: None

    def wait(self, seconds: float | None, *others: Any) -> bool:
        self.waits.append(seconds)
        self.clock.now += STEP_SECONDS
        self.after_wait()
        if len(self.waits) >= self.most:
            self.request()
        return self.requested


@pytest.fixture
def stop(clock: Clock) -> Iterator[CountingStop]:
    stop = CountingStop(clock)
    yield stop
    stop.close()


@pytest.fixture
def pipeline(clock: Clock, caplog: pytest.LogCaptureFixture) -> Pipeline:
    caplog.set_level(logging.INFO, "django_outbox.consumer")
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created", effect_of_type)
    return pipeline


def gone(timeout: float) -> RoundCounts:
    """A round without a broker."""
    raise BrokerUnavailable("it is gone.")


# What is reported


def test_the_workers_state_is_that_of_this_consumer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_outbox.consumer.consumer.require_concurrency", lambda concurrency, using: None)
    state = Pipeline(clock=clock, group="shop", topics=["b", "a"], concurrency=3).consumer.worker_state
    assert (state.kind, state.group, state.topics, state.lanes) == (Worker.Kind.CONSUMER, "shop", "a, b", 3)
    clock.now += 7
    assert state.seconds_without_progress == 7


def test_what_the_rounds_of_a_run_have_handled_is_counted(pipeline: Pipeline, stop: CountingStop) -> None:
    make_message(), make_message()
    pipeline.relay.run_once()
    pipeline.consumer.run(stop, drain=True)
    assert pipeline.consumer.worker_state.take_counts()["consumed"] == 2


def test_failures_that_were_only_counted_are_summed_up_at_the_end(
    clock: Clock, stop: CountingStop, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created", lambda event: 1 / 0)
    for _ in range(12):
        make_message()
    pipeline.relay.run_once()
    pipeline.consumer.run(stop, drain=True)
    (summary,) = [record for record in caplog.records if record.__dict__["action"] == "repeated"]
    assert summary.getMessage().startswith("2 more messages (order.created) failed within ")


# Waiting


def test_the_loop_waits_only_while_it_reads_nothing_and_has_nothing_to_retry(
    clock: Clock, stop: CountingStop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.consumer.consumer.POLL_SECONDS", 0.25)
    broker = memory_broker(create_topics=False)
    pipeline = Pipeline(broker, clock=clock, batch_size=1)
    pipeline.on("order.created", effect_of_type)
    make_received(), make_received()

    def after_wait() -> None:
        if len(stop.waits) == 3:
            broker.create_topics(["outbox"], partitions=1, replication=None)
            clock.now += 60
            monkeypatch.setattr("django_outbox.consumer.consumer.POLL_SECONDS", 0.01)  # a poll waits in earnest

    stop.after_wait, stop.most = after_wait, 5
    pipeline.consumer  # noqa: B018  # made now
    clock.now += INBOX_SECONDS
    pipeline.consumer.run(stop)
    assert stop.waits == [0.0, 0.0, 0.25, 0.0, 0.0]


# While the broker is away


def test_only_a_drain_ends_when_the_broker_stays_away(
    pipeline: Pipeline, stop: CountingStop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.consumer, "run_once", gone)
    began_at = clock.now
    with pytest.raises(BrokerUnavailable):
        pipeline.consumer.run(stop, drain=True)
    assert 0 <= clock.now - began_at - outbox.publish_timeout < STEP_SECONDS
    assert pipeline.consumer.worker_state.snapshot() == (Worker.State.TROUBLE, "The broker: it is gone.")

    stop.waits.clear()
    pipeline.consumer.run(stop)
    assert len(stop.waits) == MOST_WAITS


def test_a_broker_that_comes_and_goes_is_one_outage(
    pipeline: Pipeline, stop: CountingStop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_once(timeout: float) -> RoundCounts:
        return gone(timeout) if len(stop.waits) in (0, 2) else RoundCounts()

    monkeypatch.setattr(pipeline.consumer, "run_once", run_once)
    stop.most = 12
    pipeline.consumer.run(stop)
    began, ended = caplog.messages
    assert began == "The broker: it is gone. Trying again until it works."
    assert ended.startswith("The broker is available again after ")


@pytest.mark.django_db(transaction=True)
def test_a_fault_concerns_the_consumers_own_database(
    other: str, clock: Clock, stop: CountingStop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop_preparing(error: Exception, using: str) -> bool:
        asked.append(using)
        return False

    def run_once(timeout: float) -> RoundCounts:
        raise DatabaseError("a prepared statement does not exist")

    consumer = Consumer(memory_broker(), using=other, handlers=Registry(), clock=clock)
    monkeypatch.setattr("django_outbox.worker.loop.stop_preparing", stop_preparing)
    monkeypatch.setattr(consumer, "run_once", run_once)
    with pytest.raises(DatabaseError):
        consumer.run(stop)
    assert asked == [other]


# Drains


def test_a_drain_ends_as_soon_as_all_is_handled_and_committed(
    pipeline: Pipeline, stop: CountingStop, caplog: pytest.LogCaptureFixture
) -> None:
    make_message()
    pipeline.relay.run_once()
    pipeline.consumer.run(stop, drain=True)
    assert statuses() == ["consumed"]
    assert len(stop.waits) <= 1
    assert caplog.messages == []


def test_a_drain_goes_on_until_the_broker_says_that_all_was_read(
    pipeline: Pipeline, stop: CountingStop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [True, False, False]
    monkeypatch.setattr("django_outbox.brokers.memory._Subscription.caught_up", lambda subscription: answers.pop())
    pipeline.consumer.run(stop, drain=True)
    assert answers == []
    assert len(stop.waits) == 2


def test_a_drain_of_another_group_does_not_wait_for_messages_of_the_main_one(
    clock: Clock, stop: CountingStop, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(clock=clock, group="reports")
    pipeline.handlers.register("order.created", effect_of_type, group="reports")
    message = make_message()
    pipeline.relay.run_once()
    pipeline.consumer.run(stop, drain=True)
    assert row(message).status == Status.PUBLISHED
    assert len(stop.waits) <= 1
    assert "were not received" not in caplog.text


def test_a_drain_gives_up_what_does_not_arrive_for_a_while(
    pipeline: Pipeline, stop: CountingStop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    make_message(Status.PUBLISHED)
    pipeline.consumer  # noqa: B018  # made now
    clock.now += 60
    began_at = clock.now
    pipeline.consumer.run(stop, drain=True)
    assert clock.now == began_at + DRAIN_PATIENCE_SECONDS
    (given_up,) = [record for record in caplog.records if record.__dict__["action"] == "drained"]
    assert given_up.getMessage() == "1 published messages were not received."
