"""What a consumer has read and not finished: its records, its stored messages, and the offsets that it may commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from math import inf
from typing import Any

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.filling import Filling
from django_outbox.consumer.guard import PoisonGuard
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.keyed_queue import KeyedQueue
from django_outbox.consumer.line import Queued
from django_outbox.consumer.offsets import OffsetTracker
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.own_record import own_record
from django_outbox.consumer.source import Kind, Outcome, RoundCounts
from django_outbox.events.parsing import shown_type
from django_outbox.handlers.registry import GroupHandlers

DUE_GROUP = TopicPartition("", -1)  # of stored messages in the queue
BUSY_POLL_SECONDS = 0.05
READS = 8
"""So many reads fill the hand of a consumer with threads. Each read and commit waits for the threads several times."""
READ_AHEAD_BYTES = 64 * 1024 * 1024
MOST_WAITS = 5_000  # messages that wait in hand for earlier ones of their keys
LEAST_WINDOW = 10_000
"""Records of a partition that are read behind an unfinished one: what it waits for may come far behind it."""


class InHand:
    """What is read ahead of the lanes, and how far.

    A record stays in hand until it is handled, so a partition's offset never passes an unfinished record. Safe for threads.
    """

    def __init__(
        self,
        lanes: int,
        outbox: OutboxSource,
        inbox: Inbox,
        *,
        handlers: GroupHandlers,
        read_ahead: int,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            outbox, inbox: of any lane.
            read_ahead: records in hand at most, besides those that wait for others of their keys.
        """
        self.read_ahead = read_ahead
        self.window = max(LEAST_WINDOW, 10 * read_ahead)
        self._outbox = outbox
        self._inbox = inbox
        self._handlers = handlers
        self.are_threads = lanes > 1  # of their own
        self.guard = PoisonGuard(outbox, inbox, read_ahead, has_lanes=self.are_threads)
        # No more at once, so that one partition does not fill the hand before others have their turn.
        self._read = read_ahead // READS if self.are_threads else 0
        self._queue: KeyedQueue[Any] = KeyedQueue(lanes)
        self.most_waits = MOST_WAITS
        self._lock = threading.Lock()  # for what follows
        # With less room than for a read, nothing would be read before the first batch has waited long enough.
        self._filling: Filling[Queued[Any]] = Filling(clock, read_ahead - self._read)
        self._offsets = OffsetTracker()
        self._counts = RoundCounts()
        self._due: set[int] = set()  # ids of stored messages in hand
        self._generation = 0  # of records in hand: offsets of others may be of a topic that was recreated
        self._assigned: set[TopicPartition] = set()
        self._full: set[TopicPartition] = set()

    def __len__(self) -> int:
        """The number of records and stored messages in hand."""
        return len(self._queue) + self._count_filling()

    @property
    def bytes(self) -> int:
        """The size of the records in hand."""
        with self._lock:
            return self._queue.bytes + sum(queued.size for queued in self._filling)

    @property
    def room(self) -> int:
        """How many records may be read now; 0 while that is not worth a read."""
        if self.bytes >= READ_AHEAD_BYTES:
            return 0
        room = self.read_ahead - self._count_filling()
        if not self.are_threads:
            return 0 if self.active > len(self._due) else room
        return self._read if room - self.active >= self._read else 0

    @property
    def active(self) -> int:
        """As ``len()``, but without records that wait or fill a batch."""
        return len(self._queue) - self._queue.parked

    def poll_seconds(self, longest: float) -> float:
        """How long a poll may wait for records, at most ``longest``: lanes need some, or their offsets committed."""
        if self.active and not self.are_threads:
            return 0.0
        if self.active or self._queue.parked:
            return min(longest, BUSY_POLL_SECONDS)
        with self._lock:
            return min(longest, self._filling.seconds_left)

    @property
    def full(self) -> set[TopicPartition]:
        """Partitions that have so many records in hand, or read behind an unfinished one, that others have their turn.

        They stay until half of those are handled, as a client forgets what it has fetched of a partition that is paused.
        Without others, one may fill the hand.
        """
        with self._lock:
            far = self._offsets.at_least(self.window)
        if self._queue.parked > MOST_WAITS or self.bytes >= READ_AHEAD_BYTES // 2:
            far = far | self._queue.parked_groups(Kind.FOREIGN)  # so that others go on
        if not self.are_threads:
            return far
        most = self.read_ahead // 2
        count = self._queue.count_by_group() if len(self) >= most // 2 else {}
        self._full = {
            place for place in count if count[place] >= most or (place in self._full and count[place] >= most // 2)
        }
        if self._full >= self._assigned:  # there are no others
            self._full = set()
        return far | self._full

    def add_records(self, records: Sequence[ReceivedRecord], assigned: Collection[TopicPartition]) -> None:
        """Add the records of one poll.

        Args:
            assigned: partitions that are new to this consumer.
        """
        with self._lock:
            self._assigned.update(assigned)
        self.guard.begin(assigned)
        queued = [self._queued(record) for record in records]
        self.guard.mark(queued)
        if self._handlers.largest_batch:
            for each in queued:
                if not each.guarded:
                    self._let_fill(each)
        with self._lock:
            for record in records:
                self._offsets.add(record)
            self._queue.put(self._filling.take(queued))

    def _relieve(self) -> None:
        """Let messages wait no longer of which there are too many, or behind which too much was read.

        The relay sends them again.
        """
        waits, number, size = self._outbox.waits, len(self), self.bytes
        with self._lock:
            waits.refused = far = self._offsets.at_least(self.window)
        if number > self.read_ahead + self.most_waits or size >= READ_AHEAD_BYTES:
            waits.most = 0
            self._queue.wake(inf, kind=Kind.OWN)
            return
        if far:
            self._queue.wake(-inf, far, kind=Kind.OWN)
        if number <= self.read_ahead + self.most_waits // 2 and size < READ_AHEAD_BYTES // 2:
            waits.most = self.most_waits

    def add_due(self, most: int) -> bool:
        """Add stored messages of the inbox that are due, up to so many in hand; False if none is due.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        with self._lock:
            in_hand = set(self._due)
        if len(in_hand) >= most:
            return True
        due = self._inbox.due(most - len(in_hand), in_hand)
        with self._lock:
            self._due.update(each.id for each in due)
        all_alone = settings.max_deliveries == 1
        self._queue.put(
            Queued(each.id, each.key, Kind.DUE, DUE_GROUP, guarded=True, most=1, alone=all_alone or each.is_suspect)
            for each in due
        )
        return bool(due)

    def drop_due(self) -> None:
        """Forget stored messages that no lane has begun: they are due again."""
        if not self._due:
            return
        self._queue.drop(lambda queued: queued.kind is Kind.DUE)
        with self._lock:
            self._due.clear()

    def take_counts(self) -> RoundCounts:
        """The counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, RoundCounts()
            return counts

    def take_offsets(self) -> dict[TopicPartition, int]:
        """By partition, the next offset to read, where it moved since the last call."""
        with self._lock:
            return self._offsets.take()

    def give_back(self, offsets: Collection[TopicPartition]) -> None:
        """Return these offsets at the next ``take_offsets()``, too, as the group refused them."""
        with self._lock:
            self._offsets.give_back(offsets)

    def first_unfinished(self, partition: TopicPartition) -> int | None:
        """The offset of the first unfinished record; None if none is in hand."""
        with self._lock:
            return self._offsets.first_unfinished(partition)

    def own_ids(self, partition: TopicPartition) -> set[int]:
        """The ids of messages of this outbox whose records, of a partition, are in hand."""
        with self._lock:
            found = [*self._queue.items, *self._filling]
        return {queued.item.id for queued in found if queued.kind is Kind.OWN and queued.group == partition}

    def revoke(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Forget partitions that this consumer loses: nothing new starts on them. May be called by any thread.

        What is running finishes. Its new owner waits for the row's lock, and then skips the record.

        Returns:
            The next offsets to read, where they moved.
        """
        with self._lock:
            self._drop(lambda queued: queued.group in partitions)
            self._assigned.difference_update(partitions)
            moved = self._offsets.take(partitions)
            self._offsets.drop(partitions)
        return moved

    def clear(self) -> None:
        """Forget everything in hand: records are delivered again, and stored messages are due again."""
        self.guard.end()
        with self._lock:
            self._drop(lambda queued: True)
            self._assigned.clear()
            self._generation += 1
            self._offsets = OffsetTracker()
            self._due.clear()

    def _drop(self, is_gone: Callable[[Queued[Any]], bool]) -> None:
        def ends(queued: Queued[Any]) -> bool:
            if not is_gone(queued):
                return False
            if queued.kind is Kind.OWN:
                self._outbox.waits.end(queued.item.id)
            return True

        self._queue.drop(ends)
        self._filling.drop(is_gone)

    def _count_filling(self) -> int:
        """The number of records that lanes do not get yet, as their batch is not full."""
        with self._lock:
            return len(self._filling)

    def _queued(self, record: ReceivedRecord) -> Queued[Any]:
        partition = TopicPartition(record.topic, record.partition)
        key: Hashable = (record.topic, record.key) if record.key else None
        own = None if self._inbox.takes_all else own_record(record, settings.source)
        size = len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)
        if own is not None:
            return Queued(own, key, Kind.OWN, partition, size, self._generation, rank=own.id, by_arrival=own.is_first)
        if key is None and self._inbox.uses_mapper(record):
            key = partition  # the mapper may find a key
        return Queued(record, key, Kind.FOREIGN, partition, size, self._generation)

    def _let_fill(self, queued: Queued[Any]) -> None:
        """Name the batch handlers that may wait for more records."""
        is_own = queued.kind is Kind.OWN
        topic, _ = queued.group
        event_type = queued.item.identity.event_type if is_own else shown_type(queued.item)
        queued.event, queued.handlers = (event_type, topic), self._handlers.find(event_type, topic)

    def _count(self, handled: Sequence[Queued[Any]], outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            self._counts.add(handled[0].kind, outcomes)
            for queued, outcome in zip(handled, outcomes, strict=True):
                if outcome is Outcome.WAITING:
                    continue
                if queued.kind is Kind.DUE:
                    self._due.discard(queued.item)
                    continue
                record = queued.item
                if queued.kind is Kind.OWN:
                    record = record.record
                    self._outbox.waits.end(queued.item.id)
                if queued.generation != self._generation:
                    continue
                self._offsets.finish(record)
                if outcome is not Outcome.SKIPPED:
                    self.guard.handled(queued)
