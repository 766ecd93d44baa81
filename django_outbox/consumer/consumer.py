"""The consumer: receives records as a member of a consumer group, and has each message handled once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from django_outbox.brokers.base import Broker, Subscription
from django_outbox.conf import settings
from django_outbox.consumer.assignment import AssignmentTimeout
from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.concurrency import make_lanes, require_concurrency
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.reconciler import Reconciler
from django_outbox.consumer.source import RoundCounts
from django_outbox.consumer.topics import ReadableTopics
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotReadable
from django_outbox.handlers.registry import GroupHandlers, Registry, registry
from django_outbox.observability.logging import repeats
from django_outbox.serializers.outage import registry_trouble
from django_outbox.state.outbox import published
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop

log = logging.getLogger("django_outbox.consumer")

DEFAULT_BATCH_SIZE = 100
POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 60.0
"""A fifth of Kafka's default max.poll.interval.ms: without a poll for that long, the group would exclude this member."""
RETRY_SECONDS = 1.0  # then stored messages that are due and records take turns
INBOX_SECONDS = 1.0  # between two queries for due inbox messages when none was due
DRAIN_PATIENCE_SECONDS = 10.0


class Consumer:
    """Reads topics as a member of a consumer group, and runs the handlers.

    A record is only a hint. Its row decides: it is locked, it must be published, and it must name this record as its
    last publication. The handler gets the content of the row, and its effects are committed with the row's new state.

    The offset is committed after that. If the consumer is killed in between, it reads the record again, finds the row
    consumed and skips it. A failed message goes back to pending: the relay sends it again, and its partition continues.

    Records without a row in this outbox go to the inbox, and are retried from its rows.

    With a concurrency above 1, threads handle messages, each over its own database connection. This object reads for
    them and commits offsets. Use it from one thread.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        using: str,
        group: str | None = None,
        topics: Collection[str] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        concurrency: int | None = None,
        handlers: Registry = registry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            group: consumer group; None takes ``CONSUMER_GROUP``.
            topics: topics to read; None takes ``TOPIC`` and those of ``ROUTES``, of ``INBOX`` and of the handlers.
            batch_size: records to read at once; more if a batch handler takes more.
            concurrency: messages that are handled at the same time; None takes ``CONCURRENCY``.

        Raises:
            HandlersNotImportable: a ``handlers`` module cannot be imported.
            ImproperlyConfigured: the database does not allow this concurrency.
        """
        handlers.load()
        self.broker = broker
        self.using = using
        self.group = group or settings.consumer_group
        self.handlers = GroupHandlers(handlers, self.group)
        self.topics = frozenset(topics or self.handlers.default_topics)
        self.batch_size = max(batch_size, self.handlers.largest_batch)
        self.concurrency = concurrency or settings.concurrency
        require_concurrency(self.concurrency, using)
        self.worker_state = WorkerState("consumer", clock, group=self.group, topics=self.topics, lanes=self.concurrency)
        self._clock = clock
        self._stop: Stop | None = None
        self._prepared = PreparedStatements(using, clock)
        self._pauses = Pauses(using, self.handlers, clock)
        self.outbox = OutboxSource(using, self.handlers, self._pauses, clock)
        self._inbox = Inbox(using=using, handlers=self.handlers, pauses=self._pauses)
        self.lanes = make_lanes(
            self.concurrency,
            self.outbox,
            self._inbox,
            self._prepared,
            Breaker(using, self.group, self._pauses),
            using=using,
            handlers=self.handlers,
            batch_size=self.batch_size,
            worker_state=self.worker_state,
            clock=clock,
        )
        self.inbox_due_at = clock() + INBOX_SECONDS
        self._outages = OutageLog(log, clock, quiet_seconds=RELAPSE_SECONDS)
        self.readable_topics = ReadableTopics(broker, self.topics, log, clock, self._outages)
        self._assignment = AssignmentTimeout(self.group, log, clock)
        self.reconciler = Reconciler(broker, self.handlers, clock, self.lanes, using=using, outages=self._outages)
        self.subscription: Subscription | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._is_committed = True  # what was handled
        self._last_record_at = clock()
        self._polled_at = clock()

    def run(self, stop: Stop, *, drain: bool = False) -> None:
        """Work until stopped or, with ``drain``, until all present messages have been handled.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: with ``drain``, if broker or database stay
                unavailable for ``PUBLISH_TIMEOUT``.
            MessagesLeft: with ``drain``, if a topic or schema registry is unavailable, or the group assigns no partitions.
        """
        self._last_record_at = self._clock()

        def step() -> float | None:
            self._prepared.renew_plans()
            counts = self.run_once(POLL_SECONDS)
            trouble = " ".join(filter(None, (str(self.readable_topics), str(self._assignment), registry_trouble())))
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
            self.close()
            self._stop = None
            repeats.sum_up(now=True)

    def close(self) -> None:
        """Finish what is being handled, and leave the group. The consumer joins it again if it is used again."""
        try:
            self.lanes.finish()
            with suppress(BrokerUnavailable):  # then the records are read again, and skipped
                self._commit(wait=True)
        finally:
            self.worker_state.add_counts(self.lanes.take_counts().progress)
            self.lanes.close()
            self._leave()

    def _leave(self) -> None:
        """Leave the group. What threads are handling goes on."""
        self.lanes.clear()
        self.readable_topics.record_idle(False)
        if self.subscription is not None:
            self.subscription.on_revoked = lambda partitions: {}  # it may close later, when others are in hand
            self.subscription.close()
            self.subscription = None
            self._assignment.reset()

    def run_once(self, timeout: float = 0.0) -> RoundCounts:
        """Handle due inbox messages, then poll for up to ``timeout`` seconds, handle the records and commit offsets.

        With a concurrency above 1, this gives messages to the threads, and counts what they have handled since the last
        call. After an exception, the next call continues with the records in hand.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: call again later.
        """
        try:
            self._pauses.maintain()
            self._retry_from_inbox()
            self._consume(timeout)
        except Exception:
            self.worker_state.add_counts(self.lanes.take_counts().progress)
            raise
        return self.lanes.take_counts()

    def _retry_from_inbox(self) -> None:
        if self._clock() >= self.inbox_due_at and not self.lanes.add_due(self.batch_size):
            self.inbox_due_at = self._clock() + INBOX_SECONDS
        self.lanes.work(self._is_stopping, self._clock() + RETRY_SECONDS)
        if self.concurrency == 1:
            self.lanes.drop_due()  # records have their turn

    def _consume(self, timeout: float) -> None:
        try:
            subscription = self._ready_subscription()
            if subscription is None:
                return
            try:
                self._read(subscription, timeout)
                self.lanes.work(self._is_stopping, self._clock() + KEEP_ALIVE_SECONDS)
            finally:
                self._commit()
        except TopicNotReadable as error:
            self._leave()  # records in hand are delivered again
            self.readable_topics.refuse(error)
        except BrokerUnavailable:
            self._leave()
            raise

    def _read(self, subscription: Subscription, timeout: float) -> None:
        """Read records into the lanes, as many as there is room for. Leave the group if this member must join again."""
        if not self._inbox.takes_all:
            self.reconciler.check_if_due(subscription)
        timeout = self.lanes.poll_seconds(timeout)
        left = self.lanes.room
        if not left and self._clock() < self._polled_at + KEEP_ALIVE_SECONDS:
            if timeout:
                self.lanes.wait(timeout)
            return
        paused = self.lanes.full
        subscription.pause(paused)
        records = subscription.poll(timeout, left)
        self._polled_at = self._clock()
        self.lanes.add_records(records, subscription.take_assigned())
        more = records if self.handlers.largest_batch else []
        while more and (left := left - len(more)) > 0:  # batch handlers take what is available
            more = subscription.poll(0.0, left)
            self.lanes.add_records(more, subscription.take_assigned())
        if self._assignment.is_overdue(subscription) or subscription.needs_new_client:
            self._leave()
        elif not records:
            self.readable_topics.record_idle(subscription.is_idle)
            if not paused and (self.lanes.are_threads or not self.lanes.active):  # otherwise the poll did not wait
                self.reconciler.stand_still()

    def _commit(self, *, wait: bool = False) -> None:
        offsets, member = self.lanes.take_offsets(), self.subscription
        self._is_committed = True
        if offsets and member is not None:
            self._last_record_at = self._clock()
            self._is_committed = member.commit(offsets) if wait else member.commit_soon(offsets)
        if not self._is_committed:
            self.lanes.give_back(offsets)

    def _ready_subscription(self) -> Subscription | None:
        """Return the subscription to the readable topics; None if no topic is readable."""
        if self.lanes.are_threads or not self.lanes.active:
            self.readable_topics.check_if_due(is_reading=self.subscription is not None)
            if self._subscribed != self.readable_topics.current:
                self._commit(wait=True)
                self._leave()
        if self.subscription is None and self.readable_topics.current:
            self._subscribed = self.readable_topics.current
            self.subscription = self.broker.subscribe(sorted(self._subscribed), self.group)
            self.subscription.on_revoked = self.lanes.revoke
        return self.subscription

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
        self.lanes.require_patience(settings.publish_timeout)
        if self.lanes or not self._is_committed or not self.subscription.caught_up():
            return False
        if self._inbox.has_due():
            self.inbox_due_at = self._clock()
            return False
        left = published(self.readable_topics.current, self.handlers.types, using=self.using)
        if self._inbox.takes_all or not left.exists():
            return True
        if self._clock() - self._last_record_at < DRAIN_PATIENCE_SECONDS:
            return False
        log.warning("%d published messages were not received.", left.count(), extra={"action": "drained"})
        return True
