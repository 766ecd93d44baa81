"""The relay: sends due messages of the outbox to the broker."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from django.db import transaction

from django_outbox.brokers.base import Broker, Producer
from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import repeats
from django_outbox.relay.batch import Batch
from django_outbox.relay.claims import Claimed, claims_of
from django_outbox.relay.growth import BatchGrowth
from django_outbox.relay.topics import CreateTopics, WritableTopics
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded, load_all
from django_outbox.state import outbox as state
from django_outbox.state.ordering import unsent_before
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.notify import Listener
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop

log = logging.getLogger("django_outbox.relay")


@dataclass(slots=True)
class Pass:
    """Counts of one pass, in messages but for ``waiting``."""

    claimed: int = 0  # due and locked by this relay
    published: int = 0  # acknowledged by the broker and marked published
    failed: int = 0  # could not be sent; they wait for a retry, or are dead after the last one
    dead: int = 0  # can never be sent
    blocked: int = 0  # not sent, as an earlier message of their key comes first, or their schema is yet to be loaded
    waiting: int = 0  # topics that now wait, as a schema cannot be loaded
    postponed: int = 0  # those and others that now wait as long as an earlier message of their key
    skipped: int = 0  # claimed again later: their partition waits, or a stalled relay has locked messages before them

    @property
    def moved(self) -> bool:
        """True if the next pass will find other rows."""
        return bool(self.published or self.failed or self.dead or self.waiting or self.postponed or self.skipped)


class Relay:
    """Sends due messages in batches, each in one transaction that locks its rows.

    Several relays may run side by side: each skips rows that another has locked. If a relay is killed, the database
    ends its transaction and frees its rows at once. What it had sent is sent again, and the consumer skips duplicates.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        using: str,
        batch_size: int | None = None,
        poll_interval: float | None = None,
        create_topics: CreateTopics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            batch_size: rows per transaction, more while the relay is behind; None takes ``RELAY_BATCH_SIZE``.
            poll_interval: seconds between two passes when nothing is due; None takes ``POLL_INTERVAL``.
            create_topics: called with topics that do not exist: those of the settings at the start and whenever
                they are missing, others when a message is sent to them. None reports missing topics instead.
        """
        self.broker = broker
        self.using = using
        self.batch_size = batch_size or settings.relay_batch_size
        self.poll_interval = poll_interval or settings.poll_interval
        self.worker_state = WorkerState("relay", clock, poll_interval=self.poll_interval)
        self.background: Callable[[bool, bool], float] | None = None
        """Called after each pass, except with ``drain``: with whether rows moved, and whether the batch was full.

        It returns the seconds after which it wants to be called again, without a pass, if there is nothing to send.
        """
        self.is_idle = False
        """True if the last pass found no more work."""
        self._clock = clock
        self._producer: Producer | None = None
        self._outages = OutageLog(log, clock, quiet_seconds=RELAPSE_SECONDS)
        self._topics = WritableTopics(broker, create_topics, log, clock, self._outages)
        self.listener = Listener(using, clock)
        self._claims = claims_of(using, clock)
        self._growth = BatchGrowth()
        self._prepared = PreparedStatements(using, clock)
        self._not_loaded: list[NotLoaded] = []
        self._loads: dict[Hashable, Exception | None] = {}  # the results of the last loads

    def run(self, stop: Stop, *, drain: bool = False) -> None:
        """Work until stopped or, with ``drain``, until nothing is due.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: with ``drain``, if broker or database stay unavailable
                for ``PUBLISH_TIMEOUT``.
            MessagesLeft: with ``drain``, if a topic cannot be written to, or a schema registry stays unavailable.
        """
        background = None if drain else self.background
        rest = math.inf  # of the background

        def step() -> float | None:
            nonlocal rest
            if not drain:
                self.listener.open_if_due()
            self._prepared.wanted = self.listener.is_open
            self._prepared.renew_plans()
            began_at = self._clock()
            done = self.run_once()
            self.worker_state.record_round(published=done.published, trouble=str(self._topics))
            repeats.sum_up()
            if background is not None:
                rest = background(done.moved, done.claimed >= self.batch_size)
            if self.load_schemas() or done.moved:
                return 0.0
            if drain and not done.claimed and not self._claims.is_skipping:
                return self._topics.seconds_to_wait(settings.publish_timeout)
            return self.listener.seconds_to_wait(began_at, self._topics.poll_interval(self.poll_interval))

        def wait_for_work(seconds: float) -> None:
            nonlocal rest
            ends_at = self._clock() + seconds
            while not self.listener.wait(stop, min(seconds, rest)):
                if background is None or rest >= seconds or stop.requested:
                    return
                rest = background(False, False)
                seconds = max(0.0, ends_at - self._clock())
            self.is_idle = False

        try:
            run_through_faults(
                stop,
                step,
                log=log,
                using=self.using,
                patience=settings.publish_timeout if drain else None,
                wait_for_work=wait_for_work,
                on_fault=self.worker_state.record_fault,
                outages=self._outages,
                clock=self._clock,
            )
            if drain and self._topics:
                raise MessagesLeft(f"Messages are left, as their topics cannot be written to. {self._topics}")
        finally:
            self.close()
            repeats.sum_up(now=True)

    def close(self) -> None:
        """Close all connections. They are opened again if the relay is used again."""
        self.listener.close()
        self._drop_producer()

    def load_schemas(self) -> bool:
        """Load the schemas that the last pass did not have, for a second at most; True if there were any.

        Not in the pass, whose transaction must not wait for the registry. The next pass lets the topics wait whose
        schemas could not be loaded.
        """
        missing, self._not_loaded = self._not_loaded, []
        self._loads = load_all(missing, LOAD_SECONDS)
        return bool(missing)

    def run_once(self) -> Pass:
        """Send one batch. Messages whose schema is not loaded stay due for ``load_schemas`` and the next pass.

        Raises:
            BrokerUnavailable: no retry was counted; call again later.
        """
        if self._topics.let_partitions_wait(self.broker.waiting):
            self._claims.begin_again()
            self._drop_producer()  # it may still know the old leaders
        if self.is_idle and not self._is_due():
            self._topics.create_configured_if_due()
            return Pass()
        self.is_idle = False
        try:
            producer = self._ready_producer()
            self._topics.check_missing()
            began_at = self._clock()
            with self._prepared.used(), transaction.atomic(using=self.using):
                done, after_commit = self._send_batch(producer)
        except Exception as error:
            self._growth.record(0.0, is_full=False)
            self._claims.begin_again()  # the messages of the batch are pending
            if isinstance(error, BrokerUnavailable):
                self._drop_producer()
            raise
        finally:
            if self._producer is not None and not self._producer.usable:
                self._drop_producer()
        self._growth.record(self._clock() - began_at, is_full=done.published == done.claimed >= self.batch_size)
        for function in after_commit:
            function()
        # Mostly nothing is left. The next pass checks that by one query, without a transaction or locks.
        self.is_idle = not done.moved or done.claimed < self.batch_size
        return done

    def _is_due(self) -> bool:
        excluded = self._topics.excluded()
        with self._prepared.used():
            is_due = self._claims.is_due(excluded)
        if not is_due:
            self._topics.forget_others(excluded)
        return is_due

    def _ready_producer(self) -> Producer:
        """Return a connected producer. Connecting may take seconds, so it must not happen in a transaction."""
        if self._producer is None:
            self._producer = self.broker.producer(settings.publish_timeout)
            self._topics.create_configured()
        return self._producer

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send_batch(self, producer: Producer) -> tuple[Pass, list[Callable[[], None]]]:
        """Claim, send and mark a batch. Returns the counts, and functions to call after the commit."""
        claimed = self._claim()
        done = Pass(claimed=len(claimed.messages))
        if claimed.messages:
            self._topics.record_due()
        batch = Batch(self._in_order(claimed, done), using=self.using, loads=self._loads)
        started = self._clock()
        batch.send(producer)
        seconds = self._clock() - started
        batch.store()
        done.published, done.failed, done.dead = batch.published, batch.failed, batch.dead
        done.waiting = len(batch.waiting)
        done.blocked = len(claimed.messages) - len(batch.messages) + batch.held
        self._not_loaded = batch.not_loaded
        with self._outages.combined():
            self._topics.record_batch(batch.written, batch.faults, self._clock() - started)
            self._topics.let_wait(batch.waiting)
            self._topics.record_held(batch.held_topics)
        # What was abandoned with a batch is sent again as soon as possible, unless its partition waits.
        if producer.usable:
            waiting = (message.id for message in reversed(claimed.messages) if message.id in batch.held_ids)
            if self._claims.pass_over(next(waiting, None)):
                done.skipped = len(claimed.messages) - done.published
        report = partial(instrumentation.published, batch.messages, batch.acknowledged, seconds, using=self.using)
        return done, [*batch.after_commit, report]

    def _claim(self) -> Claimed:
        claimed, claims = self._claims.claim(self.batch_size, self._topics.excluded()), 1
        # What the first claim has read of earlier messages would not do for others.
        while claimed.pending_before is None and self._growth.has_room(claims, claimed.messages):
            more = self._claims.claim_more(self.batch_size, self._topics.excluded())
            claimed.messages.extend(more)
            claims += 1
            if len(more) < self.batch_size:
                break
        return claimed

    def _in_order(self, claimed: Claimed, done: Pass) -> list[Outgoing]:
        """Return the messages by id, the order in which they were published, without those blocked in their key.

        A message is blocked by an earlier unsent one of its key. If that one waits for its retry, all later messages
        of the key wait as long.
        """
        messages = sorted(claimed.messages, key=attrgetter("id"))
        blockers = unsent_before(messages, claimed.pending_before, using=self.using)
        if not blockers:
            return messages
        sendable = []
        blocked_by: Counter[int] = Counter()
        for message in messages:
            blocker = blockers.get((message.topic, message.message_key))
            if blocker is None or blocker > message.id:
                sendable.append(message)
            else:
                blocked_by[blocker] += 1
        if blocked_by:
            done.postponed = state.postpone(blocked_by, first_due=claimed.messages[0].id, using=self.using)
            most_are_blocked = len(messages) >= self.batch_size and 2 * len(sendable) < len(messages)
            if most_are_blocked and not done.postponed and self._claims.skip_blocked(blocked_by):
                done.skipped = len(messages) - len(sendable)
        return sendable
