"""A topic in trouble stops no other topic of a consumer, and is read again once it is mended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.conf import BrokerSettings
from django_outbox.models import OutboxMessage, Worker
from tests.services.processes.test_security import BACKENDS
from tests.support.brokers.records import (
    allow,
    delete_topic,
    forbid,
    join,
    leader_of,
    make_topic,
    make_topic_on,
    places,
)
from tests.support.brokers.servers import SecondApacheKafka
from tests.support.processes import Command, wait_until
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.secured_kafka import PLAIN, SecuredKafka

pytestmark = pytest.mark.brokers("apache")

ME = f"User:{PLAIN.user}"


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The path of each backend in turn."""
    return BACKENDS[request.param]


class Topics:
    """Two topics, of which one gets into trouble, a relay for both, and the consumer that reads them."""

    def __init__(
        self, broker: KafkaBroker, name: str, send: Callable[..., Any], start: Callable[..., Command], consumer_url: str
    ) -> None:
        self.broker = broker
        self.good, self.bad = f"{name}-good", f"{name}-bad"
        self.group = name
        self._send = send
        self._sent = 0
        self.relay = start("outbox_relay", url=broker.settings.url)
        self._start = lambda *arguments: start(
            "outbox_consume", "--topics", self.good, self.bad, *arguments, url=consumer_url
        )
        self.consumer: Command | None = None

    def consume(self, *arguments: object) -> Command:
        self.consumer = self._start(*arguments)
        return self.consumer

    def send(self, *topics: str) -> list[int]:
        """Have a message published to each topic; returns their ids."""
        messages = [self._send("test.effect", self._sent + number, topic=topic) for number, topic in enumerate(topics)]
        self._sent += len(topics)
        ids = [message.id for message in messages]
        wait_until(lambda: not OutboxMessage.objects.filter(id__in=ids, status="pending").exists(), what="published")
        return ids

    def are_consumed(self, ids: list[int]) -> bool:
        return OutboxMessage.objects.filter(id__in=ids, status="consumed").count() == len(ids)

    def wait(self, ids: list[int], timeout: float = 60) -> None:
        wait_until(lambda: self.are_consumed(ids), timeout, what="consumed")

    def flows(self) -> None:
        """Insist that what is sent to the good topic is consumed soon."""
        self.wait(self.send(self.good), 25)  # sooner than topics without trouble are looked at again

    def told(self) -> list[str]:
        """What the consumer has said of the bad topic."""
        assert self.consumer is not None
        return [line for line in self.consumer.output.splitlines() if f"Topic {self.bad}" in line]

    def waits(self, ids: list[int]) -> None:
        """Insist that nothing of the bad topic is handled, counted, or committed."""
        assert set(OutboxMessage.objects.filter(id__in=ids).values_list("status", "retry_count")) == {("published", 0)}
        assert self.uncommitted == len(ids)

    @property
    def uncommitted(self) -> int:
        """How many records of the bad topic the group has not committed."""
        progress = self.broker.progress([self.bad], self.group)[TopicPartition(self.bad, 0)]
        return progress.high - (progress.committed or 0)


Make = Callable[..., Topics]


@pytest.fixture
def make(send: Any, manage: Callable[..., Command], backend: str, topic: str) -> Make:
    def make(operator_url: str, consumer_url: str) -> Topics:
        def start(name: str, *arguments: object, url: str) -> Command:
            return manage(name, *arguments, env={"OUTBOX_BACKEND": backend, "KAFKA_URL": url})

        return Topics(KafkaBroker(BrokerSettings(url=operator_url)), topic, send, start, consumer_url)

    return make


@pytest.fixture
def secured(make: Make, secured_kafka: SecuredKafka) -> Topics:
    """The consumer may read the good topic. Both topics exist."""
    topics = make(secured_kafka.url, f"kafka+sasl://{PLAIN.userinfo}{secured_kafka.address('LOGIN')}")
    for name in (topics.good, topics.bad):
        make_topic(topics.broker, name, partitions=1)
    allow(topics.broker, ME, {topics.good: ["READ"]}, groups=[topics.group])
    return topics


