"""A consumer that waits for its partitions for too long says so, ends a drain, and joins anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from django_outbox.assignment_watch import REJOIN_SECONDS, WARN_SECONDS
from django_outbox.brokers.base import Subscription, TopicMissing
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings
from django_outbox.consumer import Consumer
from django_outbox.exceptions import MessagesLeft
from django_outbox.models import Worker
from django_outbox.runner import Stop
from django_outbox.topic_watch import LOOK_SECONDS
from tests.clock import Clock

pytestmark = pytest.mark.django_db


class Broker(MemoryBroker):
    """Its group assigns partitions when a test says so; each poll takes ten seconds."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(BrokerSettings(url="memory://unassigned"))
        self.clock = clock
        self.assigns = False
        self.is_idle = False
        self.needs_new_client = False
        self.joined = 0
        self.after_poll: Callable[[], object] = lambda: None

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        self.joined += 1
        broker, member = self, super().subscribe(topics, group)

        class Member(type(member)):  # type: ignore[misc]
            @property
            def is_assigned(self) -> bool:
                return broker.assigns

            @property
            def is_idle(self) -> bool:
                return broker.is_idle

            @property
            def needs_new_client(self) -> bool:
                return broker.needs_new_client

            def caught_up(self) -> bool:
                return broker.assigns

            def poll(self, timeout: float, limit: int) -> Any:
                broker.clock.now += 10
                broker.after_poll()
                return []

        member.__class__ = Member
        return member


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock)


@pytest.fixture
def consumer(broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture) -> Consumer:
    caplog.set_level(logging.INFO, "django_outbox.consumer")
    return Consumer(broker, using="default", group="tests", clock=clock)


def run_for(seconds: float, consumer: Consumer, broker: Broker, clock: Clock, stop: Stop) -> None:
    end = clock.now + seconds
    broker.after_poll = lambda: stop.request() if clock.now >= end else None
    consumer.run(stop)


def test_a_long_wait_is_logged_once_and_is_the_workers_trouble(
    consumer: Consumer, broker: Broker, clock: Clock, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    text = "No partitions were assigned to this consumer, as the group's rebalance does not end."

    run_for(WARN_SECONDS + 60, consumer, broker, clock, stop)

    assert [message.partition(": ")[2] for message in caplog.messages] == [f"{text} Trying again until it works."]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert consumer.pulse.now() == (Worker.State.TROUBLE, f"The consumer group tests: {text}")


def test_it_is_over_once_partitions_are_assigned(
    consumer: Consumer, broker: Broker, clock: Clock, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    def after_poll() -> None:
        broker.assigns = clock.now >= started + 100
        if clock.now >= started + 120:
            stop.request()

    started = clock.now
    broker.after_poll = after_poll
    consumer.run(stop)

    assert "available again" in caplog.messages[-1]
    assert consumer.pulse.now() == (Worker.State.WORKING, "")


def test_an_empty_assignment_is_no_trouble(
    consumer: Consumer, broker: Broker, clock: Clock, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a group with more members than partitions."""
    broker.assigns = True
    run_for(3600, consumer, broker, clock, stop)
    assert caplog.messages == []
    assert broker.joined == 1


def test_a_new_client_joins_after_longer_than_a_rebalance_may_take(
    consumer: Consumer, broker: Broker, clock: Clock, stop: Stop
) -> None:
    joined: list[int] = []

    def after_poll() -> None:
        joined.append(broker.joined)
        if broker.joined == 3:
            stop.request()

    broker.after_poll = after_poll
    consumer.run(stop)

    polls = int(REJOIN_SECONDS / 10)
    assert polls < joined.count(1) == joined.count(2) <= polls + 2


def test_a_drain_ends_with_an_error(consumer: Consumer, broker: Broker, clock: Clock, stop: Stop) -> None:
    with pytest.raises(MessagesLeft, match="The consumer group tests: No partitions were assigned"):
        consumer.run(stop, drain=True)
    assert clock.now < 1000 + 2 * WARN_SECONDS


def test_a_member_without_partitions_looks_at_once_whether_its_topics_are_gone(
    consumer: Consumer, broker: Broker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that joined while its topic did not exist may never notice when it is created again."""
    looks: list[float] = []

    def unreadable_topics(topics: Iterable[str]) -> dict[str, TopicMissing]:
        looks.append(clock.now)
        return {topic: TopicMissing() for topic in topics} if broker.is_idle else {}

    monkeypatch.setattr(broker, "unreadable_topics", unreadable_topics)
    broker.assigns = True
    consumer.run_once()
    assert (broker.joined, len(looks)) == (1, 1)

    broker.is_idle = True  # as after a restart of the broker, before the relay has created the topic again
    consumer.run_once()
    consumer.run_once()
    assert len(looks) == 2
    assert clock.now - looks[0] < LOOK_SECONDS

    broker.is_idle = False
    clock.now += 10
    consumer.run_once()
    assert broker.joined == 2


def test_a_member_that_gets_partitions_only_with_a_new_client_joins_again(consumer: Consumer, broker: Broker) -> None:
    broker.assigns = True
    consumer.run_once()
    assert broker.joined == 1

    broker.needs_new_client = True
    consumer.run_once()
    broker.needs_new_client = False
    consumer.run_once()

    assert broker.joined == 2
