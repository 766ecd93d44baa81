"""A lane of the consumer: handles records in their order, each by the outbox or the inbox."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.outbox import OutboxSource, OwnRecord, own_record
from django_outbox.consumer.source import Item, Outcome


@dataclass(slots=True)
class RoundCounts:
    """What happened to the records of one poll, and to due messages of the inbox.

    Attributes:
        received: records that were read.
        retried: due inbox messages (also counted below).
        stored: records that became inbox messages.
        inbox_consumed: consumed inbox messages (also counted in ``consumed``).
        consumed, failed, dead, requeued, skipped: deliveries by their ``Outcome``.
    """

    received: int = 0
    retried: int = 0
    stored: int = 0
    inbox_consumed: int = 0
    consumed: int = 0
    failed: int = 0
    dead: int = 0
    requeued: int = 0
    skipped: int = 0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        for outcome, number in Counter(outcomes).items():
            setattr(self, outcome, getattr(self, outcome) + number)

    def add_inbox(self, outcomes: Sequence[Outcome]) -> None:
        self.add(outcomes)
        self.inbox_consumed += outcomes.count(Outcome.CONSUMED)

    @property
    def progress(self) -> dict[str, int]:
        """The counts by the columns of ``Activity``."""
        return {
            "consumed": self.consumed - self.inbox_consumed,
            "inbox_received": self.stored,
            "inbox_consumed": self.inbox_consumed,
        }


class PoisonGuard:
    """Knows the first records after a start or a rebalance, one of which may have killed the previous process.

    They are handled one by one, with the delivery counted and committed before the handler runs.
    """

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
        if not self._left[partition]:
            del self._left[partition]


class Lane:
    """Handles queued records in their order. All state about the records in hand is here."""

    def __init__(self, engine: Engine, outbox: OutboxSource, inbox: Inbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._inbox = inbox
        self._queue: deque[OwnRecord | ReceivedRecord] = deque()  # for the outbox, and for the inbox
        self.guard = PoisonGuard()

    def __bool__(self) -> bool:
        """True if records are queued."""
        return bool(self._queue)

    def add(self, records: Sequence[ReceivedRecord]) -> None:
        """Queue records of one poll."""
        if self._inbox.takes_all:
            self._queue.extend(records)
        else:
            source = settings.source
            self._queue.extend(own_record(record, source) or record for record in records)

    def clear(self) -> None:
        """Drop the queued records: they are delivered again, as their offsets are not committed."""
        self._queue.clear()
        self._engine.reset()

    def handle_next(self, counts: RoundCounts, is_stopping: Callable[[], bool]) -> list[ReceivedRecord]:
        """Handle the first queued record and, in the same transaction, some after it. Returns the handled records.

        Raises:
            OperationalError, InterfaceError: the database is away; the records stay queued.
        """
        first = self._queue[0]
        if isinstance(first, OwnRecord):
            outcomes = self._handle_own(first, is_stopping)
            counts.add(outcomes)
        else:
            outcomes = self._receive(first, is_stopping)
            counts.add_inbox(outcomes)
            counts.stored += len(outcomes) - outcomes.count(Outcome.SKIPPED)
        counts.received += len(outcomes)
        return [_record(self._queue.popleft()) for _ in outcomes]

    def _handle_own(self, first: OwnRecord, is_stopping: Callable[[], bool]) -> list[Outcome]:
        record = first.record
        if self.guard.covers(record):
            if not self.guard.is_counted(record) and self._outbox.count_delivery(first):
                self.guard.count(record)
            return [self._engine.handle_alone(self._outbox, first)]
        return self._engine.handle(self._outbox, self._first_of(OwnRecord), is_stopping)

    def _receive(self, first: ReceivedRecord, is_stopping: Callable[[], bool]) -> list[Outcome]:
        if self.guard.covers(first):
            outcome = self._inbox.receive_counted(first)
            if outcome is not Outcome.SKIPPED:
                self.guard.count(first)
            return [outcome]
        return self._inbox.receive(self._first_of(ReceivedRecord), is_stopping)

    def _first_of(self, kind: type[Item]) -> list[Item]:
        """Return the first queued items of one kind, up to one that the poison guard covers."""
        found: list[Item] = []
        is_guarding = bool(self.guard)
        for item in self._queue:
            if not isinstance(item, kind) or (is_guarding and self.guard.covers(_record(item))):
                break
            found.append(item)
        return found


def _record(item: OwnRecord | ReceivedRecord) -> ReceivedRecord:
    return item.record if isinstance(item, OwnRecord) else item
