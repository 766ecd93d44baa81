"""Fresh records as a source of the inbox.

The row of an event is inserted in the transaction of its handlers. Its unique key detects duplicates: they insert
nothing and are skipped. If a handler fails, the transaction is rolled back, and the event is stored as pending and
retried from its row.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from datetime import timedelta

from django.db import DatabaseError, transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import UNREAD_DELAY, Stored, StoredSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import REQUEUE_DELAY, SKIP, Claim, Outcome, Source, unhandled_reason
from django_outbox.events.parsing import record_reference, shown_type
from django_outbox.exceptions import RegistryUnavailable, Reject, UnreadableRecord, text_of
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.observability.instrumentation import report_dead, report_failed
from django_outbox.state import inbox as state
from django_outbox.state.backoff import delay_after
from django_outbox.state.failures import columns
from django_outbox.state.inbox_rows import consumed_row, dead_row, pending_row, poison_row, unread_row, unreadable
from django_outbox.state.ordering import CLAIM_SECONDS, Blocker, blocker_of, blockers_of, has_order
from django_outbox.worker.database_errors import is_transient

log = logging.getLogger("django_outbox.consumer")

WAIT = Claim(Outcome.WAITING)


class ArrivalSource(Source[ReceivedRecord]):
    """Fresh records of one consumer group."""

    def __init__(
        self, using: str, handlers: GroupHandlers, reader: Reader, stored: StoredSource, pauses: Pauses
    ) -> None:
        self._using = using
        self._handlers = handlers
        self._group = handlers.group
        self._reader = reader
        self._stored = stored
        self._pauses = pauses

    def cost(self, item: ReceivedRecord) -> float:
        if not self._handlers.largest_batch:
            return 1.0
        # Other formats do not show it. Their first batches are small, as transactions grow with each success.
        return self._handlers.find(shown_type(item), item.topic).cost or 1.0

    def prepare(self, items: Sequence[ReceivedRecord]) -> list[Claim]:
        claims: list[Claim] = []
        held: set[Hashable] = set()  # behind records that wait for a schema registry
        for record in items:
            order = self._order_of(record)
            claim = WAIT if order in held else self._arrival(record)
            if claim.outcome is Outcome.WAITING and order is not None:
                held.add(order)
            claims.append(claim)
        return claims

    def _order_of(self, record: ReceivedRecord) -> Hashable:
        """Records with the same order must not overtake each other; None if nothing may wait for this one."""
        if record.key:
            return (record.topic, record.key)
        return (record.topic, record.partition) if self._reader.uses_mapper(record) else None

    def claim(self, items: Sequence[ReceivedRecord], prepared: Sequence[Claim]) -> list[Claim]:
        self._pauses.refresh()
        rows = [claim.message for claim in prepared if isinstance(claim.message, InboxMessage)]
        self._add(rows)
        # After the insert, which may have waited for another consumer that then failed.
        blockers = blockers_of([row for row in rows if row.id is not None], using=self._using)
        return [self._in_turn(claim, blockers) for claim in prepared]

    def _in_turn(self, claim: Claim, blockers: dict[tuple[str, str], Blocker]) -> Claim:
        """Return the claim of an inserted row: a duplicate is skipped, and an event that is blocked or paused waits.

        Args:
            blockers: by topic and key. A paused message is added.
        """
        row = claim.message
        if row is None:
            return claim
        if not row.id:
            return SKIP
        if claim.event is None or not isinstance(row, InboxMessage):
            return claim
        key = (row.topic, row.message_key)
        blocker = blockers.get(key)
        if blocker is not None and blocker.id < row.id:
            return Claim(Outcome.REQUEUED, row, claim.event, until=blocker.until)
        until = self._pauses.due_at(row.event_type, row.topic)
        if until is None:
            return claim
        if has_order(row):
            blockers[key] = Blocker(row.id, until)
        return Claim(Outcome.REQUEUED, row, claim.event, until=until)

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        consumed: list[int] = []
        for claim in done:
            row = claim.message
            if not isinstance(row, InboxMessage):
                continue
            if claim.outcome is Outcome.CONSUMED:
                consumed.append(row.id)
            elif claim.outcome is Outcome.DEAD:
                state.publish_copy(row, using=self._using)
            elif claim.event is not None:
                content = pending_row(claim.event, self._group, timedelta(0))
                state.hold(row, content, claim.until, using=self._using)
        state.confirm(consumed, using=self._using)
        state.remove([claim.message.id for claim in left if claim.message is not None], using=self._using)
        for claim in left:
            if claim.outcome is Outcome.CONSUMED and isinstance(claim.message, InboxMessage):
                self._pauses.leave(claim.message.event_type, claim.message.topic)

    def fail(self, item: ReceivedRecord, claim: Claim | None, error: Exception) -> Outcome:
        claim = self._arrival(item)  # reads the record again, as a handler may have changed the payload
        event = claim.event
        if claim is WAIT:
            return Outcome.WAITING
        if event is None:
            return self._store_poison(item, error)
        if isinstance(error, Reject):
            return self._store(item, dead_row(event, self._group, error), Outcome.DEAD, error)
        if settings.max_retry <= 1:
            return self._store(item, dead_row(event, self._group, error, retry_count=1), Outcome.FAILED, error)
        row = pending_row(event, self._group, delay_after(error, 1), retry_count=1, **columns(error))
        return self._store(item, row, Outcome.FAILED, error)

    def requeue(self, item: ReceivedRecord, fault: Exception) -> Outcome:
        claim = self._arrival(item)
        event = claim.event
        if claim is WAIT:
            return Outcome.WAITING
        if event is None:
            raise fault
        return self._store(item, pending_row(event, self._group, REQUEUE_DELAY), Outcome.REQUEUED)

    def describe(self, item: ReceivedRecord) -> tuple[str, dict[str, object]]:
        reference = record_reference(item)
        return reference, {"event_id": reference, "topic": item.topic, "group": self._group}

    def store_counted(self, record: ReceivedRecord) -> Stored | Outcome | None:
        """Store an event with its delivery counted, to handle it from its row.

        Returns:
            The stored message; the outcome if nothing is left to do; None if the record must be handled without a
            row, as it carries no event or cannot be stored.
        """
        try:
            return self._store_unread(record) if self._reader.uses_mapper(record) else self._store_event(record)
        except DatabaseError as error:
            if is_transient(error, self._using):
                raise
            return None  # its handlers can run, although it cannot be stored

    def _store_event(self, record: ReceivedRecord) -> Stored | Outcome | None:
        claim = self._arrival(record)
        event = claim.event
        if claim is WAIT:
            return Outcome.WAITING
        if event is None:
            return None
        row = pending_row(event, self._group, timedelta(seconds=CLAIM_SECONDS), delivery_count=1)
        self._pauses.refresh()
        with transaction.atomic(using=self._using):
            if not self._add([row]):
                return Outcome.SKIPPED
            blocker = blocker_of(row, using=self._using)
            until = self._pauses.due_at(row.event_type, row.topic) if blocker is None else blocker.until
            if until is not None:
                state.hold(row, row, until, using=self._using)
                return Outcome.REQUEUED
        return Stored(row.id)

    def _store_unread(self, record: ReceivedRecord) -> Stored | Outcome:
        """Store a record before its mapper reads it, with the delivery counted: a mapper may kill the process, too."""
        row = unread_row(record, self._group, UNREAD_DELAY)
        with transaction.atomic(using=self._using):
            is_new = bool(self._add([row]))
        # In a second transaction: after two inserts of a duplicate, InnoDB cannot lock the row for either of them.
        if is_new:
            return Stored(row.id, record=record)
        return self._stored.count_unread(row, record) or Outcome.SKIPPED

    def _arrival(self, record: ReceivedRecord) -> Claim:
        """Read a record; returns its claim, with a row that is not stored yet, or ``WAIT``."""
        try:
            event = self._reader.read_loading(record)
        except RegistryUnavailable:
            return WAIT
        except UnreadableRecord as error:
            row = poison_row(record, self._group, unreadable(error))
            return Claim(Outcome.DEAD, row, reason=row.last_error)
        if event is None:
            return SKIP
        handlers = self._handlers.find(event.type, str(event.topic))
        if not handlers:
            row = dead_row(event, self._group, unhandled_reason(event.type))
            return Claim(Outcome.DEAD, row, reason=row.last_error)
        return Claim(Outcome.CONSUMED, consumed_row(event, self._group), event, handlers)

    def _store(
        self, record: ReceivedRecord, row: InboxMessage, outcome: Outcome, error: Exception | None = None
    ) -> Outcome:
        try:
            if not self._insert(row):
                return Outcome.SKIPPED
        except DatabaseError as fault:
            if is_transient(fault, self._using):
                raise
            return self._store_poison(record, fault)
        if error is not None and outcome is Outcome.DEAD:
            report_dead(log, row, error, using=self._using)
        elif error is not None:
            report_failed(log, row, error, final=row.status == InboxMessage.Status.DEAD, using=self._using)
        return outcome

    def _store_poison(self, record: ReceivedRecord, fault: Exception) -> Outcome:
        """Store a record that the database rejected as dead, with its bytes if the database accepts them."""
        for raw in (True, False):
            row = poison_row(record, self._group, f"It cannot be stored: {text_of(fault)}", raw=raw)
            try:
                if not self._insert(row):
                    return Outcome.SKIPPED
            except DatabaseError as error:
                if is_transient(error, self._using):
                    raise
                fault = error
            else:
                report_dead(log, row, fault, using=self._using)
                return Outcome.DEAD
        raise fault

    def _insert(self, row: InboxMessage) -> bool:
        """Insert one row in its own transaction; False if it exists already."""
        with transaction.atomic(using=self._using):
            if not self._add([row]):
                return False
            state.publish_copy(row, using=self._using)
        return True

    def _add(self, rows: Sequence[InboxMessage]) -> int:
        """Insert rows that do not exist yet; returns how many were new.

        Raises:
            DatabaseError: a row was rejected. MySQL and MariaDB skip rejected rows as they skip duplicates.
        """
        new = state.add(rows, using=self._using)
        others = [row for row in rows if row.id is None]
        if not state.are_known(others, using=self._using):
            raise DatabaseError("the database rejects its content")
        return new
