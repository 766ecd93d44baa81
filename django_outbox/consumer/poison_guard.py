"""The poison guard: after a start or a rebalance, one of the first records may have killed the previous process."""

from __future__ import annotations

from collections.abc import Iterable

from django_outbox.brokers.base import ReceivedRecord, TopicPartition


class PoisonGuard:
    """Knows the records to handle one by one, with the delivery counted and committed before the handler runs."""

    def __init__(self) -> None:
        self._left: dict[TopicPartition, int] = {}
        self._counted: ReceivedRecord | None = None  # only the last: an unfinished record is handled next

    def __bool__(self) -> bool:
        return bool(self._left)

    def begin(self, partitions: Iterable[TopicPartition], records: int) -> None:
        """Guard the next ``records`` of each newly assigned partition."""
        if records:
            self._left.update(dict.fromkeys(partitions, records))

    def covers(self, record: ReceivedRecord) -> bool:
        """True if the record is one of the first of its partition."""
        return bool(self._left) and TopicPartition(record.topic, record.partition) in self._left

    def is_counted(self, record: ReceivedRecord) -> bool:
        """True if this delivery was counted already, and the process survived it."""
        return record == self._counted

    def count(self, record: ReceivedRecord) -> None:
        """Record that a delivery was counted. The last one ends the guard of its partition."""
        self._counted = record
        partition = TopicPartition(record.topic, record.partition)
        self._left[partition] -= 1
        if self._left[partition] == 0:
            del self._left[partition]
