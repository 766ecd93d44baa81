"""What only the broker of confluent-kafka can get wrong: outages, room, partitions, sockets."""

from __future__ import annotations

import re
import time
from itertools import count

import pytest

from django_outbox.brokers import subscription as subscriptions
from django_outbox.brokers.base import Acknowledged, Record, TopicMissing, TopicPartition
from django_outbox.brokers.confluent import client as confluent_client
from django_outbox.brokers.confluent.first_records import FirstRecords
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import IMPATIENT_TOO, confluent_broker, kafka_broker
from tests.support.brokers.leaks import count_sockets
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.records import (
    SECONDS,
    SLACK_SECONDS,
    Reader,
    connected_producer,
    delete_topic,
    join,
    log_of,
    make_topic,
    numbered,
    places,
    read,
    reading,
    seconds_of,
    seconds_until,
    send,
    sole_member,
)
from tests.support.brokers.scripted import ScriptedBroker
from tests.support.processes import wait_until
from tests.support.servers.base import Service

# Connecting


def test_what_was_closed_leaves_no_sockets_behind(kafka_url: str, topic: str) -> None:
    before = count_sockets()
    broker = confluent_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 1))
    producer.close()
    assert log_of(broker, topic, 1) == [b"0"]
    broker.missing_topics([topic])
    wait_until(lambda: count_sockets() <= before, what="all sockets are closed")


# Partitions


def test_both_backends_send_a_key_to_the_same_partition(kafka_url: str, topic: str) -> None:
    broker = confluent_broker(kafka_url)
    make_topic(broker, topic, partitions=7)
    records = [Record(topic, b"key %d" % number, b"v") for number in range(500)]
    records += [Record(topic, "ключ".encode(), b"v"), Record(topic, b"\0\xff", b"v"), Record(topic, b"", b"v")]
    ours, theirs = broker.producer(SECONDS), kafka_broker(kafka_url).producer(SECONDS)
    partitions = [[outcome.partition for outcome in send(producer, *records)] for producer in (ours, theirs)]
    assert partitions[0] == partitions[1]
    assert len(set(partitions[0])) == 7
    ours.close()
    theirs.close()


def test_members_of_both_backends_share_a_group(kafka_url: str, topic: str) -> None:
    broker = confluent_broker(kafka_url)
    other = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=4)
    producer = broker.producer(SECONDS)
    for first, second in ((broker, other), (other, broker)):
        members = first.subscribe([topic], topic), second.subscribe([topic], topic)
        shares = join(*members, places=places(topic, 4))
        assert [len(share) for share in shares] == [2, 2]
        outcomes = send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(100)))
        for member, share in zip(members, shares, strict=True):
            mine = [outcome for outcome in outcomes if TopicPartition(topic, outcome.partition) in share]
            records = read(member, len(mine))
            member.commit({TopicPartition(topic, record.partition): record.offset + 1 for record in records})
        members[0].close()
        join(members[1], places=places(topic, 4))
        assert members[1].poll(0.5, 100) == []  # who takes over goes on where the other backend was
        members[1].close()
    producer.close()


def test_with_cooperative_assignment_a_member_reads_on_in_what_it_keeps(kafka_url: str, topic: str) -> None:
    # With a short session, a broker that stalls would exclude the member, which then begins anew.
    cooperative = {"session.timeout.ms": 10_000, "partition.assignment.strategy": "cooperative-sticky"}
    broker = confluent_broker(kafka_url, consumer_options=cooperative)
    make_topic(broker, topic, partitions=4)
    producer = broker.producer(SECONDS)
    sent = [Record(topic, b"key %d" % number, b"v") for number in range(100)]
    send(producer, *sent)
    with reading(broker.subscribe([topic], topic)) as [first]:
        wait_until(lambda: len(first.records) == 100 and first.share == places(topic, 4))
        second = broker.subscribe([topic], topic)
        with reading(second) as [other]:
            wait_until(lambda: len(other.share) == 2, what="two partitions moved")
            send(producer, *sent)

            def all_read() -> bool:
                return sum(len(offsets) for offsets in everything(first, other).values()) == 200

            wait_until(all_read, what="all read")
        kept = first.progress().keys()
        assert kept == places(topic, 4) - other.share
        read_twice = [place for place in kept if first.places.count(place) > len(first.offsets[place])]
        assert not read_twice, "nothing was committed, so that a partition that was dealt out anew begins again"
        second.close()
        wait_until(lambda: first.progress().keys() == places(topic, 4), what="all given back")
    first.subscription.close()
    producer.close()


