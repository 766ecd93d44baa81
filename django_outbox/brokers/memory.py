"""A broker in the memory of this process, for tests: partitions, keys, groups, offsets, redelivery."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import (
    Acknowledged,
    Broker,
    Producer,
    Progress,
    ReceivedRecord,
    Record,
    Refused,
    SendResult,
    Subscription,
    TopicMissing,
    TopicPartition,
)
from django_outbox.brokers.limits import MAX_RECORD_BYTES
from django_outbox.conf import BrokerSettings

DEFAULT_PARTITIONS = 3


@dataclass
class _Group:
    """A consumer group's committed offsets and members."""

    committed: dict[TopicPartition, int] = field(default_factory=dict)
    members: list[_Subscription] = field(default_factory=list)


@dataclass
class _Cluster:
    """What a real broker stores on disk."""

    logs: dict[TopicPartition, list[ReceivedRecord]] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def create(self, topic: str, partitions: int) -> None:
        if topic not in self.partitions:
            self.partitions[topic] = partitions
            for number in range(partitions):
                self.logs[TopicPartition(topic, number)] = []
            for group in self.groups.values():
                if any(topic in member.topics for member in group.members):
                    self.rebalance(group)

    def rebalance(self, group: _Group) -> None:
        """Assign the partitions of the subscribed topics to the members in turn."""
        for number, member in enumerate(group.members):
            member.assign(set(self.places(member.topics)[number :: len(group.members)]), group.committed)
        self.changed.notify_all()  # members that wait may have records now

    def places(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number) for topic in sorted(topics) for number in range(self.partitions.get(topic, 0))
        ]

    def progress(self, place: TopicPartition, group: _Group, position: int | None = None) -> Progress:
        return Progress(0, len(self.logs[place]), group.committed.get(place), position)


_clusters: dict[str, _Cluster] = {}


class MemoryBroker(Broker):
    """All brokers with the same URL in one process share a cluster until ``clear()``.

    Topics are created on first use with three partitions; change this with ``OPTIONS = {"create_topics": False}`` and
    ``{"partitions": 1}``.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self.cluster = _clusters.setdefault(settings.url, _Cluster())
        self._partitions = settings.options.get("partitions", DEFAULT_PARTITIONS)
        self._creates = settings.options.get("create_topics", True)
        if not isinstance(self._partitions, int) or self._partitions < 1:
            raise ImproperlyConfigured('OUTBOX["BROKER"]["OPTIONS"]: "partitions" must be an integer greater than 0.')
        if not isinstance(self._creates, bool):
            raise ImproperlyConfigured('OUTBOX["BROKER"]["OPTIONS"]: "create_topics" must be True or False.')

    @staticmethod
    def clear(url: str | None = None) -> None:
        """Delete all clusters with their topics, records and offsets, or the cluster of this URL."""
        if url is None:
            _clusters.clear()
        else:
            _clusters.pop(url, None)

    @property
    def location(self) -> str:
        return "memory"

    def records(self, topic: str) -> list[ReceivedRecord]:
        """All records of a topic, partition by partition, for assertions in tests."""
        with self.cluster.changed:
            return [record for place in self.cluster.places([topic]) for record in self.cluster.logs[place]]

    def producer(self, timeout: float) -> Producer:
        return _Producer(self)

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        return _Subscription(self.cluster, frozenset(topics), group)

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        topics = set(topics)
        with self.cluster.changed:
            if self._creates:
                for topic in topics:
                    self.cluster.create(topic, self._partitions)
            return topics - self.cluster.partitions.keys()

    def progress(self, topics: Iterable[str], group: str) -> dict[TopicPartition, Progress]:
        with self.cluster.changed:
            found = self.cluster.groups.get(group, _Group())
            return {place: self.cluster.progress(place, found) for place in self.cluster.places(set(topics))}

    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        with self.cluster.changed:
            for topic in topics:
                self.cluster.create(topic, partitions or self._partitions)


class _Producer(Producer):
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._turn = 0

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        records = list(records)
        missing = self._broker.missing_topics({record.topic for record in records})
        with self._broker.cluster.changed:
            results = [self._append(record, missing) for record in records]
            self._broker.cluster.changed.notify_all()
        return results

    def _append(self, record: Record, missing: set[str]) -> SendResult:
        if record.topic in missing:
            return TopicMissing()
        size = len(record.value or b"")
        if size > MAX_RECORD_BYTES:
            return Refused(f"{size} bytes are more than {MAX_RECORD_BYTES}")
        count = self._broker.cluster.partitions[record.topic]
        if record.key is None:
            self._turn += 1
        partition = (self._turn if record.key is None else zlib.crc32(record.key)) % count
        log = self._broker.cluster.logs[TopicPartition(record.topic, partition)]
        offset = len(log)
        log.append(ReceivedRecord(record.topic, partition, offset, record.key, record.value, tuple(record.headers)))
        return Acknowledged(partition, offset)

    def close(self) -> None:
        """There is nothing to free."""


class _Subscription(Subscription):
    def __init__(self, cluster: _Cluster, topics: frozenset[str], group: str) -> None:
        self.topics = topics
        self._cluster = cluster
        self._positions: dict[TopicPartition, int] = {}
        self._new: set[TopicPartition] = set()
        with cluster.changed:
            self._group = cluster.groups.setdefault(group, _Group())
            self._group.members.append(self)
            cluster.rebalance(self._group)

    def assign(self, places: set[TopicPartition], committed: Mapping[TopicPartition, int]) -> None:
        """Restart from the committed offsets, as after any rebalance."""
        self._group.committed.update(self.on_revoked(set(self._positions)))
        self._positions = {place: committed.get(place, 0) for place in places}
        self._new = set(places)
        self._paused: set[TopicPartition] = set()

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        with self._cluster.changed:
            self._paused = set(partitions)

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        with self._cluster.changed:
            self._cluster.changed.wait_for(lambda: limit == 0 or self._has_records(self._paused), timeout)
            return self._take(limit)

    def _has_records(self, except_of: Collection[TopicPartition] = ()) -> bool:
        return any(
            position < len(self._cluster.logs[place])
            for place, position in self._positions.items()
            if place not in except_of
        )

    def _take(self, limit: int) -> list[ReceivedRecord]:
        records: list[ReceivedRecord] = []
        for place, position in self._positions.items():
            if place in self._paused:
                continue
            taken = self._cluster.logs[place][position : position + limit - len(records)]
            records += taken
            self._positions[place] = position + len(taken)
        return records

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        with self._cluster.changed:
            for place, offset in offsets.items():
                if place in self._positions:
                    self._group.committed[place] = offset
        return True

    def take_assigned(self) -> set[TopicPartition]:
        with self._cluster.changed:
            new, self._new = self._new, set()
            return new

    def caught_up(self) -> bool:
        with self._cluster.changed:
            return not self._has_records()

    def progress(self) -> dict[TopicPartition, Progress]:
        with self._cluster.changed:
            return {
                place: self._cluster.progress(place, self._group, position)
                for place, position in self._positions.items()
            }

    def close(self) -> None:
        with self._cluster.changed:
            if self in self._group.members:
                self._group.members.remove(self)
                self.assign(set(), {})
                self._cluster.rebalance(self._group)
