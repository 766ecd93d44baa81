"""What only the broker in memory promises, to those who test with it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import Acknowledged, Record, TopicPartition
from django_outbox.brokers.memory import MAX_RECORD_BYTES, MemoryBroker
from django_outbox.conf import BrokerSettings
from tests.support.brokers.records import SECONDS, make_topic, numbered, read, send

A_DAY = 86_400.0


def memory_broker(url: str = "memory://", **options: object) -> MemoryBroker:
    return MemoryBroker(BrokerSettings(url=url, options=options))


def test_brokers_of_one_url_are_one_cluster() -> None:
    send(memory_broker().producer(SECONDS), *numbered("topic", 3))
    assert [record.value for record in memory_broker().records("topic")] == [b"0", b"1", b"2"]
    assert len(read(memory_broker().subscribe(["topic"], "group"), 3)) == 3


def test_brokers_of_different_urls_share_nothing() -> None:
    send(memory_broker("memory://one").producer(SECONDS), *numbered("topic", 3))
    other = memory_broker("memory://other")
    assert other.records("topic") == []
    assert other.subscribe(["topic"], "group").poll(0, 10) == []


def test_clear_forgets_topics_records_and_offsets() -> None:
    broker = memory_broker()
    send(broker.producer(SECONDS), *numbered("topic", 3))
    member = broker.subscribe(["topic"], "group")
    (place,) = {TopicPartition(record.topic, record.partition) for record in read(member, 3)}
    member.commit({place: 3})

    MemoryBroker.clear()
    strict = memory_broker(create_topics=False)
    assert strict.records("topic") == []
    assert strict.missing_topics(["topic"]) == {"topic"}
    send(memory_broker().producer(SECONDS), *numbered("topic", 2))
    assert len(read(memory_broker().subscribe(["topic"], "group"), 2)) == 2


def test_clear_may_forget_one_cluster_only() -> None:
    for url in ("memory://one", "memory://other"):
        send(memory_broker(url).producer(SECONDS), *numbered("topic", 1))
    MemoryBroker.clear("memory://one")
    MemoryBroker.clear("memory://unknown")
    assert memory_broker("memory://one").records("topic") == []
    assert len(memory_broker("memory://other").records("topic")) == 1


def test_records_are_shown_partition_by_partition_and_stay() -> None:
    broker = memory_broker()
    outcomes = send(broker.producer(SECONDS), *(Record("topic", b"%d" % number, b"v") for number in range(50)))
    shown = [(record.partition, record.offset) for record in broker.records("topic")]
    assert shown == sorted((outcome.partition, outcome.offset) for outcome in outcomes)
    read(broker.subscribe(["topic"], "group"), 50)
    assert len(broker.records("topic")) == 50
    assert broker.records("unknown") == []


def test_topics_are_created_at_their_first_use() -> None:
    broker = memory_broker()
    assert broker.missing_topics(["asked"]) == set()
    send(broker.producer(SECONDS), *numbered("sent", 1))
    strict = memory_broker(create_topics=False)
    assert strict.missing_topics(["asked", "sent", "other"]) == {"other"}


@pytest.mark.parametrize(("options", "partitions"), [({}, 3), ({"partitions": 1}, 1), ({"partitions": 7}, 7)])
def test_the_number_of_partitions_is_an_option(options: dict[str, int], partitions: int) -> None:
    broker = memory_broker(**options)
    outcomes = send(broker.producer(SECONDS), *(Record("topic", b"%d" % number, b"v") for number in range(100)))
    assert {outcome.partition for outcome in outcomes} == set(range(partitions))
    make_topic(broker, "other", partitions=2)
    outcomes = send(broker.producer(SECONDS), *(Record("other", None, b"v") for _ in range(10)))
    assert {outcome.partition for outcome in outcomes} == {0, 1}


@pytest.mark.parametrize(
    ("option", "value"), [("partitions", 0), ("partitions", "3"), ("create_topics", "no"), ("create_topics", None)]
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf'OUTBOX\["BROKER"\]\["OPTIONS"\]: "{option}" must be'):
        memory_broker(**{option: value})


def test_the_largest_record_is_taken() -> None:
    send(memory_broker().producer(SECONDS), Record("topic", b"k", b"x" * MAX_RECORD_BYTES))


def test_location_shows_nothing_of_the_url() -> None:
    assert memory_broker("memory://user:password@here").location == "memory"


def test_what_waits_for_records_is_woken_by_them() -> None:
    broker = memory_broker(partitions=1)
    member = broker.subscribe(["topic"], "group")
    broker.missing_topics(["topic"])
    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(member.poll, A_DAY, 10)
        send(broker.producer(SECONDS), *numbered("elsewhere", 1))
        send(broker.producer(SECONDS), *numbered("topic", 1))
        assert [record.value for record in polled.result()] == [b"0"]


def test_what_waits_for_records_is_woken_by_partitions_that_are_handed_over() -> None:
    broker = memory_broker(partitions=1)
    send(broker.producer(SECONDS), *numbered("topic", 1))
    leaving, waiting = (broker.subscribe(["topic"], "group") for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(waiting.poll, A_DAY, 10)
        leaving.close()
        assert [record.value for record in polled.result()] == [b"0"]


def test_a_member_that_has_left_reads_and_commits_nothing() -> None:
    broker = memory_broker(partitions=1)
    send(broker.producer(SECONDS), *numbered("topic", 3))
    member = broker.subscribe(["topic"], "group")
    member.close()
    member.commit({TopicPartition("topic", 0): 3})
    assert member.poll(0, 10) == []
    assert member.take_assigned() == set()
    assert len(read(broker.subscribe(["topic"], "group"), 3)) == 3


def test_threads_send_and_read_side_by_side() -> None:
    broker = memory_broker()
    members = [broker.subscribe(["topic"], "group") for _ in range(3)]
    sent, received, lock = 4 * 250, [], threading.Lock()

    def send_some(thread: int) -> list[Acknowledged]:
        producer = broker.producer(SECONDS)
        return [
            outcome
            for number in range(250)
            for outcome in send(producer, Record("topic", b"%d" % thread, b"%d" % number))
        ]

    def read_some(index: int) -> None:
        deadline = time.monotonic() + SECONDS
        while len(received) < sent and time.monotonic() < deadline:
            batch = members[index].poll(0.05, 7)
            with lock:
                received.extend(batch)

    with ThreadPoolExecutor(7) as pool:
        readers = [pool.submit(read_some, index) for index in range(3)]
        places = [(done.partition, done.offset) for one in pool.map(send_some, range(4)) for done in one]
        for reader in readers:
            reader.result()
    assert len(set(places)) == sent
    assert sorted((record.partition, record.offset) for record in received) == sorted(places)
    for thread in range(4):
        values = [int(record.value or b"") for record in received if record.key == b"%d" % thread]
        assert values == list(range(250))
