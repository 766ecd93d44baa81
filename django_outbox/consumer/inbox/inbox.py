"""The inbox: handles the events of other services, and those of a group of its own, once each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.consumer.delivery import PUT_BACK, TIME_BUDGET_SECONDS, unwanted_reason
from django_outbox.consumer.inbox.stored import UNREAD, StoredMessages, tell_dead, tell_failed, unreadable
from django_outbox.events.event import Event
from django_outbox.events.reader import Reader, place_of
from django_outbox.exceptions import Reject, Retry, UnreadableRecord, in_one_line, name_handlers, text_of
from django_outbox.handlers.registry import GroupHandlers, Handler
from django_outbox.models import InboxMessage
from django_outbox.models.lengths import GROUP_LENGTH
from django_outbox.observability import instrumentation
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.state import inbox as inbox_state
from django_outbox.state.backoff import backoff
from django_outbox.state.failures import fingerprint
from django_outbox.state.inbox_ordering import CLAIM_SECONDS, blocker_of, blockers_of
from django_outbox.state.inbox_rows import consumed_row, dead_row, failed, pending_row, poison_row, unread_row
from django_outbox.worker.faults import Outages, handling, is_passing, try_again

log = logging.getLogger(__name__)

Status = InboxMessage.Status


@dataclass(slots=True)
class Arrival:
    """What a record is here.

    Attributes:
        row: to be stored; None if there is nothing to do.
        event: to be handled; None for a record that is dead on arrival.
        handlers: that want the event.
    """

    row: InboxMessage | None = None
    event: Event | None = None
    handlers: list[Handler] = field(default_factory=list)


class Inbox:
    """What one consumer group has received, by the identity of each event.

    The row of a fresh record is inserted in the transaction of its handlers, and the unique key
    decides whether it is fresh: a copy inserts nothing and is skipped. If a handler fails, all of
    that is rolled back, and the event is stored as pending; from then on it is retried from its
    row. What cannot be read, or not be handled, ends as a dead row with its reason.

    Outcomes are the names of the counts in ``consumer.Batch``.
    """

    def __init__(self, *, using: str, handlers: GroupHandlers, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            using: alias of the database with the inbox.
            handlers: those of the consumer group whose messages these are.
            clock: seconds, monotonic.

        Raises:
            ImproperlyConfigured: if the group's name is too long, or ``INBOX`` is wrong.
        """
        group = handlers.group
        if len(group) > GROUP_LENGTH:
            raise ImproperlyConfigured(
                f"The consumer group {group[:20]!r}... has {len(group)} characters; {GROUP_LENGTH} are allowed."
            )
        self.using = using
        self.group = group
        self._handlers = handlers
        self._reader = Reader(using=using, wants=self._handlers.want, takes_own=self._handlers.apart)
        self._stored = StoredMessages(
            using=using, group=group, handlers=self._handlers, reader=self._reader, clock=clock
        )
        self._clock = clock
        self._outages = Outages()
        self._alone = 0  # how many to take one by one, as an outage came while they were handled together

    @property
    def takes_all(self) -> bool:
        """True if all records are for this inbox, those of this service's own outbox as well."""
        return self._handlers.apart

    # Fresh records

    def receive(self, records: Sequence[ReceivedRecord], *, careful: bool = False) -> list[str]:
        """Handle fresh records: together, and if one of them fails, one by one.

        Args:
            records: in the order in which they were received.
            careful: one of them may have taken down the process before this one: count each
                delivery, in a transaction of its own, before the handler runs.

        Returns:
            What became of the first records, of at least one and of as many as fit in about a
            second: these are done with.

        Raises:
            OperationalError, InterfaceError: the database is away; no record is done with.
        """
        if len(records) > 1 and not careful and not self._alone:
            try:
                return self._receive_together(records)
            except Exception as error:
                self._alone = len(records)
                # Whatever it was: alone, each record shows whether it was at fault.
                log.debug("One by one, as together they failed: %s", fingerprint(error), extra={"action": "one_by_one"})
        receive_one = self._receive_carefully if careful else self._receive_alone
        deadline = self._clock() + TIME_BUDGET_SECONDS
        outcomes: list[str] = []
        for record in records:
            if outcomes and self._clock() >= deadline:
                break
            try:
                outcomes.append(receive_one(record))
                self._alone = max(0, self._alone - 1)
            except Exception:
                if not outcomes:
                    raise
                break  # the first ones are done with; this one's fault shows at the next call
        return outcomes

    def _arrival(self, record: ReceivedRecord) -> Arrival:
        try:
            event = self._reader.read(record)
        except UnreadableRecord as error:
            return Arrival(poison_row(record, self.group, unreadable(error)))
        if event is None:
            return Arrival()
        assert event.topic is not None
        handlers = self._handlers.find(event.type, event.topic)
        if not handlers:
            return Arrival(dead_row(event, self.group, unwanted_reason(event.type)))
        return Arrival(consumed_row(event, self.group), event, handlers)

    def _receive_together(self, records: Sequence[ReceivedRecord]) -> list[str]:
        """Handle what is new in one transaction; all or nothing of it happens."""
        arrivals = [self._arrival(record) for record in records]
        rows = [arrival.row for arrival in arrivals if arrival.row is not None]
        if not rows:
            return ["skipped"] * len(records)
        deadline = self._clock() + TIME_BUDGET_SECONDS
        outcomes: list[str] = []
        handled: list[InboxMessage] = []
        trace = tracing.processing(self.group, using=self.using, together=len(records) > 1)
        with trace as run, handling(self.using):
            self._add(rows)
            # Only now: the insert may have waited for another consumer, which has failed meanwhile.
            blockers = blockers_of([row for row in rows if row.id is not None], using=self.using)
            for arrival in arrivals:
                row, event = arrival.row, arrival.event
                if row is None or row.id is None:
                    outcomes.append("skipped")
                    continue
                if event is None:
                    inbox_state.announce(row, using=self.using)
                    outcomes.append("dead")
                    continue
                blocker = blockers.get((row.topic, row.message_key))
                if blocker is not None and blocker.id < row.id:
                    inbox_state.hold(row, pending_row(event, self.group, timedelta(0)), blocker, using=self.using)
                    outcomes.append("put_back")
                    continue
                if handled and self._clock() >= deadline:
                    break
                run(event, arrival.handlers)
                handled.append(row)
                outcomes.append("consumed")
            inbox_state.confirm([row.id for row in handled], using=self.using)
            left = [arrival.row.id for arrival in arrivals[len(outcomes) :] if arrival.row and arrival.row.id]
            inbox_state.take_back(left, using=self.using)
        for arrival, outcome in zip(arrivals, outcomes, strict=False):
            if outcome == "dead" and arrival.row is not None:
                tell_dead(arrival.row, arrival.row.last_error, using=self.using)
        instrumentation.consumed(handled, group=self.group, using=self.using)
        return outcomes

    def _receive_alone(self, record: ReceivedRecord) -> str:
        return try_again(
            lambda: self._receive_together([record])[0],
            using=self.using,
            fail=partial(self._keep_failed, record),
            give_up=partial(self._put_back, record),
            tell=partial(self._tell_again, record),
            outages=self._outages,
            name=(record.topic, record.partition, record.offset),
        )

    def _receive_carefully(self, record: ReceivedRecord) -> str:
        """Store the event with its delivery counted, and then handle it from its row."""
        if self._reader.asks_a_mapper(record):
            return self._read_carefully(record)
        event = self._arrival(record).event
        if event is None:
            return self._receive_alone(record)
        row = pending_row(event, self.group, timedelta(seconds=CLAIM_SECONDS), delivery_count=1)
        try:
            with transaction.atomic(using=self.using):
                if not self._add([row]):
                    return "skipped"
                blocker = blocker_of(row, using=self.using)
                if blocker is not None:
                    inbox_state.hold(row, row, blocker, using=self.using)
                    return "put_back"
        except DatabaseError as error:
            if is_passing(error, self.using):
                raise
            return self._receive_alone(record)  # it may be handled, although it cannot be stored
        return self._stored.handle(row.id)

    def _read_carefully(self, record: ReceivedRecord) -> str:
        """Store a record with its reading counted, and then let the project's own code read it."""
        row = unread_row(record, self.group, UNREAD)
        try:
            with transaction.atomic(using=self.using):
                if not self._add([row]) and not self._stored.count_unread(row):
                    return "skipped"
        except DatabaseError as error:
            if is_passing(error, self.using):
                raise
            return self._receive_alone(record)  # it may be handled, although it cannot be stored
        return self._stored.read(row.id, record)

    def _keep_failed(self, record: ReceivedRecord, error: Exception) -> str:
        """Store an event whose handlers failed, and whose transaction has been rolled back."""
        arrival = self._arrival(record)  # read anew: the handlers may have changed the payload
        event = arrival.event
        if event is None:
            return self._store_poison(record, error)
        name_handlers(error, (handler.name for handler in arrival.handlers))
        if isinstance(error, Reject):
            return self._store(record, dead_row(event, self.group, error), "dead", error)
        if settings.max_retry <= 1:
            return self._store(record, dead_row(event, self.group, error, retry_count=1), "failed", error)
        delay = error.delay if isinstance(error, Retry) else None
        wait = backoff(1) if delay is None else delay
        row = pending_row(event, self.group, wait, retry_count=1, **failed(error))
        return self._store(record, row, "failed", error)

    def _put_back(self, record: ReceivedRecord, fault: Exception) -> str:
        """Store an event for later, uncounted: again and again something else than it was at fault."""
        event = self._arrival(record).event
        if event is None:
            raise fault
        return self._store(record, pending_row(event, self.group, PUT_BACK), "put_back")

    def _tell_again(self, record: ReceivedRecord, fault: Exception) -> None:
        place = place_of(record)
        about = {"action": "again", "event_id": place, "topic": record.topic, "group": self.group}
        log.info("Trying %s again: %s", place, in_one_line(fault), extra=about)

    def _store(self, record: ReceivedRecord, row: InboxMessage, outcome: str, error: Exception | None = None) -> str:
        try:
            if not self._insert(row):
                return "skipped"
        except DatabaseError as fault:
            if is_passing(fault, self.using):
                raise
            return self._store_poison(record, fault)
        if outcome == "dead":
            tell_dead(row, row.last_error if error is None else error, using=self.using)
        elif error is not None:
            tell_failed(row, error, using=self.using)
        return outcome

    def _store_poison(self, record: ReceivedRecord, fault: Exception) -> str:
        """Store a record that the database refused, with its bytes or, if it refuses them too, without."""
        for raw in (True, False):
            row = poison_row(record, self.group, f"It cannot be stored: {text_of(fault)}", raw=raw)
            try:
                if not self._insert(row):
                    return "skipped"
            except DatabaseError as error:
                if is_passing(error, self.using):
                    raise
                fault = error
            else:
                tell_dead(row, fault, using=self.using)
                return "dead"
        raise fault

    def _insert(self, row: InboxMessage) -> bool:
        """Add one row in a transaction of its own; False if it is there already."""
        with transaction.atomic(using=self.using):
            if not self._add([row]):
                return False
            inbox_state.announce(row, using=self.using)
        return True

    def _add(self, rows: Sequence[InboxMessage]) -> int:
        """Insert rows that are not there yet; returns how many were new.

        Raises:
            DatabaseError: one of them is not there and was not taken either. MySQL and MariaDB pass
                over rows that they refuse, as they do over copies.
        """
        new = inbox_state.add(rows, using=self.using)
        others = [row for row in rows if row.id is None]
        if not inbox_state.are_known(others, using=self.using):
            raise DatabaseError("the database does not take what is in it")
        return new

    # Stored messages

    def run_due(self, limit: int) -> list[str]:
        """Handle at most ``limit`` stored messages that are due; see ``StoredMessages.run_due``."""
        return self._stored.run_due(limit)

    def has_due(self) -> bool:
        """True if a stored message is due."""
        return self._stored.has_due()
