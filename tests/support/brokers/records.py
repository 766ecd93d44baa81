"""Helpers to send, read and set up topics, for the tests of all brokers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka import KafkaAdminClient, KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

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
    TopicTrouble,
)
from django_outbox.exceptions import BrokerUnavailable
from tests.support.processes import wait_until

SECONDS = 30.0
SLACK_SECONDS = 5.0  # beyond a deadline, on a busy machine; what ignores its deadline takes SECONDS or more


def make_topic(broker: Broker, topic: str, partitions: int = 3) -> str:
    broker.create_topics([topic], partitions=partitions, replication=1)
    return topic


def make_special_topic(broker: Broker, topic: str, **configs: str) -> None:
    """Create a topic of one partition with this configuration, and wait until the broker knows it."""
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "configs": configs}})
    wait_until(lambda: leader_of(broker, topic) is not None)


def make_topic_on(broker: Broker, topic: str, node: int) -> None:
    """Create a topic whose only partition is on this node, and wait until the node leads it."""
    with AdminClient({"bootstrap.servers": broker.location.removeprefix("kafka://")}) as admin:
        admin.create_topics([NewTopic(topic, 1, replica_assignment=[[node]])])[topic].result()
    wait_until(lambda: leader_of(broker, topic) == node)


def leader_of(broker: Broker, topic: str) -> int | None:
    """Which node leads a topic's first partition; None if none does."""
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        (described,) = admin.describe_topics([topic])
    (partition,) = described["partitions"] or [{"leader_id": -1}]
    return None if partition["leader_id"] < 0 else int(partition["leader_id"])


def allow(broker: Broker, principal: str, operations: Mapping[str, Sequence[str]], groups: Sequence[str] = ()) -> None:
    """Allow a principal operations on topics, and membership of groups."""
    wanted = [
        (ResourcePattern(ResourceType.TOPIC, topic), operation)
        for topic, of_topic in operations.items()
        for operation in of_topic
    ]
    wanted += [(ResourcePattern(ResourceType.GROUP, group), "READ") for group in groups]
    acls = [
        ACL(principal, "*", ACLOperation[operation], ACLPermissionType.ALLOW, resource)
        for resource, operation in wanted
    ]
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        admin.create_acls(acls)


def forbid(broker: Broker, principal: str, topic: str) -> None:
    """Revoke all of a principal's permissions on a topic."""
    resource = ResourcePattern(ResourceType.TOPIC, topic)
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        admin.delete_acls([ACLFilter(principal, "*", ACLOperation.ANY, ACLPermissionType.ANY, resource)])


def delete_topic(broker: Broker, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        admin.delete_topics([topic])


def delete_records(broker: Broker, topic: str, before: int) -> None:
    """Delete the first partition's records before an offset."""
    with KafkaAdminClient(bootstrap_servers=broker.location.removeprefix("kafka://")) as admin:
        admin.delete_records({KafkaTopicPartition(topic, 0): before})


def numbered(topic: str, count: int, *, key: bytes | None = b"key", start: int = 0) -> list[Record]:
    """Records whose values are `0`, `1`, `2` and so on."""
    return [Record(topic, key, b"%d" % number) for number in range(start, start + count)]


def send(producer: Producer, *records: Record) -> list[Acknowledged]:
    """Send, and assert that all records are acknowledged.

    Brokers of a cluster do not hear of a new topic at the same moment, so what is told to be missing is sent again.
    """
    outcomes = list(producer.send(records, SECONDS))

    def all_there() -> bool:
        missing = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, TopicMissing)]
        again = producer.send([records[number] for number in missing], SECONDS) if missing else []
        for number, outcome in zip(missing, again, strict=True):
            outcomes[number] = outcome
        return not any(isinstance(outcome, TopicMissing) for outcome in again)

    wait_until(all_there, what="the topics exist")
    acknowledged = [outcome for outcome in outcomes if isinstance(outcome, Acknowledged)]
    assert acknowledged == outcomes
    return acknowledged


def connected_producer(broker: Broker, topic: str, seconds: float) -> tuple[Producer, int]:
    """A producer that gives up after so long, and the end of the log after its first record, `before`.

    On a busy machine, that record takes several tries. What was given up may be in the log as well.
    """

    def connected() -> tuple[Producer, int] | None:
        producer = broker.producer(seconds)
        with suppress(BrokerUnavailable):
            (sent,) = producer.send([Record(topic, b"k", b"before")], seconds)
            if isinstance(sent, Acknowledged):
                assert sent.offset is not None
                return producer, sent.offset + 1
        producer.close()
        return None

    return wait_until(connected, what="a record is acknowledged")


