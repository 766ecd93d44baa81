"""Short ways to send and to read, for the tests of all brokers."""

from __future__ import annotations

from collections.abc import Collection

from django_outbox.brokers.base import (
    Acknowledged,
    Broker,
    Producer,
    ReceivedRecord,
    Record,
    Subscription,
    TopicPartition,
)
from tests.helpers import wait_until

SECONDS = 10.0

# A member that leaves or dies is missed sooner; and Tansu lets the first one wait half of the session's timeout.
IMPATIENT = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 300}


def make_topic(broker: Broker, topic: str, partitions: int = 3) -> str:
    broker.create_topics([topic], partitions=partitions, replication=1)
    return topic


def numbered(topic: str, count: int, *, key: bytes | None = b"key", start: int = 0) -> list[Record]:
    """Records whose values are `0`, `1`, `2` and so on."""
    return [Record(topic, key, b"%d" % number) for number in range(start, start + count)]


def send(producer: Producer, *records: Record) -> list[Acknowledged]:
    """Send, and insist that all records are taken."""
    outcomes = producer.send(records, SECONDS)
    acknowledged = [outcome for outcome in outcomes if isinstance(outcome, Acknowledged)]
    assert acknowledged == outcomes
    return acknowledged


def read(subscription: Subscription, count: int, *, limit: int = 500) -> list[ReceivedRecord]:
    """Read until there are `count` records, and insist that there are no more."""
    records: list[ReceivedRecord] = []

    def all_there() -> bool:
        records.extend(subscription.poll(0.2, limit))
        return len(records) >= count

    wait_until(all_there, what=f"{count} records")
    records += subscription.poll(0, limit)
    assert len(records) == count
    return records


def join(*members: Subscription, places: Collection[TopicPartition]) -> list[set[TopicPartition]]:
    """Poll until each member has some of these places and no two have the same; return who has which."""
    shares: list[set[TopicPartition]] = [set() for _ in members]

    def shared() -> bool:
        for index, member in enumerate(members):
            member.poll(0.05, 500)
            shares[index] = member.take_assigned() or shares[index]
        return all(shares) and sorted(map(str, places)) == sorted(str(place) for share in shares for place in share)

    wait_until(shared, what="partitions shared")
    return shares


def places(topic: str, count: int) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for number in range(count)}
