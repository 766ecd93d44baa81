"""The poison guard: after a start or a rebalance, one of the first records may be what killed the process before."""

from __future__ import annotations

from collections.abc import Iterable

from django_outbox.brokers.base import ReceivedRecord, TopicPartition


class PoisonGuard:
    """Which records are handled one by one, each delivery counted and committed before its handler runs."""

    def __init__(self) -> None:
        self._left: dict[TopicPartition, int] = {}
        self._counted: ReceivedRecord | None = None  # only the last: what is not done with comes first again

    def __bool__(self) -> bool:
        return bool(self._left)

    def begin(self, places: Iterable[TopicPartition], records: int) -> None:
        """Guard so many records of each of these partitions, which have just been assigned."""
        for place in places:
            if records:
                self._left[place] = records

    def covers(self, record: ReceivedRecord) -> bool:
        """True if this is one of the first of its partition."""
        return bool(self._left) and TopicPartition(record.topic, record.partition) in self._left

    def is_counted(self, record: ReceivedRecord) -> bool:
        """True if this delivery was counted before, and this process survived it."""
        return record == self._counted

    def passed(self, record: ReceivedRecord) -> None:
        """Note that a delivery was counted. The last one ends the guard of its partition."""
        self._counted = record
        place = TopicPartition(record.topic, record.partition)
        self._left[place] -= 1
        if self._left[place] == 0:
            del self._left[place]
