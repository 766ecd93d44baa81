"""The consumer: runs the handlers of what the broker delivers, each message once."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from django_outbox.brokers.base import Broker, ReceivedRecord, Subscription, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.assignment import AssignmentWatch
from django_outbox.consumer.delivery import Outcome
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.outbox import OutboxSource, OwnRecord
from django_outbox.consumer.poison_guard import PoisonGuard
from django_outbox.consumer.reconciler import Reconciler
from django_outbox.consumer.topics import ReadableTopics
from django_outbox.events.identity import identify
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotReadable, UnreadableRecord
from django_outbox.handlers.registry import GroupHandlers, Registry, registry
from django_outbox.models import OutboxMessage
from django_outbox.observability.logging import repeats
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import MessageCounts, WorkerState
from django_outbox.worker.stop import Stop

log = logging.getLogger("django_outbox.consumer")

DEFAULT_BATCH_SIZE = 100
POLL_SECONDS = 0.5
INBOX_SECONDS = 1.0  # between two looks for messages of the inbox when none was due
DRAIN_PATIENCE_SECONDS = 10.0


@dataclass(slots=True)
class Batch:
    """What became of the records of one poll, and of the inbox messages that were due.

    Attributes:
        received: records read.
        retried: due inbox messages (also counted below).
        outcomes: deliveries by their outcome.
        stored: records that became inbox messages, whatever became of these.
        inbox_consumed: inbox messages among those consumed.
    """

    received: int = 0
    retried: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    stored: int = 0
    inbox_consumed: int = 0

    def add_inbox(self, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes of inbox messages."""
        self.outcomes.update(outcomes)
        self.inbox_consumed += outcomes.count(Outcome.CONSUMED)

    @property
    def consumed(self) -> int:
        return self.outcomes[Outcome.CONSUMED]

    @property
    def failed(self) -> int:
        return self.outcomes[Outcome.FAILED]

    @property
    def dead(self) -> int:
        return self.outcomes[Outcome.DEAD]

    @property
    def requeued(self) -> int:
        return self.outcomes[Outcome.REQUEUED]

    @property
    def skipped(self) -> int:
        return self.outcomes[Outcome.SKIPPED]

    @property
    def progress(self) -> dict[str, int]:
        """The counts for ``WorkerState.step``."""
        return {
            "consumed": self.consumed - self.inbox_consumed,
            "inbox_received": self.stored,
            "inbox_consumed": self.inbox_consumed,
        }


InHand = tuple[ReceivedRecord, OwnRecord | ReceivedRecord | None]
"""A record, and what it is to its source: one of the outbox, one for the inbox, or None if there is nothing to do."""


