"""The consumer: receives records as a member of a consumer group, and has each message handled once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from django_outbox.brokers.base import Broker, ReceivedRecord, Subscription, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.assignment import AssignmentTimeout
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.lane import Lane, RoundCounts
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.reconciler import Reconciler
from django_outbox.consumer.topics import ReadableTopics
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotReadable
from django_outbox.handlers.registry import GroupHandlers, Registry, registry
from django_outbox.models import OutboxMessage
from django_outbox.observability.logging import repeats
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop

log = logging.getLogger("django_outbox.consumer")

DEFAULT_BATCH_SIZE = 100
POLL_SECONDS = 0.5
INBOX_SECONDS = 1.0  # between two queries for due inbox messages when none was due
DRAIN_PATIENCE_SECONDS = 10.0


class Consumer:
    """Reads topics as a member of a consumer group, and runs the handlers.

    A record is only a hint. Its row decides: it is locked, it must be published, and it must name this record as its
    last publication. The handler gets the content of the row, and its effects are committed with the row's new state.

    The offset is committed after that. If the consumer is killed in between, it reads the record again, finds the row
    consumed and skips it. A failed message goes back to pending: the relay sends it again, and its partition continues.

    Records without a row in this outbox go to the inbox, and are retried from its rows.
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
            group: consumer group; None takes ``CONSUMER_GROUP``.
            topics: topics to read; None takes ``TOPIC`` and those of ``ROUTES``, of ``INBOX`` and of the handlers.
            batch_size: records to read before the offsets are committed; more if a batch handler takes more.

        Raises:
            HandlersNotImportable: a ``handlers`` module cannot be imported.
        """
        handlers.load()
        self.broker = broker
        self.using = using
        self.group = group or settings.consumer_group
        self.handlers = GroupHandlers(handlers, self.group)
        self.topics = frozenset(topics or self.handlers.default_topics)
        self.batch_size = max(batch_size, self.handlers.largest_batch)
        self.guarded_records = self.batch_size
        """Records of a newly assigned partition that are handled one by one."""
        self.worker_state = WorkerState("consumer", clock, group=self.group, topics=self.topics)
        self._clock = clock
        self._stop: Stop | None = None
        self.engine = Engine(using, self.group, clock)
        self._pauses = Pauses(using, self.handlers, clock)
        self._inbox = Inbox(self.engine, using=using, handlers=self.handlers, pauses=self._pauses, clock=clock)
        self.lane = Lane(self.engine, OutboxSource(using, self.handlers, self._pauses), self._inbox)
        self.inbox_due_at = clock() + INBOX_SECONDS
        self._prepared = PreparedStatements(using, clock)
        self._outages = OutageLog(log, clock, quiet_seconds=RELAPSE_SECONDS)
        self.readable_topics = ReadableTopics(broker, self.topics, log, clock, self._outages)
        self._assignment = AssignmentTimeout(self.group, log, clock)
        self.reconciler = Reconciler(broker, self.handlers, clock, using=using, outages=self._outages)
        self.subscription: Subscription | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._was_idle = False
        self._last_record_at = clock()

    def run(self, stop: Stop, *, drain: bool = False) -> None:
        """Work until stopped or, with ``drain``, until all present messages have been handled.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: with ``drain``, if broker or database stay
                unavailable for ``PUBLISH_TIMEOUT``.
            MessagesLeft: with ``drain``, if a topic cannot be read, or the group assigns no partitions.
        """
        self._last_record_at = self._clock()

        def step() -> float | None:
            self._prepared.renew_plans()
            counts = self.run_once(POLL_SECONDS)
            trouble = " ".join(filter(None, (str(self.readable_topics), str(self._assignment))))
            self.worker_state.record_round(**counts.progress, trouble=trouble)
            repeats.sum_up()
            if counts.received or counts.retried:
                return 0.0
            if drain and self._is_drained():
                return None
            return 0.0 if self.subscription else POLL_SECONDS

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
            if drain and (unread := self.readable_topics.unread):
                raise MessagesLeft(f"Messages are left, as their topics cannot be read. {unread}")
        finally:
            self._stop = None
            self.close()
            repeats.sum_up(now=True)

    def close(self) -> None:
        """Leave the group. The consumer joins it again if it is used again."""
        self.lane.clear()
        self._was_idle = False
        if self.subscription is not None:
            self.subscription.close()
            self.subscription = None
            self._assignment.reset()

    def run_once(self, timeout: float = 0.0) -> RoundCounts:
        """Handle due inbox messages, then poll for up to ``timeout`` seconds, handle the records and commit offsets.

        After an exception, the next call continues with the records in hand.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: call again later.
        """
        counts = RoundCounts()
        try:
            self._pauses.maintain()
            self._retry_from_inbox(counts)
            self._consume(counts, timeout)
        except Exception:
            self.worker_state.add_counts(counts.progress)
            raise
        return counts

    def _retry_from_inbox(self, counts: RoundCounts) -> None:
        if self._clock() < self.inbox_due_at:
            return
        if not self._inbox.has_due():  # one query without a transaction, as mostly nothing is due
            self.inbox_due_at = self._clock() + INBOX_SECONDS
            return
        outcomes = self._inbox.run_due(self.batch_size)
        counts.add_inbox(outcomes)
        counts.retried = len(outcomes)

    def _consume(self, counts: RoundCounts, timeout: float) -> None:
        try:
            subscription = self._ready_subscription()
            if subscription is None:
                return
            if not self.lane:
                if not self._inbox.takes_all:
                    self.reconciler.check_if_due(subscription)
                records = self._poll(subscription, 0.0 if counts.retried else timeout)
                self.lane.add(records)
                self.lane.guard.begin(subscription.take_assigned(), self.guarded_records)
                if self._assignment.is_overdue(subscription) or subscription.needs_new_client:
                    self.close()
                    return
                if not records:
                    self._check_if_idle(subscription)
            self._handle_records(subscription, counts)
        except TopicNotReadable as error:
            self.close()  # records in hand are delivered again
            self.readable_topics.refuse(error)
        except BrokerUnavailable:
            self.close()
            raise

    def _poll(self, subscription: Subscription, timeout: float) -> list[ReceivedRecord]:
        """Read up to ``batch_size`` records. For batch handlers, poll again until no more are available."""
        records = subscription.poll(timeout, self.batch_size)
        found = len(records) if self.handlers.largest_batch else 0
        while found and len(records) < self.batch_size:
            found = len(more := subscription.poll(0.0, self.batch_size - len(records)))
            records += more
        return records

    def _ready_subscription(self) -> Subscription | None:
        """Return the subscription to the readable topics; None if no topic is readable."""
        if not self.lane:
            self.readable_topics.check_if_due(is_reading=self.subscription is not None)
            if self._subscribed != self.readable_topics.current:
                self.close()
        if self.subscription is None and self.readable_topics.current:
            self._subscribed = self.readable_topics.current
            self.subscription = self.broker.subscribe(sorted(self._subscribed), self.group)
        return self.subscription

    def _check_if_idle(self, subscription: Subscription) -> None:
        """Check the topics as soon as this member has no partitions.

        A topic may have been deleted. A client that joined its group meanwhile may not notice when it is created again.
        """
        is_idle = subscription.is_idle
        if is_idle and not self._was_idle:
            self.readable_topics.check_soon()
        self._was_idle = is_idle

    def _handle_records(self, subscription: Subscription, counts: RoundCounts) -> None:
        offsets: dict[TopicPartition, int] = {}
        try:
            while self.lane and not self._is_stopping():
                self.worker_state.record_progress()
                for record in self.lane.handle_next(counts, self._is_stopping):
                    offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        finally:
            if offsets:
                self._last_record_at = self._clock()
                subscription.commit(offsets)

    def _is_stopping(self) -> bool:
        return self._stop is not None and self._stop.requested

    def _is_drained(self) -> bool:
        """True if every message that can be handled was, or if no record arrived for a while.

        The broker alone cannot answer that: not every broker reports where its log ends.
        """
        if self.subscription is None:
            return not self.readable_topics.current
        if trouble := str(self._assignment):
            raise MessagesLeft(f"Messages may be left. {trouble}")
        if not self.subscription.caught_up():
            return False
        if self._inbox.has_due():
            self.inbox_due_at = self._clock()
            return False
        if self._inbox.takes_all:
            return True
        left = (
            OutboxMessage.objects.using(self.using)
            .own()
            .published()
            .filter(topic__in=self.readable_topics.current, event_type__in=self.handlers.types)
        )
        if not left.exists():
            return True
        if self._clock() - self._last_record_at < DRAIN_PATIENCE_SECONDS:
            return False
        log.warning("%d published messages were not received.", left.count(), extra={"action": "drained"})
        return True
