"""The consumer: runs the handlers of what the broker delivers, each message once."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from django_outbox.assignment_watch import AssignmentWatch
from django_outbox.brokers.base import Broker, ReceivedRecord, Subscription, TopicPartition
from django_outbox.care import Care
from django_outbox.codecs import decode
from django_outbox.conf import settings
from django_outbox.delivery import Delivery, Named, Terms
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotReadable, UnreadableRecord
from django_outbox.fast_path import FastPath
from django_outbox.handlers import GroupHandlers, Registry, registry
from django_outbox.inbox import Inbox
from django_outbox.logs import repeats
from django_outbox.models import OutboxMessage
from django_outbox.outage_log import OutageLog
from django_outbox.prepared_statements import PreparedStatements
from django_outbox.pulse import Done, Pulse
from django_outbox.reconciler import Reconciler
from django_outbox.runner import RELAPSE_SECONDS, Stop, run_through_faults
from django_outbox.topic_watch import TopicWatch

log = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 100
POLL_SECONDS = 0.5
INBOX_SECONDS = 1.0  # between two looks for messages of the inbox when none was due
DRAIN_PATIENCE_SECONDS = 10.0


@dataclass(slots=True)
class Batch:
    """What became of the records of one poll.

    Attributes:
        received: records read.
        retried: messages of the inbox that were due, and are counted below as well.
        consumed: messages handled and marked so.
        failed: messages whose handler raised: they wait for a retry, or are dead if it was the last.
        dead: messages given up at once.
        put_back: messages sent again, uncounted, as it was not their turn or not their fault.
        skipped: records with nothing to do: copies, strangers, events without a handler.
        stored: records that became messages of the inbox, whatever became of these.
        of_inbox: messages of the inbox among those consumed.
    """

    received: int = 0
    retried: int = 0
    consumed: int = 0
    failed: int = 0
    dead: int = 0
    put_back: int = 0
    skipped: int = 0
    stored: int = 0
    of_inbox: int = 0

    def add(self, outcome: str) -> None:
        """Count an outcome by its name."""
        setattr(self, outcome, getattr(self, outcome) + 1)

    def add_of_inbox(self, outcomes: Sequence[str]) -> None:
        """Count outcomes of messages of the inbox."""
        for outcome in outcomes:
            self.add(outcome)
        self.of_inbox += outcomes.count("consumed")

    @property
    def moved(self) -> dict[str, int]:
        """What the pulse is told of it."""
        return {
            "consumed": self.consumed - self.of_inbox,
            "inbox_received": self.stored,
            "inbox_consumed": self.of_inbox,
        }


Lot = Named | Literal["inbox", "skip"]
"""What a record is for: the row that it names, the inbox, or nothing."""


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
        self._inbox = Inbox(using=using, handlers=group_handlers, clock=clock)
        self._terms = Terms(using, group_handlers)
        self.batch_size = batch_size
        self._clock = clock
        self.pulse = Pulse("consumer", clock, group=self.group, topics=self.topics)
        self._subscription: Subscription | None = None
        self._fast_path = FastPath(self._terms, clock)
        self._outages = OutageLog(log, clock, quiet=RELAPSE_SECONDS)
        self._reconciler = Reconciler(broker, self._terms, clock, is_out=lambda: self._outages.lasts)
        self._in_hand: deque[tuple[ReceivedRecord, Lot]] = deque()
        self._care = Care(using)
        self._prepared = PreparedStatements(using, clock)
        self._alone = 0
        self._watch = TopicWatch(broker, self.topics, log, clock, self._outages)
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
            trouble = " ".join(filter(None, (str(self._watch), str(self._assignment))))
            self.pulse.step(**batch.moved, trouble=trouble)
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
                on_fault=self.pulse.trouble,
                outages=self._outages,
                clock=self._clock,
            )
            if drain and (unread := self._watch.unread):
                raise MessagesLeft(f"Messages are left, as their topics cannot be read. {unread}")
        finally:
            self._stop = None
            self.close()
            repeats.sum_up(now=True)

    def close(self) -> None:
        """Leave the group. The consumer may be used again: it joins anew."""
        self._in_hand.clear()
        self._alone = 0
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
            self.pulse.give_back(Done(**batch.moved))  # what came before is done all the same
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
                self._in_hand.extend(zip(records, self._lots(records), strict=True))
                self._care.begin(subscription.take_assigned(), self.batch_size)
                if self._assignment.is_overdue(subscription) or subscription.needs_new_client:
                    self.close()
                    return
                if not records:
                    self._look_if_idle(subscription)
            self._handle_records(subscription, batch)
        except TopicNotReadable as error:
            self.close()  # what was read with it is not committed, and comes again
            self._watch.blame(error)
        except BrokerUnavailable:
            self.close()
            raise

    def _handle_records(self, subscription: Subscription, batch: Batch) -> None:
        done: dict[TopicPartition, int] = {}
        try:
            while self._in_hand and not self._is_stopping():
                self.pulse.turn()
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
        first, lot = self._in_hand[0]
        if lot == "skip":
            batch.skipped += 1
            return 1
        careful = self._care.covers(first)
        steady = [] if self._alone or careful else list(takewhile(self._is_steady, self._in_hand))
        if lot == "inbox":
            return self._receive(careful, batch)
        together = list(takewhile(lambda each: each[1] != "inbox", steady))
        messages = [named for _, named in together if isinstance(named, Named)]
        if len(messages) < 2:
            self._care.count(lot)
            batch.add(Delivery(lot, self._terms).handle())
            self._alone = max(0, self._alone - 1)
            return 1
        try:
            outcome = self._fast_path.run(messages, self._is_stopping)
        except Exception:
            self._alone = len(messages)  # each shows for itself whether it is what brings the outage about
            raise
        self._alone = outcome.alone
        records = _records(together, outcome.messages)
        batch.consumed += outcome.handled
        batch.skipped += records - outcome.handled
        return records

    def _receive(self, careful: bool, batch: Batch) -> int:
        """Let the inbox handle what is first in hand, with care one; returns how many records are done with."""
        first, _ = self._in_hand[0]
        run = takewhile(lambda each: each[1] == "inbox" and self._is_steady(each), self._in_hand)
        outcomes = self._inbox.receive([first] if careful else [record for record, _ in run], careful=careful)
        batch.add_of_inbox(outcomes)
        batch.stored += len(outcomes) - outcomes.count("skipped")
        if careful and outcomes != ["skipped"]:
            self._care.took(first)
        return len(outcomes)

    def _retry_from_inbox(self, batch: Batch) -> None:
        if self._clock() < self._look_at_inbox_at:
            return
        if not self._inbox.has_due():  # without a transaction, as it is most of the time
            self._look_at_inbox_at = self._clock() + INBOX_SECONDS
            return
        outcomes = self._inbox.run_due(self.batch_size)
        batch.add_of_inbox(outcomes)
        batch.retried = len(outcomes)

    def _is_stopping(self) -> bool:
        return self._stop is not None and self._stop.requested

    def _ready_subscription(self) -> Subscription | None:
        """The membership in the group, for the topics that can be read; None if there is none yet."""
        if not self._in_hand:
            self._watch.look_if_due(is_reading=self._subscription is not None)
            if self._joined != self._watch.readable:
                self.close()
        if self._subscription is None and self._watch.readable:
            self._joined = self._watch.readable
            self._subscription = self.broker.subscribe(sorted(self._joined), self.group)
        return self._subscription

    def _look_if_idle(self, subscription: Subscription) -> None:
        """Look at the topics as soon as this member gets no partitions: one of them may be gone.

        A client that joined its group while a topic did not exist may not notice when it is created again.
        """
        is_idle = subscription.is_idle
        if is_idle and not self._was_idle:
            self._watch.look_soon()
        self._was_idle = is_idle

    def _drained(self) -> bool:
        """True if every message that could be handled was, or nothing has come for a while.

        The broker's word alone would not do: not every broker tells where its log ends.
        """
        if self._subscription is None:
            return not self._watch.readable
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
            .filter(topic__in=self._watch.readable, event_type__in=self._terms.handlers.types)
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
    def is_careful(self) -> bool:
        """True as long as the first messages after a start or a rebalance have not all come."""
        return bool(self._care)

    def _is_steady(self, in_hand: tuple[ReceivedRecord, Lot]) -> bool:
        return not self._care.covers(in_hand[0])

    def _lots(self, records: Sequence[ReceivedRecord]) -> list[Lot]:
        if self._inbox.takes_all:
            return ["inbox"] * len(records)
        ours, ignores = (None, settings.source), settings.unknown_event == "ignore"
        return [self._lot(record, ours, ignores) for record in records]

    def _lot(self, record: ReceivedRecord, ours: Collection[str | None], ignores_unknown: bool) -> Lot:
        try:
            incoming = decode(record)
        except UnreadableRecord:
            return "inbox"
        if incoming.outbox_id is None or incoming.source not in ours:
            return "inbox"
        if ignores_unknown and incoming.event_type not in self._terms.handlers.types_of(record.topic):
            return "skip"
        return Named(record, incoming, incoming.outbox_id)


def _records(in_hand: Sequence[tuple[ReceivedRecord, Lot]], messages: int) -> int:
    """How many records from the start there are before the one that follows so many messages."""
    for count, (_, lot) in enumerate(in_hand):
        if lot != "skip":
            if not messages:
                return count
            messages -= 1
    return len(in_hand)