def test_with_cooperative_assignment_a_member_that_is_given_nothing_is_caught_up(kafka_url: str, topic: str) -> None:
    cooperative = {**IMPATIENT_TOO, "partition.assignment.strategy": "cooperative-sticky"}
    broker = confluent_broker(kafka_url, consumer_options=cooperative)
    make_topic(broker, topic, partitions=1)
    members = [broker.subscribe([topic], topic) for _ in range(2)]
    assert not any(member.caught_up() for member in members)

    def all_are_caught_up() -> bool:
        told = [not member.poll(0.1, 500) and member.caught_up() for member in members]
        return all(told)

    wait_until(all_are_caught_up)
    assert sorted(len(member.progress()) for member in members) == [0, 1]
    for member in members:
        member.close()


def everything(*readers: Reader) -> dict[TopicPartition, set[int]]:
    """Which offsets of each partition the readers got together."""
    offsets: dict[TopicPartition, set[int]] = {}
    for reader in readers:
        for place, of_reader in reader.offsets.items():
            offsets.setdefault(place, set()).update(of_reader)
    return offsets


# Sending


def test_a_broker_that_dies_is_reported_within_the_deadline_and_nothing_is_sent_when_it_is_back(
    own_broker: Service, topic: str
) -> None:
    broker = confluent_broker(own_broker.url)
    make_topic(broker, topic, partitions=1)
    producer, kept = connected_producer(broker, topic, 3)

    own_broker.kill()
    seconds, text = seconds_until(BrokerUnavailable, lambda: producer.send(numbered(topic, 10), 3))
    assert seconds < 3 + SLACK_SECONDS
    assert text.startswith(f"{own_broker.url} did not accept a batch: ")
    assert not producer.usable
    assert seconds_of(producer.close) < SLACK_SECONDS

    own_broker.start()
    if broker.missing_topics([topic]):  # in memory, nothing is kept
        kept = 0
    make_topic(broker, topic, partitions=1)
    again = broker.producer(SECONDS)
    send(again, Record(topic, b"k", b"after"))
    again.close()
    assert log_of(broker, topic, kept + 1) == [b"before"] * kept + [b"after"]


# A broker knows nothing of a new producer, so it takes a second request when it has refused the first. Tansu does not.


@pytest.mark.brokers("apache")
@pytest.mark.parametrize(("key", "options"), [(b"key", {}), (None, {}), (b"key", {"partitioner": "consistent"})])
def test_no_record_overtakes_one_that_the_broker_refuses_as_the_first(
    proxied_url: str, proxy: Proxy, topic: str, key: bytes | None, options: dict[str, str]
) -> None:
    broker = confluent_broker(proxied_url, producer_options={"batch.num.messages": 1, **options})
    make_topic(broker, topic, partitions=1)
    proxy.alter = changed = OtherPartition(topic)
    producer = broker.producer(SECONDS)
    told = send(producer, *numbered(topic, 9, key=key))
    producer.close()
    proxy.heal()
    assert changed.is_done
    assert [outcome.offset for outcome in told] == list(range(9))
    assert log_of(broker, topic, 9) == [b"%d" % number for number in range(9)]


