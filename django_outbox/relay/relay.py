"""The relay: carries due messages from the outbox to the broker."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from django.db import connections, transaction

from django_outbox.brokers.base import (
    Acknowledged,
    Broker,
    Failed,
    Outcome,
    Producer,
    Record,
    Refused,
    TopicMissing,
    TopicTrouble,
)
from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotCreated, in_one_line
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import repeats
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.relay.claims import Claimed, claims_of
from django_outbox.relay.topic_health import ParkedTopics
from django_outbox.state import outbox as state
from django_outbox.state.dialects.base import Published
from django_outbox.state.ordering import has_order, holds_behind_dead, unsent_before
from django_outbox.worker.database_errors import UNAVAILABLE
from django_outbox.worker.incident import RELAPSE_SECONDS, Incident
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.notify import ALERT_FOR_SECONDS, ALERT_SECONDS, Listener
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop

log = logging.getLogger(__name__)

Note = Callable[[], None]
"""Something to log once the transaction that it speaks of is committed."""

TOPICS_SECONDS = 10.0
"""Between two looks for missing topics while nothing is due: a broker may come back without them."""

_SENT = Failed("no answer")  # stands for an outcome that the broker has yet to give


@dataclass(slots=True)
class Pass:
    """What one look at the outbox came to, in messages.

    Attributes:
        claimed: were due and locked by this relay.
        published: are in the broker's log and marked so.
        failed: could not be sent and wait for a retry, or are dead as it was the last.
        dead: can never be sent.
        blocked: were not sent, as an earlier message of their key comes first.
        postponed: these and others behind an earlier one that now wait as long as it does.
        passed_over: were blocked by what another relay has in hand, and are looked at again later.
    """

    claimed: int = 0
    published: int = 0
    failed: int = 0
    dead: int = 0
    blocked: int = 0
    postponed: int = 0
    passed_over: int = 0

    @property
    def moved(self) -> bool:
        """True if the next pass will find other rows."""
        return bool(self.published or self.failed or self.dead or self.postponed or self.passed_over)


class Relay:
    """Sends due messages in batches, each in one transaction that locks its rows.

    Several relays may run side by side: they pass over rows that another has locked. A relay that
    is killed frees its rows at once, as the database ends its transaction; what it had sent
    already is sent again, and the consumer skips the copy.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        using: str,
        batch_size: int | None = None,
        poll_interval: float | None = None,
        create_topics: Callable[[Iterable[str]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            broker: where to.
            using: alias of the database with the outbox.
            batch_size: rows a transaction; None takes ``RELAY_BATCH_SIZE``.
            poll_interval: seconds between two looks when nothing is due; None takes
                ``POLL_INTERVAL``.
            create_topics: called with topics that do not exist, those of the settings at the start
                and whenever they are gone, and others as they come up; None reports them instead.
            clock: seconds, monotonic.
        """
        self.broker = broker
        self.using = using
        self.batch_size = batch_size or settings.relay_batch_size
        self.poll_interval = poll_interval or settings.poll_interval
        self._create_topics = create_topics
        self._clock = clock
        self.worker_state = WorkerState("relay", clock, poll_interval=self.poll_interval)
        self.background: Callable[[bool, bool], None] | None = None
        """What is done between two batches, unless with ``drain``; called with True if there was something to send."""
        self._producer: Producer | None = None
        self._outages = OutageLog(log, clock, quiet_seconds=RELAPSE_SECONDS)
        self._parked = ParkedTopics(log, clock, self._outages)
        self._idle = False
        self._listener = Listener(using)
        self._claims = claims_of(using, clock)
        self._prepared = PreparedStatements(using, clock)
        self._listens = settings.notify and connections[using].vendor == "postgresql"
        self._listening_incident = Incident(log, "Listening for NOTIFY", clock, level=logging.WARNING)
        self._listen_at = 0.0
        self._alert_until = 0.0
        self._create_at = clock()

    def run(self, stop: Stop, *, drain: bool = False) -> None:
        """Work until told to stop or, with ``drain``, until nothing is due.

        Raises:
            BrokerUnavailable, OperationalError, InterfaceError: with ``drain``, if broker or
                database stay away for ``PUBLISH_TIMEOUT``.
            MessagesLeft: with ``drain``, if a topic cannot be written to.
        """

        def step() -> float | None:
            if self._listens and not self._listener.is_open and not drain and self._clock() >= self._listen_at:
                self._listen()
            self._prepared.plan_anew()
            looked_at = self._clock()  # what is committed while it looks may not be in what it sees
            done = self.run_once()
            self.worker_state.record_round(published=done.published, trouble=str(self._parked))
            repeats.sum_up()
            if self.background is not None and not drain:
                self.background(done.moved, done.claimed >= self.batch_size)
            if done.moved:
                return 0.0
            if drain and not done.claimed and not self._claims.passes_over:
                return None
            return ALERT_SECONDS if looked_at < self._alert_until else self.poll_interval

        def wait_for_work(seconds: float) -> None:
            try:
                if self._listener.wait(stop, seconds):
                    self._idle = False
                    self._alert_until = self._clock() + ALERT_FOR_SECONDS
            except UNAVAILABLE:
                self._listener.close()
                raise

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
            if drain and self._parked:
                raise MessagesLeft(f"Messages are left, as their topics cannot be written to. {self._parked}")
        finally:
            self.close()
            repeats.sum_up(now=True)

    def _listen(self) -> None:
        """Open the listener. Where it cannot be, as the server has no connection left, the relay polls meanwhile."""
        with connections[self.using].cursor() as cursor:  # if the database is away, it is not only for the listener
            cursor.execute("SELECT 1")
        try:
            # Where notifications arrive, no pooler gives each transaction another session.
            self._listens = self._prepared.wanted = self._listener.open()
        except UNAVAILABLE as error:
            self._listen_at = self._clock() + self._listening_incident.report(
                f"Polling meanwhile. {in_one_line(error)}"
            )
        else:
            self._listening_incident.resolve()

    def close(self) -> None:
        """Let go of all connections. The relay may be used again: it makes others."""
        self._listener.close()
        self._drop_producer()

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def run_once(self) -> Pass:
        """Send one batch.

        Raises:
            BrokerUnavailable: nothing was counted on any message; call again later.
        """
        if self._idle and not self._is_due():
            self._create_missing_if_due()
            return Pass()
        self._idle = False
        try:
            producer = self._ready_producer()
            self._look_at_parked()
            with self._prepared.used(), transaction.atomic(using=self.using):
                done, notes = self._pass(producer)
        except BrokerUnavailable:
            self._drop_producer()
            raise
        finally:
            if self._producer is not None and not self._producer.usable:
                self._drop_producer()
        for note in notes:  # only now are they true
            note()
        # Mostly it was all that there was, which a look without a transaction and locks will tell.
        self._idle = not done.moved or done.claimed < self.batch_size
        return done

    def _is_due(self) -> bool:
        left_alone = self._parked.left_alone()
        with self._prepared.used():
            is_due = self._claims.is_due(left_alone)
        if not is_due:
            self._parked.keep_only(left_alone)
        return is_due

    def _ready_producer(self) -> Producer:
        """A connected producer. Made outside of any transaction, as that may take seconds."""
        if self._producer is None:
            self._producer = self.broker.producer(settings.publish_timeout)
            self._create_at = self._clock() + TOPICS_SECONDS
            if self._create_topics is not None:
                for topic in self.broker.missing_topics(settings.written_topics):
                    self._create(topic, self._create_topics)
        return self._producer

    def _create_missing_if_due(self) -> None:
        """Create topics of the settings that are gone. Errors are reported once there is something to send."""
        if self._create_topics is None or self._clock() < self._create_at:
            return
        self._create_at = self._clock() + TOPICS_SECONDS
        with suppress(BrokerUnavailable, TopicNotCreated):
            if missing := self.broker.missing_topics(settings.written_topics):
                self._create_topics(sorted(missing))

    def _pass(self, producer: Producer) -> tuple[Pass, list[Note]]:
        claimed = self._claims.claim(self.batch_size, self._parked.left_alone())
        done = Pass(claimed=len(claimed.messages))
        if claimed.messages:
            self._parked.use_turn()
        notes: list[Note] = []
        sendable, records, outcomes = _encoded(self._in_order(claimed, done))
        done.blocked = len(claimed.messages) - len(sendable)
        started = self._clock()
        if records:
            with tracing.sending(sendable) as note:
                answers = iter(producer.send(records, settings.publish_timeout))
                outcomes = [next(answers) if outcome is _SENT else outcome for outcome in outcomes]
                note(outcomes)
        seconds = self._clock() - started
        published = self._apply(sendable, outcomes, done, notes)
        notes.append(partial(instrumentation.published, sendable, published, seconds, using=self.using))
        if any(isinstance(outcome, TopicTrouble) for outcome in outcomes):
            self._parked.take_turns(self._clock() - started)
        return done, notes

    def _in_order(self, claimed: Claimed, done: Pass) -> list[Outgoing]:
        """By id, which is the order of their writing, without those that have an unsent one of their key before them.

        If that one waits for its retry, all that is behind it in its key waits as long.
        """
        batch = sorted(claimed.messages, key=attrgetter("id"))
        blockers = unsent_before(batch, claimed.pending_before, using=self.using)
        if not blockers:
            return batch
        sendable = []
        blocked_by: Counter[int] = Counter()
        for message in batch:
            blocker = blockers.get((message.topic, message.message_key))
            if blocker is None or blocker.id > message.id:
                sendable.append(message)
            else:
                blocked_by[blocker.id] += 1
        if blocked_by:
            done.postponed = state.postpone(blocked_by, first_due=claimed.messages[0].id, using=self.using)
            most_is_blocked = len(batch) == self.batch_size and 2 * len(sendable) < len(batch)
            if most_is_blocked and not done.postponed and self._claims.pass_over(blocked_by):
                done.passed_over = len(batch) - len(sendable)
        return sendable

    def _apply(
        self,
        messages: Sequence[Outgoing],
        outcomes: Sequence[Outcome],
        done: Pass,
        notes: list[Note],
    ) -> list[Published]:
        """Write down what became of each message; of a key only what was taken before a failure, or before a refusal
        that holds it.

        A message that is in the log behind a failed one of its key is sent again after it: the
        row then names the later record, and the consumer skips the earlier. Returns what was published.
        """
        published: list[Published] = []
        written: set[str] = set()
        troubled: dict[str, TopicTrouble] = {}
        broken: set[tuple[str, str]] = set()
        for message, outcome in zip(messages, outcomes, strict=True):
            place = (message.topic, message.message_key)
            if place in broken:
                continue
            if isinstance(outcome, Acknowledged):
                written.add(message.topic)
                published.append(Published(message.id, message.attempt, outcome.partition, outcome.offset))
            elif isinstance(outcome, Refused):
                done.dead += state.mark_refused(message.id, outcome.reason, using=self.using)
                notes.append(partial(_tell_refused, message, outcome.reason, self.using))
                if holds_behind_dead() and has_order(message):
                    broken.add(place)
            else:
                if isinstance(outcome, Failed):
                    status = state.mark_unsent(message.id, message.attempt, outcome.reason, using=self.using)
                    done.failed += 1
                    notes.append(partial(_tell_failed, message, outcome.reason, status, self.using))
                else:
                    troubled.setdefault(message.topic, outcome)
                if has_order(message):
                    broken.add(place)
        done.published = state.mark_published(published, using=self.using)
        with self._outages.in_one_line():
            for topic, trouble in troubled.items():
                self._park(topic, trouble)
        self._parked.free(written - troubled.keys())
        return published

    def _park(self, topic: str, outcome: TopicTrouble) -> None:
        if isinstance(outcome, TopicMissing) and self._create_topics is not None:
            self._parked.note_missing(topic)
        else:
            self._parked.park(topic, outcome)

    def _look_at_parked(self) -> None:
        """Leave topics that still do not exist parked, or create them, before a transaction."""
        topics = self._parked.to_look_at()
        if not topics:
            return
        missing = self.broker.missing_topics(topics)
        self._parked.free(set(topics) - missing)
        for topic in missing:
            if self._create_topics is None:
                self._parked.park(topic, TopicMissing())
            else:
                self._create(topic, self._create_topics)

    def _create(self, topic: str, create_topics: Callable[[Iterable[str]], None]) -> None:
        try:
            create_topics([topic])
        except TopicNotCreated as error:
            self._parked.park_uncreated(topic, in_one_line(error).rstrip("."))
        else:
            self._parked.free([topic])


def _encoded(messages: Iterable[Outgoing]) -> tuple[list[Outgoing], list[Record], list[Outcome]]:
    """What is to be sent, the records of those that can be encoded, and an outcome each.

    Where a dead message holds its key, what is behind one that cannot be encoded is not sent either.
    """
    sendable: list[Outgoing] = []
    records: list[Record] = []
    outcomes: list[Outcome] = []
    held: set[tuple[str, str]] = set()
    wire_format = settings.wire_format
    for message in messages:
        if held and (message.topic, message.message_key) in held:
            continue
        sendable.append(message)
        try:
            records.append(encode(message, wire_format=wire_format))
        except (ValueError, TypeError, AttributeError) as error:
            outcomes.append(Refused(f"It cannot be encoded: {error}"))
            if holds_behind_dead() and has_order(message):
                held.add((message.topic, message.message_key))
        else:
            outcomes.append(_SENT)
    return sendable, records, outcomes


def _tell_refused(message: Outgoing, reason: str, using: str) -> None:
    repeats.tell(
        log,
        logging.ERROR,
        "dead",
        message,
        reason,
        "Message %s (%s) is dead, as it can never be sent: %s",
        message.id,
        message.event_type,
        reason,
    )
    instrumentation.dead(message, reason, using=using)


def _tell_failed(message: Outgoing, reason: str, status: str, using: str) -> None:
    final = status == state.Status.DEAD
    repeats.tell(
        log,
        logging.ERROR if final else logging.WARNING,
        "failed",
        message,
        reason,
        "Message %s (%s) could not be sent and is %s: %s",
        message.id,
        message.event_type,
        status,
        reason,
    )
    instrumentation.failed(message, reason, final=final, using=using)
