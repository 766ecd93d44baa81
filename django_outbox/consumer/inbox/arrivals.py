"""Records without a row here: events of other services, and those of a group of its own. Each is handled once.

The row of a fresh event is inserted in the transaction of its handlers, and the unique key decides whether it is
fresh: a duplicate inserts nothing and is skipped. If a handler fails, all of that is rolled back and the event is stored
as pending; from then on it is retried from its row.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from datetime import timedelta

from django.db import DatabaseError, transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.consumer.delivery import REQUEUE_DELAY, SKIP, Claim, Outcome, Source, unwanted_reason
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import UNREAD, StoredSource
from django_outbox.events.identity import record_reference
from django_outbox.exceptions import Reject, Retry, UnreadableRecord, text_of
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.observability.outcomes import report_dead, report_failed
from django_outbox.state import inbox_insert
from django_outbox.state.backoff import backoff
from django_outbox.state.failures import columns
from django_outbox.state.inbox_rows import (
    consumed_row,
    dead_row,
    pending_row,
    poison_row,
    unread_row,
    unreadable,
)
from django_outbox.state.ordering import CLAIM_SECONDS, blocker_of, blockers_of
from django_outbox.worker.database_errors import is_transient

log = logging.getLogger("django_outbox.consumer")


class ArrivalSource(Source[ReceivedRecord]):
    """Records as they are received."""

    def __init__(self, using: str, handlers: GroupHandlers, reader: Reader, stored: StoredSource) -> None:
        """
        Args:
            using: alias of the database with the inbox.
            handlers: those of the consumer group.
            reader: makes events of records.
            stored: takes what is to be handled from its row.
        """
        self._using = using
        self._handlers = handlers
        self._group = handlers.group
        self._reader = reader
        self._stored = stored

    def prepare(self, items: Sequence[ReceivedRecord]) -> list[Claim]:
        return [self._arrival(record) for record in items]

    def claim(self, items: Sequence[ReceivedRecord], prepared: list[Claim]) -> list[Claim]:
        claims = prepared
        rows = [claim.message for claim in claims if isinstance(claim.message, InboxMessage)]
        self._add(rows)
        # Only now: the insert may have waited for another consumer, which has failed meanwhile.
        blockers = blockers_of([row for row in rows if row.id is not None], using=self._using)
        for index, claim in enumerate(claims):
            row = claim.message
            if not isinstance(row, InboxMessage):
                continue
            if not row.id:
                claims[index] = SKIP
                continue
            blocker = blockers.get((row.topic, row.message_key))
            if claim.event is not None and blocker is not None and blocker.id < row.id:
                claims[index] = Claim(Outcome.REQUEUED, row, claim.event, until=blocker.until)
        return claims

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        consumed: list[int] = []
        for claim in done:
            row = claim.message
            if not isinstance(row, InboxMessage):
                continue
            if claim.outcome is Outcome.CONSUMED:
                consumed.append(row.id)
            elif claim.outcome is Outcome.DEAD:
                inbox_insert.publish_copy(row, using=self._using)
            elif claim.event is not None:
                inbox_insert.hold(
                    row, pending_row(claim.event, self._group, timedelta(0)), claim.until, using=self._using
                )
        inbox_insert.confirm(consumed, using=self._using)
        inbox_insert.remove([claim.message.id for claim in left if claim.message is not None], using=self._using)

    def fail(self, item: ReceivedRecord, claim: Claim | None, error: Exception) -> Outcome:
        arrival = self._arrival(item)  # read again: the handlers may have changed the payload
        if arrival.event is None:
            return self._store_poison(item, error)
        event = arrival.event
        if isinstance(error, Reject):
            return self._store(item, dead_row(event, self._group, error), Outcome.DEAD, error)
        if settings.max_retry <= 1:
            return self._store(item, dead_row(event, self._group, error, retry_count=1), Outcome.FAILED, error)
        delay = error.delay if isinstance(error, Retry) else None
        wait = backoff(1) if delay is None else delay
        row = pending_row(event, self._group, wait, retry_count=1, **columns(error))
        return self._store(item, row, Outcome.FAILED, error)

    def requeue(self, item: ReceivedRecord, fault: Exception) -> Outcome:
        event = self._arrival(item).event
        if event is None:
            raise fault
        return self._store(item, pending_row(event, self._group, REQUEUE_DELAY), Outcome.REQUEUED)

    def identity(self, item: ReceivedRecord) -> Hashable:
        return (item.topic, item.partition, item.offset)

    def describe(self, item: ReceivedRecord) -> tuple[str, dict[str, object]]:
        place = record_reference(item)
        return place, {"event_id": place, "topic": item.topic, "group": self._group}

    # With care

    def store_counted(self, record: ReceivedRecord) -> int | Outcome | None:
        """Store an event with its delivery counted, so that it is handled from its row.

        Returns the row's id, or the outcome if there is nothing more to do, or None if the record is to be handled as it
        is: it carries no event, or cannot be stored.
        """
        if self._reader.asks_a_mapper(record):
            return self._store_unread(record)
        event = self._arrival(record).event
        if event is None:
            return None
        row = pending_row(event, self._group, timedelta(seconds=CLAIM_SECONDS), delivery_count=1)
        try:
            with transaction.atomic(using=self._using):
                if not self._add([row]):
                    return Outcome.SKIPPED
                blocker = blocker_of(row, using=self._using)
                if blocker is not None:
                    inbox_insert.hold(row, row, blocker.until, using=self._using)
                    return Outcome.REQUEUED
        except DatabaseError as error:
            if is_transient(error, self._using):
                raise
            return None  # its handlers may run, although it cannot be stored
        return int(row.id)

    def _store_unread(self, record: ReceivedRecord) -> int | Outcome | None:
        """Store a record with its reading counted: the project's mapper may kill the process, too."""
        row = unread_row(record, self._group, UNREAD)
        try:
            with transaction.atomic(using=self._using):
                if not self._add([row]) and not self._stored.count_unread(row):
                    return Outcome.SKIPPED
        except DatabaseError as error:
            if is_transient(error, self._using):
                raise
            return None
        return int(row.id)

    # Rows

    def _arrival(self, record: ReceivedRecord) -> Claim:
        """What a record is, with a row that is not stored yet."""
        try:
            event = self._reader.read(record)
        except UnreadableRecord as error:
            row = poison_row(record, self._group, unreadable(error))
            return Claim(Outcome.DEAD, row, reason=row.last_error)
        if event is None:
            return SKIP
        handlers = self._handlers.find(event.type, str(event.topic))
        if not handlers:
            row = dead_row(event, self._group, unwanted_reason(event.type))
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
        if outcome is Outcome.DEAD:
            report_dead(log, row, row.last_error if error is None else error, using=self._using)
        elif error is not None:
            final = row.status == InboxMessage.Status.DEAD
            report_failed(log, row, error, final=final, using=self._using)
        return outcome

    def _store_poison(self, record: ReceivedRecord, fault: Exception) -> Outcome:
        """Store a record that the database refused, with its bytes or, if it refuses them too, without."""
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
        """Add one row in a transaction of its own; False if it is there already."""
        with transaction.atomic(using=self._using):
            if not self._add([row]):
                return False
            inbox_insert.publish_copy(row, using=self._using)
        return True

    def _add(self, rows: Sequence[InboxMessage]) -> int:
        """Insert rows that are not there yet; returns how many were new.

        Raises:
            DatabaseError: one of them is not there and was not accepted either. MySQL and MariaDB skip rows that they
                refuse, as they skip duplicates.
        """
        new = inbox_insert.add(rows, using=self._using)
        others = [row for row in rows if row.id is None]
        if not inbox_insert.are_known(others, using=self._using):
            raise DatabaseError("the database does not take what is in it")
        return new
