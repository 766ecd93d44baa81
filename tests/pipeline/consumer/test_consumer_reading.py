"""The consumer: how much it reads and when, in turns with stored messages, and what it commits before it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.consumer import INBOX_SECONDS, KEEP_ALIVE_SECONDS, RETRY_SECONDS
from django_outbox.consumer.in_hand import READS
from django_outbox.events.event import Event
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable
from tests.support.clock import Clock
from tests.support.effects import effect_of_type
from tests.support.inbox import make_received
from tests.support.outbox import Pipeline, make_message, memory_broker, statuses

pytestmark = pytest.mark.django_db

MEMBER = "django_outbox.brokers.memory._Subscription"
PLACE = TopicPartition("outbox", 0)
AT_ONCE = 3


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Timeout and limit of each poll; none gets more than three records."""
    from django_outbox.brokers.memory import _Subscription

    polls: list[tuple[float, int]] = []
    real_poll = _Subscription.poll

    def poll(member: Any, timeout: float, limit: int) -> Any:
        polls.append((timeout, limit))
        assert len(polls) < 20, "it polls for ever"
        return real_poll(member, timeout, min(limit, AT_ONCE))

    monkeypatch.setattr(f"{MEMBER}.poll", poll)
    return polls


def committed(pipeline: Pipeline) -> int | None:
    return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[PLACE].committed


# Reading


def test_for_a_batch_handler_what_is_available_is_read_at_once(polls: list[tuple[float, int]]) -> None:
    calls: list[int] = []
    pipeline = Pipeline(steady=True, batch_size=1)
    pipeline.on("order.created", lambda events: calls.append(len(events)), batch=10)
    for _ in range(12):
        make_message()
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once(0.25).consumed == 10
    assert polls == [(0.25, 10), (0.0, 7), (0.0, 4), (0.0, 1)]
    assert calls == [10]

    polls.clear()
    assert pipeline.consumer.run_once(0.25).consumed == 2
    assert polls == [(0.25, 10), (0.0, 8)]


def test_without_one_what_came_with_the_first_poll_is_handled_first(polls: list[tuple[float, int]]) -> None:
    pipeline = Pipeline(steady=True, batch_size=10)
    pipeline.on("order.created", effect_of_type)
    for _ in range(12):
        make_message()
    pipeline.relay.run_once()
    assert pipeline.consumer.run_once(0.25).consumed == AT_ONCE
    assert polls == [(0.25, 10)]


def test_for_threads_more_is_read_than_one_batch(
    polls: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.consumer.consumer.require_concurrency", lambda concurrency, using: None)
    pipeline = Pipeline(batch_size=1, concurrency=4)
    monkeypatch.setattr(pipeline.consumer.lanes, "work", lambda *arguments: None)
    pipeline.consumer.run_once()
    assert polls == [(0.0, pipeline.consumer.lanes.read_ahead // READS)]


def test_a_member_with_full_hands_polls_only_to_stay_in_its_group(
    clock: Clock, polls: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(clock=clock)

    def handle(event: Event) -> None:
        effect_of_type(event)
        clock.now += RETRY_SECONDS

    pipeline.on("order.created", handle)
    for _ in range(AT_ONCE):
        make_message()
    pipeline.relay.run_once()
    with monkeypatch.context() as patches:
        patches.setattr(pipeline.consumer.lanes, "work", lambda *arguments: None)
        pipeline.consumer.run_once()
        assert len(polls) == 1
        clock.now += KEEP_ALIVE_SECONDS - 1
        pipeline.consumer.run_once()
        assert len(polls) == 1
        clock.now += 1
        pipeline.consumer.run_once()
        assert polls[1:] == [(0.0, 0)]
    pipeline.consumer.lanes.engines[0].transaction_size = 1

    assert pipeline.consumer.run_once().consumed == AT_ONCE
    assert len(polls) == 2


def test_stored_messages_that_take_long_take_turns_with_records(clock: Clock) -> None:
    pipeline = Pipeline(clock=clock, steady=True)
    handled: list[Any] = []

    def handle(event: Event) -> None:
        handled.append(event.payload)
        clock.now += RETRY_SECONDS

    pipeline.on("order.created", handle)
    make_received(payload="stored"), make_received(payload="stored")
    make_message(payload="record")
    pipeline.relay.run_once()
    pipeline.consumer  # noqa: B018  # made now
    clock.now += INBOX_SECONDS
    pipeline.consumer.run_once()
    assert handled == ["stored", "record"]
    pipeline.consumer.run_once()
    assert handled == ["stored", "record", "stored"]


def test_while_stored_messages_are_due_more_are_looked_for_at_once_and_else_after_a_second(clock: Clock) -> None:
    pipeline = Pipeline(clock=clock, batch_size=1)
    pipeline.on("order.created", effect_of_type)
    make_received(), make_received()
    pipeline.consumer  # noqa: B018  # made now
    clock.now += INBOX_SECONDS
    assert [pipeline.consumer.run_once().retried for _ in range(3)] == [1, 1, 0]

    make_received()
    clock.now += INBOX_SECONDS - 0.1
    assert pipeline.consumer.run_once().retried == 0
    clock.now += 0.1
    assert pipeline.consumer.run_once().retried == 1


# Leaving


@pytest.mark.parametrize("error", [BrokerUnavailable("it is gone"), TopicNotReadable({"outbox"}, "refused")])
def test_a_consumer_ends_even_if_its_last_commit_fails_and_the_records_are_skipped_later(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(member: object, offsets: object) -> bool:
        raise error

    pipeline = Pipeline()
    pipeline.on("order.created", effect_of_type)
    make_message()
    with monkeypatch.context() as patches:
        patches.setattr(f"{MEMBER}.commit_soon", lambda member, offsets: False)
        pipeline.turn()
        patches.setattr(f"{MEMBER}.commit", commit)
        pipeline.consumer.close()
    assert (statuses(), committed(pipeline)) == (["consumed"], None)
    assert pipeline.consumer.run_once().skipped == 1
    assert committed(pipeline) == 1


def test_what_was_handled_is_committed_before_other_topics_are_read(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a commit without waiting has no answer yet."""
    pipeline = Pipeline(memory_broker(create_topics=False), topics=["outbox", "late"], clock=clock)
    pipeline.on("order.created", effect_of_type)
    pipeline.broker.create_topics(["outbox"], partitions=1, replication=None)
    make_message()
    monkeypatch.setattr(f"{MEMBER}.commit_soon", lambda member, offsets: False)
    assert pipeline.turn().consumed == 1
    assert committed(pipeline) is None

    pipeline.broker.create_topics(["late"], partitions=1, replication=None)
    clock.now += 60
    assert pipeline.consumer.run_once().received == 0
    assert committed(pipeline) == 1
