"""A lane of the consumer: handles records in their order, each by the outbox or the inbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import takewhile

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.counts import RoundCounts
from django_outbox.consumer.delivery import Outcome
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.outbox import OutboxSource, OwnRecord
from django_outbox.consumer.poison_guard import PoisonGuard
from django_outbox.events.identity import identify
from django_outbox.exceptions import UnreadableRecord
from django_outbox.handlers.registry import GroupHandlers

Queued = tuple[ReceivedRecord, OwnRecord | ReceivedRecord | None]
"""A record, and what its source handles: an ``OwnRecord`` of the outbox, a record for the inbox, or None to skip it."""


class Lane:
    """Handles queued records in their order. All state about the records in hand is here."""

    def __init__(self, engine: Engine, outbox: OutboxSource, inbox: Inbox, handlers: GroupHandlers) -> None:
        self._engine = engine
        self._outbox = outbox
        self._inbox = inbox
        self._handlers = handlers
        self._queue: deque[Queued] = deque()
        self._guard = PoisonGuard()

    def __bool__(self) -> bool:
        """True if records are queued."""
        return bool(self._queue)

    @property
    def is_guarded(self) -> bool:
        """True until the first records after a start or a rebalance have been handled."""
        return bool(self._guard)

    def add(self, records: Sequence[ReceivedRecord]) -> None:
        """Queue records of one poll."""
        if self._inbox.takes_all:
            self._queue.extend((record, record) for record in records)
            return
        own_sources, skips_unknown = (None, settings.source), settings.unknown_event == "ignore"
        self._queue.extend((record, self._item(record, own_sources, skips_unknown)) for record in records)

    def guard(self, partitions: Iterable[TopicPartition], records: int) -> None:
        """Handle the next records of newly assigned partitions one by one, as one may have killed the last process."""
        self._guard.begin(partitions, records)

    def clear(self) -> None:
        """Drop the queued records: they are delivered again, as their offsets are not committed."""
        self._queue.clear()
        self._engine.reset()

    def handle_next(self, counts: RoundCounts, is_stopping: Callable[[], bool]) -> list[ReceivedRecord]:
        """Handle the first queued record and, in the same transaction, some after it. Returns the handled records.

        Raises:
            OperationalError, InterfaceError: the database is away; the records stay queued.
        """
        handled = self._handle_first(counts, is_stopping)
        counts.received += handled
        return [self._queue.popleft()[0] for _ in range(handled)]

    def _handle_first(self, counts: RoundCounts, is_stopping: Callable[[], bool]) -> int:
        record, item = self._queue[0]
        if item is None:
            counts.outcomes[Outcome.SKIPPED] += 1
            return 1
        is_guarded = self._guard.covers(record)
        if isinstance(item, OwnRecord):
            return self._handle_guarded(item, counts) if is_guarded else self._handle_own(counts, is_stopping)
        return self._receive_guarded(item, counts) if is_guarded else self._receive(counts, is_stopping)

    def _handle_own(self, counts: RoundCounts, is_stopping: Callable[[], bool]) -> int:
        """Handle messages of the outbox, up to the first record for the inbox."""
        run = list(takewhile(lambda each: not isinstance(each[1], ReceivedRecord), self._unguarded()))
        items = [item for _, item in run if isinstance(item, OwnRecord)]
        outcomes = self._engine.handle(self._outbox, items, is_stopping)
        counts.outcomes.update(outcomes)
        records = _records_of(run, len(outcomes))
        counts.outcomes[Outcome.SKIPPED] += records - len(outcomes)
        return records

    def _handle_guarded(self, item: OwnRecord, counts: RoundCounts) -> int:
        if not self._guard.is_counted(item.record) and self._outbox.count_delivery(item):
            self._guard.count(item.record)
        counts.outcomes[self._engine.handle_alone(self._outbox, item)] += 1
        return 1

    def _receive(self, counts: RoundCounts, is_stopping: Callable[[], bool]) -> int:
        """Handle records for the inbox, up to the first of the outbox."""
        run = takewhile(lambda each: isinstance(each[1], ReceivedRecord), self._unguarded())
        outcomes = self._inbox.receive([record for record, _ in run], is_stopping)
        counts.add_inbox(outcomes)
        counts.stored += len(outcomes) - outcomes.count(Outcome.SKIPPED)
        return len(outcomes)

    def _receive_guarded(self, record: ReceivedRecord, counts: RoundCounts) -> int:
        outcome = self._inbox.receive_counted(record)
        counts.add_inbox([outcome])
        if outcome is not Outcome.SKIPPED:
            counts.stored += 1
            self._guard.count(record)
        return 1

    def _unguarded(self) -> Iterator[Queued]:
        """Queued records, up to the first that the poison guard covers."""
        return takewhile(lambda each: not self._guard.covers(each[0]), self._queue)

    def _item(
        self, record: ReceivedRecord, own_sources: Collection[str | None], skips_unknown: bool
    ) -> OwnRecord | ReceivedRecord | None:
        try:
            identity = identify(record)
        except UnreadableRecord:
            return record
        if identity.outbox_id is None or identity.source not in own_sources:
            return record
        if skips_unknown and identity.event_type not in self._handlers.types_of(record.topic):
            return None
        return OwnRecord(record, identity, identity.outbox_id)


def _records_of(queued: Sequence[Queued], items: int) -> int:
    """Return the number of records with the first ``items`` items, and the skipped records after them."""
    for count, (_, item) in enumerate(queued):
        if item is not None:
            if not items:
                return count
            items -= 1
    return len(queued)
