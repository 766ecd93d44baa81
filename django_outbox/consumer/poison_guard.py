"""Care with the first records after a start or a rebalance: one of them may have killed the process before this one."""

from __future__ import annotations

from collections.abc import Iterable

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.consumer.delivery import Named
from django_outbox.state import outbox as state
from django_outbox.worker.faults import try_again


class Care:
    """Which records are to be handled one by one, each delivery counted before its handler runs."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._left: dict[TopicPartition, int] = {}
        self._counted: Named | None = None  # the last; no more, as what is not done with comes first again

    def __bool__(self) -> bool:
        return bool(self._left)

    def begin(self, places: Iterable[TopicPartition], records: int) -> None:
        """Take care with so many records of each of these partitions, which have just been assigned."""
        for place in places:
            self._left[place] = records

    def covers(self, record: ReceivedRecord) -> bool:
        """True if this is one of the first of its partition."""
        return bool(self._left) and TopicPartition(record.topic, record.partition) in self._left

    def count(self, named: Named) -> None:
        """Count the delivery of a message before it can kill, if care covers its record."""
        record = named.record
        if not self.covers(record) or named == self._counted:  # this process has lived through it
            return

        def count() -> bool:
            place = TopicPartition(record.topic, record.partition)
            return state.count_delivery(named.id, named.incoming.attempt, place, record.offset, using=self._using)

        # Another consumer may have the message in hand, as in a rebalance, and InnoDB calls that a deadlock at times.
        if try_again(count, using=self._using):
            self._counted = named
            self.took(record)

    def took(self, record: ReceivedRecord) -> None:
        """Note that a delivery was counted, by which care with its partition may be over."""
        place = TopicPartition(record.topic, record.partition)
        self._left[place] -= 1
        if self._left[place] == 0:
            del self._left[place]
