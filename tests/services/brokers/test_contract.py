"""What relay and consumer may rely on, whichever broker it is."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

import pytest
from django.utils import timezone

from django_outbox.brokers.base import (
    Acknowledged,
    Broker,
    Producer,
    Progress,
    ReceivedRecord,
    Record,
    Refused,
    Subscription,
    TopicMissing,
    TopicPartition,
)
from django_outbox.brokers.limits import largest_payload
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings
from django_outbox.events.writer import Outgoing, encode
from django_outbox.models.fields import uuid7
from tests.support.brokers.backends import confluent_broker, kafka_broker
from tests.support.brokers.records import (
    SECONDS,
    SLACK_SECONDS,
    is_caught_up,
    join,
    make_topic,
    numbered,
    places,
    read,
    reading,
    send,
    wait_for_shares,
)
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until

Subscribe = Callable[..., Subscription]


@pytest.fixture(params=["memory", "kafka", "confluent"])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "memory":
        return MemoryBroker(BrokerSettings(url=f"memory://{request.node.name}", options={"create_topics": False}))
    make: Callable[[str], Broker] = {"kafka": kafka_broker, "confluent": confluent_broker}[request.param]
    return make(request.getfixturevalue("kafka_url"))


@pytest.fixture
def is_tansu(broker: Broker, pytestconfig: pytest.Config) -> bool:
    """Whether the broker, when asked for the end of its log, tells that of the first record of its last batch."""
    return not isinstance(broker, MemoryBroker) and pytestconfig.option.kafka == "tansu"


@pytest.fixture
def producer(broker: Broker) -> Iterator[Producer]:
    producer = broker.producer(SECONDS)
    yield producer
    producer.close()


@pytest.fixture
def subscribe(broker: Broker, topic: str) -> Iterator[Subscribe]:
    """Join a group, by default one of the test's own, for the test's topic: `subscribe(*topics, group=...)`."""
    members: list[Subscription] = []

    def subscribe(*topics: str, group: str = topic) -> Subscription:
        members.append(broker.subscribe(topics or [topic], group))
        return members[-1]

    yield subscribe
    for member in members:
        member.close()


# Sending


def test_records_of_a_key_are_read_from_one_partition_in_the_order_of_sending_where_their_acknowledgements_say(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic)
    keys = [b"key %d" % number for number in range(20)]
    sent = [Record(topic, key, b"%s: %d" % (key, number)) for number in range(100) for key in keys]
    outcomes = send(producer, *sent[:1200]) + send(producer, *sent[1200:])

    received = read(subscribe(), len(sent))
    partitions, values = defaultdict(set), defaultdict(list)
    for record in received:
        partitions[record.key].add(record.partition)
        values[record.key].append(record.value)
    assert {len(of_key) for of_key in partitions.values()} == {1}
    assert values == {key: [b"%s: %d" % (key, number) for number in range(100)] for key in keys}
    assert len(set().union(*partitions.values())) == 3

    log = {(record.partition, record.offset): record.value for record in received}
    assert [log[outcome.partition, outcome.offset] for outcome in outcomes] == [record.value for record in sent]


def test_records_are_read_as_they_were_sent(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    sent = [
        Record(topic, b"headers in order, twice", b"v", (("b", b"1"), ("a", b"2"), ("b", b"3"))),
        Record(topic, b"headers of bytes", b"v", (("raw", b"\x00\xff"), ("empty", b""), ("ключ", b"v"))),
        Record(topic, b"empty value", b""),
        Record(topic, b"tombstone", None),
        Record(topic, None, b"no key"),
        Record(topic, "clé-ключ-鍵-🔑".encode(), "naïve ☃".encode()),
        Record(topic, b"\x00\xff\xfe", bytes(range(256))),
        Record(topic, b"k" * 1020, b"v" * 1_000_000),
    ]
    for record in sent:
        send(producer, record)
    received = read(subscribe(), len(sent))
    assert [record.offset for record in received] == list(range(len(sent)))
    for was, now in zip(sent, received, strict=True):
        assert (now.topic, now.partition) == (topic, 0)
        assert (now.key, now.value, now.headers) == (was.key, was.value, was.headers)


@pytest.mark.parametrize("wire_format", ["cloudevents", "envelope"])
def test_the_largest_payload_is_sent_with_the_longest_key_and_type(
    broker: Broker, producer: Producer, topic: str, wire_format: Literal["cloudevents", "envelope"]
) -> None:
    make_topic(broker, topic, partitions=1)
    wide = "\N{GRINNING FACE}" * 255
    with outbox_settings(BROKER={}):
        limit = largest_payload()
    assert limit is not None
    message = Outgoing(
        id=2**63 - 1,
        source="shop",
        event_id=uuid7(),
        event_type=wide,
        event_version=wide[:32],
        topic=topic,
        message_key=wide,
        headers_json=json.dumps({"traceparent": "0" * 55}),
        created_at=timezone.now(),
        publish_count=2**31 - 2,
        payload_json=f'"{"x" * (limit - 2)}"',
    )
    (outcome,) = producer.send([encode(message, wire_format=wire_format)], SECONDS)
    assert isinstance(outcome, Acknowledged)


def test_a_record_that_is_too_large_is_refused_alone(broker: Broker, producer: Producer, topic: str) -> None:
    make_topic(broker, topic, partitions=1)
    before, large, after = Record(topic, b"k", b"1"), Record(topic, b"k", b"x" * 1_100_000), Record(topic, b"k", b"2")
    outcomes = producer.send([before, large, after], SECONDS)
    assert outcomes[::2] == [Acknowledged(0, 0), Acknowledged(0, 1)]
    assert isinstance(outcomes[1], Refused)
    assert producer.usable


def test_a_missing_topic_is_trouble_for_its_own_records_only(broker: Broker, producer: Producer, topic: str) -> None:
    make_topic(broker, topic)
    missing = f"{topic}-missing"
    records = [Record(name, b"k", b"v") for name in (missing, topic, missing, topic)]
    outcomes = producer.send(records, SECONDS)
    assert outcomes[0] == outcomes[2] == TopicMissing()
    assert [type(outcome) for outcome in outcomes[1::2]] == [Acknowledged, Acknowledged]
    assert producer.usable


def test_a_topic_that_was_missing_can_be_written_to_once_it_is_created(
    broker: Broker, producer: Producer, topic: str
) -> None:
    assert producer.send(numbered(topic, 1), SECONDS) == [TopicMissing()]
    make_topic(broker, topic)
    send(producer, *numbered(topic, 1))


# Topics


def test_a_topic_is_created_neither_by_asking_nor_sending_nor_reading(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    assert broker.missing_topics([topic]) == {topic}
    producer.send(numbered(topic, 1), SECONDS)
    subscribe().poll(0.3, 1)
    assert broker.missing_topics([topic]) == {topic}


def test_missing_topics_are_those_that_do_not_exist(broker: Broker, topic: str) -> None:
    present, missing = make_topic(broker, topic), f"{topic}-missing"
    assert broker.missing_topics([present, missing]) == {missing}
    assert broker.missing_topics([present]) == set()
    assert broker.missing_topics([]) == set()
    assert broker.unreadable_topics([present, missing]) == {missing: TopicMissing()}
    assert broker.unreadable_topics([present]) == {}


def test_a_topic_is_created_once_with_its_partitions(broker: Broker, producer: Producer, topic: str) -> None:
    make_topic(broker, topic, partitions=4)
    make_topic(broker, topic, partitions=7)
    outcomes = send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(100)))
    assert {outcome.partition for outcome in outcomes} == {0, 1, 2, 3}


def test_the_number_of_partitions_may_be_left_to_the_broker(broker: Broker, producer: Producer, topic: str) -> None:
    broker.create_topics([topic, f"{topic}-2"], partitions=None, replication=None)
    broker.create_topics([], partitions=None, replication=None)
    assert broker.missing_topics([topic, f"{topic}-2"]) == set()
    send(producer, *numbered(topic, 1))


# Reading as a group


def test_every_group_reads_everything_from_the_beginning(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    send(producer, *numbered(topic, 5))
    one = subscribe()
    assert [record.offset for record in read(one, 5)] == [0, 1, 2, 3, 4]
    send(producer, *numbered(topic, 2, start=5))
    assert [record.value for record in read(one, 2)] == [b"5", b"6"]
    one.commit({TopicPartition(topic, 0): 7})
    assert [record.offset for record in read(subscribe(group=f"{topic}-other"), 7)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_group_goes_on_behind_what_it_committed_and_reads_the_rest_again(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    send(producer, *numbered(topic, 5))
    first = subscribe()
    read(first, 5)
    first.commit({TopicPartition(topic, 0): 3})
    first.close()
    assert [record.offset for record in read(subscribe(), 2)] == [3, 4]


def test_a_member_that_reads_on_learns_when_its_offsets_are_committed(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    send(producer, *numbered(topic, 5))
    member, place = subscribe(), TopicPartition(topic, 0)
    read(member, 5)

    def is_committed(offset: int) -> bool:
        member.poll(0.05, 10)
        return member.commit_soon({place: offset})

    for offset in (3, 4):
        wait_until(lambda: is_committed(offset))  # noqa: B023  # called at once
        assert broker.progress([topic], topic)[place].committed == offset
    member.close()
    assert [record.offset for record in read(subscribe(), 1)] == [4]


def test_a_member_goes_on_reading_when_another_of_its_topics_appears(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    member = subscribe(topic, f"{topic}-later")
    join(member, places=places(topic, 1))
    make_topic(broker, f"{topic}-later", partitions=1)
    started, sent, values = time.monotonic(), 0, set()

    def all_read() -> bool:
        values.update(record.value for record in member.poll(0.05, 500))
        return len(values) == sent

    while time.monotonic() - started < 0.5:
        send(producer, *numbered(topic, 1, start=sent))
        sent += 1
        wait_until(all_read)


def test_two_members_share_the_partitions_and_are_told_which_are_theirs(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=4)
    with reading(subscribe()) as [first], reading(subscribe()) as [second]:
        readers = first, second
        wait_for_shares(readers, places(topic, 4))
        outcomes = send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(100)))
        wait_until(lambda: sum(len(read) for reader in readers for read in reader.offsets.values()) == len(outcomes))
    for reader in readers:
        assert len(reader.share) == 2
        assert reader.offsets == {
            place: {outcome.offset for outcome in outcomes if outcome.partition == place.partition}
            for place in reader.share
        }


def test_a_member_that_closes_hands_its_partitions_over(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=2)
    leaving, staying = subscribe(), subscribe()
    with reading(leaving, staying) as readers:
        wait_for_shares(readers, places(topic, 2))
    leaving.close()
    join(staying, places=places(topic, 2))
    send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(20)))
    assert {record.partition for record in read(staying, 20)} == {0, 1}


def test_offsets_of_partitions_of_others_are_passed_over(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    own, others = make_topic(broker, topic, partitions=1), make_topic(broker, f"{topic}-other", partitions=1)
    send(producer, *numbered(own, 3), *numbered(others, 3))
    member = subscribe(own)
    read(member, 3)
    member.commit({TopicPartition(others, 0): 3, TopicPartition(own, 99): 3, TopicPartition(own, 0): 2})
    member.commit({TopicPartition(others, 0): 3})
    member.commit({})
    member.close()
    left = [(record.topic, record.offset) for record in read(subscribe(own, others), 4)]
    assert sorted(left) == sorted([(own, 2), (others, 0), (others, 1), (others, 2)])


def test_caught_up_means_that_nothing_is_left_to_read(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    send(producer, *numbered(topic, 3))
    send(producer, *numbered(topic, 3))
    member = subscribe()
    assert not is_caught_up(member)
    for left in range(5, 0, -1):
        assert len(wait_until(lambda: member.poll(0.2, 1))) == 1
        assert not is_caught_up(member), f"{left} are left"
    assert len(wait_until(lambda: member.poll(0.2, 1))) == 1
    assert is_caught_up(member)
    send(producer, *numbered(topic, 3))
    assert not is_caught_up(member)


def test_poll_returns_at_most_as_many_records_as_it_is_asked_for(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic)
    send(producer, *(Record(topic, b"key %d" % (number % 10), b"%d" % number) for number in range(50)))
    member = subscribe()
    lengths, offsets = [], defaultdict(list)
    while sum(lengths) < 50:
        batch = wait_until(lambda: member.poll(0.2, 7))
        lengths.append(len(batch))
        for record in batch:
            offsets[record.partition].append(record.offset)
    assert max(lengths) <= 7
    assert all(of_partition == list(range(len(of_partition))) for of_partition in offsets.values())


@pytest.mark.brokers("apache")  # Tansu takes a minute and more to let two members of librdkafka settle
def test_a_member_knows_when_it_has_its_assignment_which_may_be_empty(
    broker: Broker, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    members = [subscribe(), subscribe()]
    assert isinstance(broker, MemoryBroker) or not any(member.is_assigned for member in members)

    with reading(*members) as readers:
        wait_until(lambda: all(member.is_assigned for member in members), what="assignments")
        wait_until(lambda: isinstance(broker, MemoryBroker) or sum(member.is_idle for member in members) == 1)

    assert sum(len(reader.share) for reader in readers) >= 1


def test_a_member_without_records_waits_as_long_as_it_is_told_to_and_is_caught_up(
    broker: Broker, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic)
    member = subscribe()
    assert not is_caught_up(member) or isinstance(broker, MemoryBroker)  # whose members have their partitions at once
    join(member, places=places(topic, 3))
    for timeout in (0, 0.3):
        started = time.monotonic()
        assert member.poll(timeout, 10) == []
        assert timeout <= time.monotonic() - started < timeout + SLACK_SECONDS
    wait_until(lambda: is_caught_up(member))


# Progress


def test_a_group_s_progress_is_told_to_who_is_no_member(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str, is_tansu: bool
) -> None:
    make_topic(broker, topic, partitions=2)
    make_topic(broker, f"{topic}-other", partitions=1)
    for _ in range(2):
        (sent, *_) = send(producer, *numbered(topic, 3))
    place, empty = (TopicPartition(topic, (sent.partition + number) % 2) for number in range(2))
    asked = [topic, f"{topic}-other", f"{topic}-missing"]
    nothing = Progress(low=0, high=0, committed=None)
    end = broker.progress([topic], topic)[place].high
    assert end in range(4, 7) if is_tansu else end == 6
    expected = {place: Progress(low=0, high=end, committed=None), empty: nothing}
    expected[TopicPartition(f"{topic}-other", 0)] = nothing
    assert broker.progress(asked, topic) == expected

    member = subscribe()
    read(member, 6)
    member.commit({place: 4})
    expected[place] = Progress(low=0, high=end, committed=4)
    assert broker.progress(asked, topic) == expected
    assert broker.progress([topic], f"{topic}-other-group")[place].committed is None
    assert broker.progress([f"{topic}-missing"], topic) == broker.progress([], topic) == {}


def test_a_member_s_progress_is_that_of_its_partitions_up_to_what_it_was_given(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=1)
    place = TopicPartition(topic, 0)
    member = subscribe()
    send(producer, *numbered(topic, 5))
    read_offsets: list[int] = []
    while len(read_offsets) < 5:
        read_offsets += [record.offset for record in member.poll(0.2, 2)]
        if read_offsets:
            now = member.progress()[place]
            assert (now.low, now.high, now.committed) == (0, 5, None)
            assert now.position == len(read_offsets)
            assert now.is_at_end is (len(read_offsets) == 5)
    assert read_offsets == [0, 1, 2, 3, 4]
    member.commit({place: 3})
    assert member.progress() == {place: Progress(low=0, high=5, committed=3, position=5)}


def test_a_group_is_at_the_end_when_all_is_committed() -> None:
    assert Progress(low=0, high=0, committed=None).is_at_end
    assert Progress(low=3, high=3, committed=None).is_at_end
    assert not Progress(low=0, high=3, committed=None).is_at_end
    assert not Progress(low=0, high=3, committed=2).is_at_end
    assert Progress(low=0, high=3, committed=3).is_at_end
    assert not Progress(low=0, high=3, committed=3, position=2).is_at_end


def test_asking_for_progress_does_not_disturb_joining_and_reading(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic, partitions=4)
    outcomes = send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(100)))
    asking = [AskingForProgress(subscribe()), AskingForProgress(subscribe())]
    with reading(*asking) as readers:
        wait_for_shares(readers, places(topic, 4))
        outcomes += send(producer, *(Record(topic, b"key %d" % number, b"v") for number in range(100)))
        everything = {(outcome.partition, outcome.offset) for outcome in outcomes}
        wait_until(
            lambda: (
                {
                    (place.partition, offset)
                    for reader in readers
                    for place, offsets in reader.offsets.items()
                    for offset in offsets
                }
                == everything
            )
        )
    for reader, member in zip(readers, asking, strict=True):
        assert member.progress().keys() == reader.share
        for place in reader.share:
            offsets = [record.offset for record in reader.records if record.partition == place.partition]
            assert offsets[-1] + 1 == member.progress()[place].position


class AskingForProgress(Subscription):
    """Asks between any two polls, of which each lasts so shortly that a join outlasts it."""

    def __init__(self, member: Subscription) -> None:
        self._member = member

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        self._member.progress()
        return self._member.poll(0.02, limit)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._member.pause(partitions)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        return self._member.commit(offsets)

    def take_assigned(self) -> set[TopicPartition]:
        return self._member.take_assigned()

    def caught_up(self) -> bool:
        return self._member.caught_up()

    def progress(self) -> Mapping[TopicPartition, Progress]:
        return self._member.progress()

    def close(self) -> None:
        self._member.close()


# Ending


def test_close_never_raises_and_twice_neither(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    make_topic(broker, topic)
    send(producer, *numbered(topic, 3))
    unused, used = broker.producer(SECONDS), producer
    not_joined, joined = subscribe(), subscribe(group=f"{topic}-2")
    read(joined, 3)
    for _ in range(2):
        for resource in (unused, used, not_joined, joined):
            resource.close()
