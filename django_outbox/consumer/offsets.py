"""Offsets of records that are handled out of order: what may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from django_outbox.brokers.base import ReceivedRecord, TopicPartition


class OffsetTracker:
    """By partition, the offset up to which all records are finished.

    Records are added in the order of their offsets and finish in any order. The offset to commit is that of the first
    unfinished record, so a process that is killed reads it again.
    """

    def __init__(self) -> None:
        self._read: dict[TopicPartition, deque[int]] = {}  # offsets that may not be passed yet
        self._unfinished: dict[TopicPartition, dict[int, ReceivedRecord]] = {}  # by offset
        self._next: dict[TopicPartition, int] = {}
        self._moved: set[TopicPartition] = set()

    def add(self, record: ReceivedRecord) -> None:
        """A record was read."""
        partition = TopicPartition(record.topic, record.partition)
        read = self._read.get(partition)
        if record.offset <= (read[-1] if read else self._next.get(partition, 0) - 1):
            self.drop([partition])  # it is read again from an earlier offset, or the topic was recreated
        self._read.setdefault(partition, deque()).append(record.offset)
        self._unfinished.setdefault(partition, {})[record.offset] = record

    def finish(self, record: ReceivedRecord) -> None:
        """A record that was added is finished. Does nothing if its partition was dropped since.

        Another record may have its offset now, if the topic was recreated.
        """
        partition = TopicPartition(record.topic, record.partition)
        unfinished = self._unfinished.get(partition, {})
        if unfinished.get(record.offset) is not record:
            return
        del unfinished[record.offset]
        read = self._read[partition]
        while read and read[0] not in unfinished:
            self._next[partition] = read.popleft() + 1
            self._moved.add(partition)

    def take(self, partitions: Collection[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """By partition, the next offset to read; of those (or all) in which it has moved since the last call."""
        moved = set(self._moved) if partitions is None else self._moved.intersection(partitions)
        self._moved -= moved
        return {partition: self._next[partition] for partition in moved}

    def give_back(self, partitions: Collection[TopicPartition]) -> None:
        """Return the offsets of these partitions at the next ``take()``, too, as they were not committed."""
        self._moved.update(self._next.keys() & set(partitions))

    def first_unfinished(self, partition: TopicPartition) -> int | None:
        """The offset of the first unfinished record; None if all are finished."""
        read = self._read.get(partition)
        return read[0] if read else None

    def at_least(self, number: int) -> set[TopicPartition]:
        """Partitions with so many records that are unfinished or lie behind an unfinished one."""
        return {partition for partition, read in self._read.items() if len(read) >= number}

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget partitions that this member no longer has."""
        for partition in partitions:
            for known in (self._read, self._unfinished, self._next):
                known.pop(partition, None)
        self._moved -= set(partitions)