class Consumer:
    """Reads the topics of the outbox as a member of a consumer group and runs the handlers.

    A record is only a hint that a row may be handled. The row decides: it is locked, it has to be
    published, and the record has to be the one that it was last published as. All that a handler
    gets comes from the row, and its effects and the row's new state are committed together.

    The offset is committed after that. A consumer that is killed between the two reads the record
    again, finds the row consumed and skips it. A message that fails goes back to pending, so that
    the relay sends it again and its partition goes on.

    What has no row in this outbox is for the inbox, which also retries it from there.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        using: str,
        group: str | None = None,
        topics: Collection[str] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        handlers: Registry = registry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            broker: where from.
            using: alias of the database with the outbox.
            group: consumer group; None takes ``CONSUMER_GROUP``.
            topics: what to read; None takes ``TOPIC``, those of ``ROUTES``, of ``INBOX`` and of the
                handlers.
            batch_size: records a poll, after which the offsets are committed.
            handlers: whose handlers to run.
            clock: seconds, monotonic.

        Raises:
            HandlersNotImportable: if a ``handlers`` module cannot be imported.
        """
        handlers.load()
        self.broker = broker
        self.using = using
        self.group = group or settings.consumer_group
        group_handlers = GroupHandlers(handlers, self.group)
        self.handlers = group_handlers
        self.topics = frozenset(topics or group_handlers.default_topics)
        self._engine = Engine(using, self.group, clock)
        self._outbox = OutboxSource(using, group_handlers)
        self._inbox = Inbox(self._engine, using=using, handlers=group_handlers, clock=clock)
        self.batch_size = batch_size
        self._clock = clock
        self.worker_state = WorkerState("consumer", clock, group=self.group, topics=self.topics)
        self._subscription: Subscription | None = None
        self._outages = OutageLog(log, clock, quiet_seconds=RELAPSE_SECONDS)
        self._reconciler = Reconciler(
            broker, group_handlers, clock, using=using, has_outage=lambda: self._outages.is_active
        )
        self._in_hand: deque[InHand] = deque()
        self._guard = PoisonGuard()
        self._prepared = PreparedStatements(using, clock)
        self._readable = ReadableTopics(broker, self.topics, log, clock, self._outages)
        self._assignment = AssignmentWatch(self.group, log, clock)
        self._joined: frozenset[str] = frozenset()
        self._was_idle = False
        self._last_record_at = clock()
        self._look_at_inbox_at = clock() + INBOX_SECONDS
        self._stop: Stop | None = None

    def run(self, stop: Stop, *, drain: bool = False) -> None:
        """Work until told to stop or, with ``drain``, until all that is there has been handled.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: with ``drain``, if broker or
                database stay away for ``PUBLISH_TIMEOUT``.
            MessagesLeft: with ``drain``, if a topic cannot be read, or the group assigns no partitions.
        """
        self._last_record_at = self._clock()

        def step() -> float | None:
            self._prepared.plan_anew()
            batch = self.run_once(POLL_SECONDS)
            trouble = " ".join(filter(None, (str(self._readable), str(self._assignment))))
            self.worker_state.record_round(**batch.progress, trouble=trouble)
            repeats.sum_up()
            if batch.received or batch.retried:
                return 0.0
            if drain and self._drained():
                return None
            return 0.0 if self._subscription else POLL_SECONDS

        self._stop = stop
        try:
            run_through_faults(
                stop,
                step,
                log=log,
                using=self.using,
                patience=settings.publish_timeout if drain else None,
                on_fault=self.worker_state.record_fault,
                outages=self._outages,
                clock=self._clock,
            )
            if drain and (unread := self._readable.unread):
                raise MessagesLeft(f"Messages are left, as their topics cannot be read. {unread}")
        finally:
            self._stop = None
            self.close()
            repeats.sum_up(now=True)

    def close(self) -> None:
        """Leave the group. The consumer may be used again: it joins anew."""
        self._in_hand.clear()
        self._engine.start_over()
        self._was_idle = False
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
            self._assignment.restart()

    def run_once(self, timeout: float = 0.0) -> Batch:
        """Handle what is due in the inbox; wait up to ``timeout`` seconds for records, handle them,
        commit their offsets.

        After an exception the records in hand are gone on with at the next call.

        Raises:
            BrokerUnavailable: call again later.
            OperationalError, InterfaceError: the database is away; call again later.
        """
        batch = Batch()
        try:
            self._work(batch, timeout)
        except Exception:
            self.worker_state.add_counts(MessageCounts(**batch.progress))  # what came before is done all the same
            raise
        return batch

    def _work(self, batch: Batch, timeout: float) -> None:
        self._retry_from_inbox(batch)
        try:
            subscription = self._ready_subscription()
            if subscription is None:
                return
            if not self._in_hand:
                if not self._inbox.takes_all:
                    self._reconciler.look_if_due(subscription)
                records = subscription.poll(0.0 if batch.retried else timeout, self.batch_size)
                self._in_hand.extend(zip(records, self._items(records), strict=True))
                self._guard.begin(subscription.take_assigned(), self.batch_size)
                if self._assignment.is_overdue(subscription) or subscription.needs_new_client:
                    self.close()
                    return
                if not records:
                    self._look_if_idle(subscription)
            self._handle_records(subscription, batch)
        except TopicNotReadable as error:
            self.close()  # what was read with it is not committed, and comes again
            self._readable.refuse(error)
        except BrokerUnavailable:
            self.close()
            raise

    def _handle_records(self, subscription: Subscription, batch: Batch) -> None:
        done: dict[TopicPartition, int] = {}
        try:
            while self._in_hand and not self._is_stopping():
                self.worker_state.record_progress()
                for _ in range(self._handle_next(batch)):
                    record, _ = self._in_hand.popleft()
                    batch.received += 1
                    done[TopicPartition(record.topic, record.partition)] = record.offset + 1
        finally:
            if done:
                self._last_record_at = self._clock()
                subscription.commit(done)

    def _handle_next(self, batch: Batch) -> int:
        """Handle what is first in hand; returns how many records are done with."""
        record, item = self._in_hand[0]
        if item is None:
            batch.outcomes[Outcome.SKIPPED] += 1
            return 1
        is_guarded = self._guard.covers(record)
        if isinstance(item, OwnRecord):
            return self._handle_guarded(item, batch) if is_guarded else self._handle_own(batch)
        return self._receive_guarded(item, batch) if is_guarded else self._receive(batch)

    def _handle_own(self, batch: Batch) -> int:
        """Handle messages of the outbox, up to the first record for the inbox."""
        run = list(takewhile(lambda each: not isinstance(each[1], ReceivedRecord), self._unguarded()))
        items = [item for _, item in run if isinstance(item, OwnRecord)]
        outcomes = self._engine.handle(self._outbox, items, self._is_stopping)
        batch.outcomes.update(outcomes)
        records = _records(run, len(outcomes))
        batch.outcomes[Outcome.SKIPPED] += records - len(outcomes)
        return records

    def _handle_guarded(self, item: OwnRecord, batch: Batch) -> int:
        if not self._guard.is_counted(item.record) and self._outbox.count_delivery(item):
            self._guard.passed(item.record)
        batch.outcomes[self._engine.handle_alone(self._outbox, item)] += 1
        return 1

    def _receive(self, batch: Batch) -> int:
        """Handle records for the inbox, up to the first of the outbox."""
        run = takewhile(lambda each: isinstance(each[1], ReceivedRecord), self._unguarded())
        outcomes = self._inbox.receive([record for record, _ in run], self._is_stopping)
        batch.add_inbox(outcomes)
        batch.stored += len(outcomes) - outcomes.count(Outcome.SKIPPED)
        return len(outcomes)

    def _receive_guarded(self, record: ReceivedRecord, batch: Batch) -> int:
        outcome = self._inbox.receive_counted(record)
        batch.add_inbox([outcome])
        if outcome is not Outcome.SKIPPED:
            batch.stored += 1
            self._guard.passed(record)
        return 1

    def _unguarded(self) -> Iterator[InHand]:
        """Records in hand, up to the first that the poison guard covers."""
        return takewhile(lambda each: not self._guard.covers(each[0]), self._in_hand)

    def _retry_from_inbox(self, batch: Batch) -> None:
        if self._clock() < self._look_at_inbox_at:
            return
        if not self._inbox.has_due():  # without a transaction, as it is most of the time
            self._look_at_inbox_at = self._clock() + INBOX_SECONDS
            return
        outcomes = self._inbox.run_due(self.batch_size)
        batch.add_inbox(outcomes)
        batch.retried = len(outcomes)

    def _is_stopping(self) -> bool:
        return self._stop is not None and self._stop.requested

    def _ready_subscription(self) -> Subscription | None:
        """The membership in the group, for the topics that can be read; None if there is none yet."""
        if not self._in_hand:
            self._readable.check_if_due(is_reading=self._subscription is not None)
            if self._joined != self._readable.readable:
                self.close()
        if self._subscription is None and self._readable.readable:
            self._joined = self._readable.readable
            self._subscription = self.broker.subscribe(sorted(self._joined), self.group)
        return self._subscription

    def _look_if_idle(self, subscription: Subscription) -> None:
        """Look at the topics as soon as this member gets no partitions: one of them may be gone.

        A client that joined its group while a topic did not exist may not notice when it is created again.
        """
        is_idle = subscription.is_idle
        if is_idle and not self._was_idle:
            self._readable.check_soon()
        self._was_idle = is_idle

    def _drained(self) -> bool:
        """True if every message that could be handled was, or nothing has come for a while.

        The broker's word alone would not do: not every broker tells where its log ends.
        """
        if self._subscription is None:
            return not self._readable.readable
        if trouble := str(self._assignment):
            raise MessagesLeft(f"Messages may be left. {trouble}")
        if not self._subscription.caught_up():
            return False
        if self._inbox.has_due():
            self._look_at_inbox_at = self._clock()
            return False
        if self._inbox.takes_all:
            return True
        left = (
            OutboxMessage.objects.using(self.using)
            .own()
            .published()
            .filter(topic__in=self._readable.readable, event_type__in=self.handlers.types)
        )
        if not left.exists():
            return True
        if self._clock() - self._last_record_at < DRAIN_PATIENCE_SECONDS:
            return False
        log.warning(
            "%d published messages did not come out of the broker.",
            left.count(),
            extra={"action": "drained"},
        )
        return True

    @property
    def is_guarded(self) -> bool:
        """True until the first messages after a start or a rebalance have been handled."""
        return bool(self._guard)

    def _items(self, records: Sequence[ReceivedRecord]) -> list[OwnRecord | ReceivedRecord | None]:
        if self._inbox.takes_all:
            return list(records)
        ours, ignores = (None, settings.source), settings.unknown_event == "ignore"
        return [self._item(record, ours, ignores) for record in records]

    def _item(
        self, record: ReceivedRecord, ours: Collection[str | None], ignores_unknown: bool
    ) -> OwnRecord | ReceivedRecord | None:
        try:
            identity = identify(record)
        except UnreadableRecord:
            return record
        if identity.outbox_id is None or identity.source not in ours:
            return record
        if ignores_unknown and identity.event_type not in self.handlers.types_of(record.topic):
            return None
        return OwnRecord(record, identity, identity.outbox_id)


def _records(in_hand: Sequence[InHand], items: int) -> int:
    """How many records there are from the start to the item that follows so many items."""
    for count, (_, item) in enumerate(in_hand):
        if item is not None:
            if not items:
                return count
            items -= 1
    return len(in_hand)
