"""What only the broker of kafka-python can get wrong: connecting, outages, threads, rebalances."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from kafka.producer.sender import Sender
from kafka.structs import MemberState

from django_outbox.brokers.base import Acknowledged, Record, Refused, TopicMissing
from django_outbox.brokers.kafka import broker as kafka
from django_outbox.brokers.kafka.client import connect
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import kafka_broker
from tests.support.brokers.leaks import python_sockets, wait_until_closed
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.records import (
    SECONDS,
    SLACK_SECONDS,
    connected_producer,
    delete_topic,
    join,
    log_of,
    make_special_topic,
    make_topic,
    numbered,
    places,
    read,
    seconds_of,
    seconds_until,
    send,
    sole_member,
)
from tests.support.processes import wait_until
from tests.support.servers.base import Service

# Connecting


def test_what_was_closed_leaves_neither_threads_nor_sockets_behind_and_is_quiet(
    kafka_url: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    threads, sockets = set(threading.enumerate()), python_sockets()
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 1))
    producer.close()
    member = broker.subscribe([topic], topic)
    assert len(read(member, 1)) == 1
    member.close()
    wait_until_closed(threads, sockets)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Sending


def test_a_broker_that_dies_is_reported_within_the_deadline_and_nothing_is_sent_when_it_is_back(
    own_broker: Service, topic: str
) -> None:
    broker = kafka_broker(own_broker.url)
    make_topic(broker, topic, partitions=1)
    producer, kept = connected_producer(broker, topic, 1)

    own_broker.kill()
    seconds, text = seconds_until(BrokerUnavailable, lambda: producer.send(numbered(topic, 10), 1))
    assert seconds < 1 + SLACK_SECONDS
    assert text == f"{own_broker.url} did not accept a batch: no acknowledgement within 1 s."
    assert not producer.usable
    assert seconds_of(producer.close) < SLACK_SECONDS

    own_broker.start()
    if broker.missing_topics([topic]):  # in memory, nothing is kept
        kept = 0
    make_topic(broker, topic, partitions=1)
    again = broker.producer(SECONDS)
    assert send(again, *numbered(topic, 2)) == [Acknowledged(0, kept), Acknowledged(0, kept + 1)]
    again.close()


@pytest.mark.parametrize(
    ("partitions", "size", "patience"),
    [
        pytest.param(1, 200_000, 1, id="in the kernel, of a connection that the client has given up"),
        pytest.param(1, 200_000, SECONDS, id="in the kernel, of a connection that is open"),
        pytest.param(8, 900_000, SECONDS, id="in the kernel and before it"),
    ],
)
def test_nothing_of_an_abandoned_batch_is_sent_when_its_connection_heals(
    proxied_url: str, proxy: Proxy, topic: str, partitions: int, size: int, patience: float
) -> None:
    proxied = kafka_broker(proxied_url)
    make_topic(proxied, topic, partitions)
    producer = proxied.producer(patience)
    send(producer, Record(topic, b"k", b"before"))

    proxy.stall()
    batch = [Record(topic, b"key %d" % number, b"x" * size) for number in range(20)]
    seconds, _ = seconds_until(BrokerUnavailable, lambda: producer.send(batch, 1))
    assert seconds < 1 + SLACK_SECONDS
    assert seconds_of(producer.close) < SLACK_SECONDS
    wait_until(lambda: not [thread for thread in threading.enumerate() if "network-thread" in thread.name])
    proxy.heal()
    wait_until(lambda: proxy.connections == 0, what="connections of the abandoned producer ended")

    again = proxied.producer(SECONDS)
    for value in (b"after", b"end"):
        send(again, Record(topic, b"k", value))
    again.close()
    assert sorted(log_of(proxied, topic, 3)) == [b"after", b"before", b"end"]


@pytest.mark.brokers("apache")  # Tansu takes records for topics that it has deleted
def test_a_topic_that_is_deleted_is_missing_and_not_created_again(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(5)
    send(producer, *numbered(topic, 1))
    delete_topic(broker, topic)
    assert producer.send(numbered(topic, 1), 5) == [TopicMissing()]
    assert not producer.usable
    producer.close()
    again = broker.producer(SECONDS)
    assert again.send(numbered(topic, 1), SECONDS) == [TopicMissing()]
    again.close()


@pytest.mark.brokers("apache")  # Tansu knows no record as invalid
def test_a_broker_that_does_not_say_which_record_of_a_batch_is_invalid_costs_the_others_nothing(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those before Kafka 2.4, and some of other makers."""
    by_record = Sender._record_exceptions_fn
    monkeypatch.setattr(
        Sender, "_record_exceptions_fn", lambda self, error, records, text: by_record(self, error, (), text)
    )
    broker = kafka_broker(kafka_url)
    make_special_topic(broker, topic, **{"cleanup.policy": "compact"})  # such a topic takes no record without a key
    keys = [b"1", b"2", None, b"1", None, b"3"]
    producer = broker.producer(SECONDS)
    outcomes = producer.send([Record(topic, key, b"%d" % number) for number, key in enumerate(keys)], SECONDS)
    producer.close()
    assert [type(outcome) for outcome in outcomes] == [Acknowledged if key else Refused for key in keys]
    assert log_of(broker, topic, 4) == [b"0", b"1", b"3", b"5"]


# Reading


def test_a_member_that_has_other_work_between_its_polls_joins_all_the_same(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic], topic)
    for _ in range(3):
        member.poll(0.0, 10)
    assert member.take_assigned() == places(topic, 1)
    member.close()


def test_a_join_that_the_client_has_forgotten_is_taken_up_again(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client forgets one if a poll ends after it has dealt out new partitions and before it has its own."""
    broker = kafka_broker(kafka_url)
    clients: list[Any] = []

    def connecting(*arguments: Any) -> Any:
        clients.append(connect(*arguments))
        return clients[-1]

    monkeypatch.setattr(kafka, "connect", connecting)
    member = sole_member(broker, topic)
    coordinator = clients[-1]._coordinator
    coordinator.state, coordinator.rejoin_needed = MemberState.REBALANCING, False
    join(member, places=places(topic, 1))
    member.close()
