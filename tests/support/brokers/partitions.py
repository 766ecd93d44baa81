"""A memory broker of which some partitions cannot be written to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_outbox.brokers.base import Producer, Record, SendResult, TopicPartition
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.brokers.waiting import NOTHING_WAITS, PartitionTrouble, WaitingPartitions
from django_outbox.conf import BrokerSettings

PARTITIONS = 3


class PartialBroker(MemoryBroker):
    """A topic of three partitions, of which those wait that a test says."""

    def __init__(self, url: str, *, topic: str = "outbox", **options: Any) -> None:
        super().__init__(BrokerSettings(url=url, options={"partitions": PARTITIONS, **options}))
        self._topic = topic
        self.silent: set[int] = set()
        self.is_known = True
        """False until a batch has met the silence: that one is abandoned, and its producer replaced."""
        self.producers = 0
        self.batches: list[int] = []
        """How many records each batch had, with those that were not sent."""

    @property
    def waiting(self) -> WaitingPartitions:
        if not self.silent or not self.is_known:
            return NOTHING_WAITS
        places = frozenset(TopicPartition(self._topic, partition) for partition in self.silent)
        topics = frozenset([self._topic] if len(places) == PARTITIONS else [])
        return WaitingPartitions(places, topics, {self._topic: "a broker does not answer"})

    def producer(self, timeout: float) -> Producer:
        self.producers += 1
        return _Producer(self, super().producer(timeout))

    def partition_of(self, key: str) -> int:
        """The partition of a key."""
        clone = MemoryBroker(BrokerSettings(url=f"{self.settings.url}-keys", options={"partitions": PARTITIONS}))
        (result,) = clone.producer(1).send([Record(self._topic, key.encode(), b"")], 1)
        return int(getattr(result, "partition"))  # noqa: B009  # of an acknowledgement

    def keys_of(self, partition: int, number: int) -> list[str]:
        """Keys of a partition."""
        found: list[str] = []
        candidate = 0
        while len(found) < number:
            candidate += 1
            if self.partition_of(str(candidate)) == partition:
                found.append(str(candidate))
        return found


class _Producer(Producer):
    def __init__(self, broker: PartialBroker, real: Producer) -> None:
        self._broker = broker
        self._real = real
        self._usable = True

    @property
    def usable(self) -> bool:
        return self._usable

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        broker = self._broker
        results = [self._send(record, timeout) for record in records]
        broker.batches.append(len(results))
        if not broker.is_known and any(isinstance(result, PartitionTrouble) for result in results):
            broker.is_known = True
            self._usable = False
        return results

    def _send(self, record: Record, timeout: float) -> SendResult:
        key = (record.key or b"").decode()
        if self._broker.partition_of(key) in self._broker.silent:
            return PartitionTrouble("a broker does not answer")
        return self._real.send([record], timeout)[0]

    def close(self) -> None:
        self._real.close()