@pytest.mark.parametrize("rights", [["DESCRIBE"], []], ids=["not read", "not even described"])
def test_a_topic_that_may_not_be_read_stops_no_other_and_is_read_once_it_may(
    secured: Topics, rights: list[str]
) -> None:
    allow(secured.broker, ME, {secured.bad: rights})
    waiting = secured.send(secured.bad, secured.bad)
    consumer = secured.consume()
    consumer.wait_for_line(f"Topic {secured.bad}: .* Let this client read it, by an ACL for the operation Read")
    secured.flows()
    secured.waits(waiting)
    wait_until(lambda: secured.bad in Worker.objects.get(kind="consumer").trouble)

    allow(secured.broker, ME, {secured.bad: ["READ"]})
    secured.wait(waiting)
    consumer.wait_for_line(f"Topic {secured.bad} is available again after")
    secured.wait(secured.send(secured.good, secured.bad))
    assert len(secured.told()) == 2  # that it began, and that it is over
    assert "The broker" not in consumer.output


def test_a_topic_that_may_no_longer_be_read_stops_no_other_and_loses_nothing(secured: Topics) -> None:
    allow(secured.broker, ME, {secured.bad: ["READ"]})
    consumer = secured.consume()
    secured.wait(secured.send(secured.good, secured.bad))
    wait_until(lambda: not secured.uncommitted)  # a group may not commit what it may no longer read

    forbid(secured.broker, ME, secured.bad)
    consumer.wait_for_line(f"Topic {secured.bad}: .* Let this client read it, by an ACL for the operation Read")
    waiting = secured.send(secured.bad)
    secured.flows()
    secured.waits(waiting)

    allow(secured.broker, ME, {secured.bad: ["READ"]})
    secured.wait(waiting)
    consumer.wait_for_line(f"Topic {secured.bad} is available again after")
    secured.flows()


def test_a_drain_says_what_it_may_not_read_and_fails(secured: Topics) -> None:
    waiting = secured.send(secured.bad)
    good = secured.send(secured.good)
    consumer = secured.consume("--drain")
    assert consumer.wait() == 1
    assert secured.are_consumed(good)
    secured.waits(waiting)
    assert f"Messages are left, as their topics cannot be read. {secured.bad}: " in consumer.output


def test_a_topic_that_comes_goes_and_comes_again_stops_no_other(make: Make, secured_kafka: SecuredKafka) -> None:
    topics = make(secured_kafka.url, secured_kafka.url)
    make_topic(topics.broker, topics.good, partitions=1)
    consumer = topics.consume()
    consumer.wait_for_line(f"Topic {topics.bad}: it does not exist. Create the topic, or start outbox_relay with")
    topics.flows()
    make_topic(topics.broker, topics.bad, partitions=1)
    consumer.wait_for_line(f"Topic {topics.bad} is available again after")
    topics.wait(topics.send(topics.bad))

    delete_topic(topics.broker, topics.bad)
    topics.flows()
    consumer.wait_for_line(f"Topic {topics.bad}: it does not exist", 60)
    topics.flows()
    make_topic(topics.broker, topics.bad, partitions=1)
    topics.wait(topics.send(topics.bad, topics.bad))
    assert "The broker" not in consumer.output


@pytest.fixture
def two_nodes() -> Iterator[tuple[ApacheKafka, SecondApacheKafka]]:
    """A cluster whose first node leads all that groups need."""
    with ApacheKafka() as first:
        broker = KafkaBroker(BrokerSettings(url=first.url))
        make_topic(broker, "first", partitions=1)
        member = broker.subscribe(["first"], "first")
        join(member, places=places("first", 1))
        member.close()
        with SecondApacheKafka(first) as second:
            yield first, second


def test_a_topic_without_a_leader_stops_no_other_and_is_read_once_it_has_one(
    make: Make, two_nodes: tuple[ApacheKafka, SecondApacheKafka]
) -> None:
    first, second = two_nodes
    topics = make(first.url, first.url)
    make_topic_on(topics.broker, topics.good, 1)
    make_topic_on(topics.broker, topics.bad, 2)
    consumer = topics.consume()
    topics.wait(topics.send(topics.good, topics.bad))

    second.stop()
    wait_until(lambda: leader_of(topics.broker, topics.bad) is None, what="no leader")
    topics.flows()
    consumer.wait_for_line(f"Topic {topics.bad}: no leader of partition 0. Check its partitions", 60)
    topics.flows()

    second.start()
    consumer.wait_for_line(f"Topic {topics.bad} is available again after", 60)
    topics.wait(topics.send(topics.bad))