def read(subscription: Subscription, count: int, *, limit: int = 500) -> list[ReceivedRecord]:
    """Read `count` records, and assert that no more come."""
    records: list[ReceivedRecord] = []

    def all_there() -> bool:
        records.extend(subscription.poll(0.3, limit))
        return len(records) >= count

    wait_until(all_there, what=f"{count} records")
    records += subscription.poll(0, limit)
    assert len(records) == count
    return records


def log_of(broker: Broker, topic: str, count: int) -> list[bytes]:
    """The values of all `count` records of a topic, read without a group."""
    address = broker.location.removeprefix("kafka://")
    with KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False) as consumer:
        consumer.assign([KafkaTopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
        values: list[bytes] = []

        def all_there() -> bool:
            values.extend(record.value for batch in consumer.poll(100).values() for record in batch)
            return len(values) >= count

        wait_until(all_there, what=f"{count} records")
        assert not consumer.poll(100)
    assert len(values) == count
    return values


def once(
    faults: dict[str, Refused | TopicTrouble],
) -> Callable[[Collection[str], float], dict[str, Refused | TopicTrouble]]:
    """A producer's question for topics in trouble without a broker: answers once, then no longer."""
    answers = iter([faults])

    def look_up(topics: Collection[str], seconds: float) -> dict[str, Refused | TopicTrouble]:
        for answer in answers:
            return answer
        raise BrokerUnavailable("it is gone.")

    return look_up


class Reader(threading.Thread):
    """Polls a member as a consumer does, without long pauses, and records what it gets.

    Meanwhile the member belongs to this thread: a client serves one call at a time, and may make others wait for minutes.
    """

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(name="reader", daemon=True)
        self.subscription = subscription
        self.share: set[TopicPartition] = set()
        self.records: list[ReceivedRecord] = []
        self._stopped = False
        self._asked: queue.SimpleQueue[Future[dict[TopicPartition, Progress]]] = queue.SimpleQueue()
        self._error: Exception | None = None

    @property
    def offsets(self) -> dict[TopicPartition, set[int]]:
        """The offsets that it got; after a rebalance it gets uncommitted records again."""
        offsets: dict[TopicPartition, set[int]] = {}
        for record, place in zip(self.records, self.places, strict=False):
            offsets.setdefault(place, set()).add(record.offset)
        return offsets

    @property
    def places(self) -> list[TopicPartition]:
        """The partition of each record."""
        return [TopicPartition(record.topic, record.partition) for record in self.records]

    def run(self) -> None:
        try:
            while not self._stopped:
                self.records += self.subscription.poll(0.1, 500)
                self.share = self.subscription.take_assigned() or self.share
                while not self._asked.empty():
                    self._asked.get().set_result(self.subscription.progress())
        except Exception as error:
            self._error = error

    def progress(self) -> dict[TopicPartition, Progress]:
        """The member's progress, asked for between two polls."""
        answer: Future[dict[TopicPartition, Progress]] = Future()
        self._asked.put(answer)
        return answer.result(SECONDS)

    def stop(self) -> None:
        self._stopped = True
        self.join()
        if self._error is not None:
            raise self._error


@contextmanager
def reading(*subscriptions: Subscription) -> Iterator[list[Reader]]:
    """Readers of these members, which run until the end of the block."""
    readers = [Reader(subscription) for subscription in subscriptions]
    for reader in readers:
        reader.start()
    try:
        yield readers
    finally:
        for reader in readers:
            reader.stop()


def wait_for_shares(readers: Sequence[Reader], places: Collection[TopicPartition]) -> None:
    """Wait until the readers share all these places, each having at least one."""

    def shared() -> bool:
        shares = [reader.share for reader in readers]
        return all(shares) and sorted(map(str, places)) == sorted(str(place) for share in shares for place in share)

    wait_until(shared, what="partitions shared")


def join(*members: Subscription, places: Collection[TopicPartition]) -> list[set[TopicPartition]]:
    """Wait until the members share these places, and return each one's share. Discards what is read meanwhile."""
    with reading(*members) as readers:
        wait_for_shares(readers, places)
        return [reader.share for reader in readers]


def sole_member(broker: Broker, topic: str) -> Subscription:
    """Create a topic of one partition, and return the only member of a group that reads it."""
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic], topic)
    join(member, places=places(topic, 1))
    return member


def places(topic: str, count: int) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for number in range(count)}


def seconds_until(error: type[Exception], call: Callable[[], object]) -> tuple[float, str]:
    """Call, expect the error, and return how long it took and the error's text."""
    started = time.monotonic()
    with pytest.raises(error) as raised:
        call()
    return time.monotonic() - started, str(raised.value)


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def is_caught_up(member: Subscription) -> bool:
    """What a member says once the broker has answered: a machine may stand still for longer than a client waits."""
    answers: list[bool] = []

    def ask() -> bool:
        with suppress(BrokerUnavailable):
            answers.append(member.caught_up())
        return bool(answers)

    wait_until(ask)
    return answers[0]