@pytest.mark.brokers("apache")
def test_what_the_broker_refused_before_it_took_later_records_is_not_told_to_be_in_the_log(
    proxied_url: str, proxy: Proxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may happen in a partition that was added while the producer was at work."""
    monkeypatch.setattr(FirstRecords, "renew", lambda *topics: None)
    broker = confluent_broker(proxied_url, producer_options={"batch.num.messages": 1})
    tries = count()

    def took_later_records_first() -> bool:
        name = make_topic(broker, f"{topic}-{next(tries)}", partitions=1)
        proxy.alter = OtherPartition(name)
        producer = broker.producer(SECONDS)
        told = [outcome.offset for outcome in send(producer, *numbered(name, 9))]
        producer.close()
        proxy.heal()
        values = log_of(broker, name, max(offset or 0 for offset in told) + 1)
        assert [values[offset] for offset in told if offset is not None] == [b"%d" % number for number in range(9)]
        assert told == sorted(told)  # type: ignore[type-var]
        return values[0] != b"0"

    wait_until(took_later_records_first)


class OtherPartition:
    """What a proxy does to the first records that are sent to a topic: they go to a partition that it does not have."""

    def __init__(self, topic: str) -> None:
        # The topic's name, a list of one partition as older and newer versions of the protocol write it, its number.
        self._place = re.compile(re.escape(topic.encode()) + rb"(?:\x00\x00\x00\x01|\x02)\x00\x00\x00(?=\x00)")
        self.is_done = False

    def __call__(self, data: bytes) -> bytes:
        found = None if self.is_done else self._place.search(data)
        if found is None:
            return data
        self.is_done = True
        return data[: found.end()] + b"\x07" + data[found.end() + 1 :]


# The first two fit into what the kernel holds for a connection that hangs; of five of the last, the first does.
@pytest.mark.parametrize("size", [2_000, 30_000, 900_000])
def test_nothing_of_an_abandoned_batch_is_sent_when_its_connection_heals(
    proxied_url: str, proxy: Proxy, topic: str, size: int
) -> None:
    proxied = confluent_broker(proxied_url)
    make_topic(proxied, topic, partitions=1)
    producer = proxied.producer(2)
    send(producer, Record(topic, b"k", b"before"))

    proxy.stall()
    seconds, text = seconds_until(BrokerUnavailable, lambda: producer.send([Record(topic, b"k", b"x" * size)] * 5, 2))
    assert 2 <= seconds < 2 + SLACK_SECONDS
    late = f"{proxied.location} did not accept a batch: no acknowledgement within 2 s"
    assert re.fullmatch(rf"{re.escape(late)}( \(.+\))?\.", text)  # the library may have told why by then
    assert seconds_of(producer.close) < SLACK_SECONDS
    proxy.heal()
    wait_until(lambda: proxy.connections == 0, what="connections of the abandoned producer ended")

    again = proxied.producer(SECONDS)
    for value in (b"after", b"end"):
        send(again, Record(topic, b"k", value))
    again.close()
    assert log_of(proxied, topic, 3) == [b"before", b"after", b"end"]


def test_more_records_than_the_library_has_room_for_are_sent_all_the_same(kafka_url: str, topic: str) -> None:
    broker = confluent_broker(kafka_url, producer_options={"queue.buffering.max.messages": 10})
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 200))
    producer.close()
    assert log_of(broker, topic, 200) == [b"%d" % number for number in range(200)]


def test_a_library_without_room_is_waited_for_until_the_deadline(proxied_url: str, proxy: Proxy, topic: str) -> None:
    broker = confluent_broker(proxied_url, producer_options={"queue.buffering.max.messages": 10})
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(1)
    send(producer, *numbered(topic, 1))
    proxy.stall()
    seconds, _ = seconds_until(BrokerUnavailable, lambda: producer.send(numbered(topic, 50), 1))
    assert 1 <= seconds < 1 + SLACK_SECONDS
    producer.close()


@pytest.mark.brokers("apache")  # Tansu takes records for topics that it has deleted
def test_a_topic_that_is_deleted_is_trouble_for_its_own_records_only(kafka_url: str, topic: str) -> None:
    broker = confluent_broker(kafka_url)
    other = make_topic(broker, f"{topic}-other", partitions=1)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 1), *numbered(other, 1))
    delete_topic(broker, topic)

    def is_gone() -> bool:
        result, acknowledged = producer.send([*numbered(topic, 1), *numbered(other, 1)], SECONDS)
        assert isinstance(acknowledged, Acknowledged)
        assert result == TopicMissing() or isinstance(result, Acknowledged)  # until the broker has deleted it
        return result == TopicMissing()

    wait_until(is_gone)
    assert is_gone()
    producer.close()
    assert broker.missing_topics([topic]) == {topic}


# A broker that is about to stop answers that it knows of no broker


def test_a_member_that_has_lost_its_brokers_for_ever_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confluent_client, "DOWN_SECONDS", 3600)
    options = {**IMPATIENT_TOO, "client.id": "member", "topic.metadata.refresh.interval.ms": 100}
    with ScriptedBroker() as broker:
        member = confluent_broker(broker.url, consumer_options=options).subscribe(["topic"], "group")

        def wait_for_question(seconds: float) -> None:
            before, deadline = broker.asked["member"], time.monotonic() + seconds
            while broker.asked["member"] == before and time.monotonic() < deadline:
                assert member.poll(0.05, 1) == []

        def stop_and_start_again_and_again() -> None:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:  # the library loses them every other time
                broker.go()
                broker.come()
                wait_for_question(10)  # it notices here, or below, that it has none
                monkeypatch.setattr(subscriptions, "SILENCE_SECONDS", 3600)
                broker.is_complete_for = 0
                wait_for_question(2)
                broker.is_complete_for = None
                monkeypatch.setattr(subscriptions, "SILENCE_SECONDS", 0.5)
                wait_for_question(10)

        wait_for_question(10)
        with pytest.raises(BrokerUnavailable, match="has lost all brokers"):
            stop_and_start_again_and_again()
        member.close()


def test_a_client_whose_answer_waits_behind_its_reading_has_lost_nothing(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = confluent_broker(kafka_url, consumer_options={**IMPATIENT_TOO, "fetch.wait.max.ms": 5000})
    member = sole_member(broker, topic)
    monkeypatch.setattr(subscriptions, "CONNECT_SECONDS", 2)

    def asks_in_vain() -> bool:
        try:
            assert member.poll(0.02, 10) == []
        except BrokerUnavailable as error:  # the machine stood still, and the question has not ended yet
            if "no answer to a question for topics" not in str(error):
                raise
            return False
        return True

    monkeypatch.setattr(subscriptions, "SILENCE_SECONDS", 0)
    for _ in range(2):
        wait_until(asks_in_vain)
    monkeypatch.setattr(subscriptions, "SILENCE_SECONDS", 3600)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 1))
    producer.close()
    assert len(read(member, 1)) == 1
    member.close()
