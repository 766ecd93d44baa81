"""Members that pause partitions, or only stay in their group, whichever broker it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from django_outbox.brokers.base import Broker, Producer, Subscription, TopicPartition
from tests.services.brokers.test_contract import Subscribe, broker, producer, subscribe
from tests.support.brokers.records import join, make_topic, numbered, places, read, reading, send, wait_for_shares
from tests.support.processes import wait_until

__all__ = ["broker", "producer", "subscribe"]


@pytest.fixture
def topics(broker: Broker, topic: str) -> tuple[str, str]:
    return make_topic(broker, topic, partitions=1), make_topic(broker, f"{topic}-other", partitions=1)


def read_of(member: Subscription, number: int) -> list[tuple[str, int]]:
    return [(record.topic, record.offset) for record in read(member, number)]


def test_nothing_is_read_of_a_paused_partition_until_it_goes_on(
    producer: Producer, subscribe: Subscribe, topics: tuple[str, str]
) -> None:
    paused, other = topics
    member = subscribe(*topics)
    send(producer, *numbered(paused, 5), *numbered(other, 5))
    read(member, 10)

    member.pause({TopicPartition(paused, 0)})
    send(producer, *numbered(paused, 5), *numbered(other, 5))
    assert read_of(member, 5) == [(other, offset) for offset in range(5, 10)]
    assert member.poll(0.5, 100) == []

    member.pause(set())
    assert read_of(member, 5) == [(paused, offset) for offset in range(5, 10)]


def test_a_partition_that_is_paused_with_records_at_hand_goes_on(
    producer: Producer, subscribe: Subscribe, topics: tuple[str, str]
) -> None:
    """The client has fetched all of it, and returned some."""
    send(producer, *numbered(topics[0], 5), *numbered(topics[1], 5))
    member = subscribe(*topics)
    first = wait_until(lambda: member.poll(0.5, 2))
    paused = first[0].topic

    member.pause({TopicPartition(paused, 0)})
    of_paused = [(each.topic, each.offset) for each in first if each.topic == paused]
    others = read_of(member, 5 - len(first) + len(of_paused))
    assert {name for name, _ in others} == {*topics} - {paused}
    assert member.poll(0.5, 100) == []

    member.pause(set())
    of_paused += read_of(member, 5 - len(of_paused))
    assert of_paused == [(paused, offset) for offset in range(5)]


def test_a_poll_for_no_records_loses_none(producer: Producer, subscribe: Subscribe, topics: tuple[str, str]) -> None:
    member = subscribe(*topics)
    join(member, places={TopicPartition(each, 0) for each in topics})
    send(producer, *numbered(topics[0], 5), *numbered(topics[1], 5))
    found = []
    for _ in range(5):
        found += member.poll(0.2, 0)
    found += read(member, 10 - len(found))
    assert sorted((record.topic, record.offset) for record in found) == sorted(
        (each, offset) for each in topics for offset in range(5)
    )


def test_a_member_whose_partitions_move_reads_what_it_gets_back(
    broker: Broker, producer: Producer, subscribe: Subscribe, topic: str
) -> None:
    """What was paused is not paused any more, and nothing that a member was told to forget is left out."""
    make_topic(broker, topic, partitions=4)
    member = subscribe()
    forgotten: set[TopicPartition] = set()

    def forget(partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        forgotten.update(partitions)
        return {}

    member.on_revoked = forget
    join(member, places=places(topic, 4))
    send(producer, *(record for partition in range(4) for record in numbered(topic, 5, start=5 * partition)))
    first = read(member, 20)
    member.pause(places(topic, 4))

    other = subscribe()
    with reading(member, other) as readers:
        wait_for_shares(readers, places(topic, 4))
        mine = readers[0]
    other.close()
    seen = {(place.partition, offset) for place, offsets in mine.offsets.items() for offset in offsets}

    def has_read_again() -> bool:
        member.pause(set())
        seen.update((record.partition, record.offset) for record in member.poll(0.1, 100))
        # Partitions that it was told to forget come from where the group is: nothing was committed.
        return {
            (each.partition, each.offset) for each in first if TopicPartition(topic, each.partition) in forgotten
        } <= seen

    wait_until(lambda: len(forgotten) >= 2 and has_read_again())
