"""Stored messages as a source of the inbox: retries, and messages whose delivery is counted first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import (
    REQUEUE_DELAY,
    SKIP,
    UNDECIDED,
    Claim,
    Outcome,
    Source,
    Survived,
    log_requeued,
    max_deliveries_reason,
    store_failure,
    unhandled_reason,
)
from django_outbox.exceptions import RegistryUnavailable, Reject, Retry, UnreadableRecord
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.state import inbox as state
from django_outbox.state import transitions
from django_outbox.state.inbox_rows import event_of, pending_row, record_of, unreadable
from django_outbox.state.ordering import CLAIM_SECONDS, blocker_of

log = logging.getLogger("django_outbox.consumer")

UNREAD_DELAY = timedelta(minutes=10)
"""A record that killed the process while it was read waits so long for its redelivery, which has all its headers."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row whose delivery is counted: the number ``deliveries``.

    ``record`` is its record if it is not read yet. One that was just received has all headers, a row those that are text.
    """

    id: int
    deliveries: int = 1
    record: ReceivedRecord | None = None


class StoredSource(Source[Stored]):
    """Pending messages of one consumer group. Any number of consumers share them."""

    def __init__(self, using: str, handlers: GroupHandlers, reader: Reader, pauses: Pauses) -> None:
        self._using = using
        self._pauses = pauses
        self._handlers = handlers
        self._group = handlers.group
        self._reader = reader
        self.survived = Survived()  # by id

    def claim_due(self, id: int) -> Stored | Outcome | None:
        """Count the delivery of a message; None if it is not due any more, or another consumer has locked it.

        If it is paused or must wait for another message of its key, the outcome is returned instead.
        """
        self._pauses.refresh()
        with transaction.atomic(using=self._using):
            row = state.lock_due(id, using=self._using)
            if row is None:
                return None
            blocker = blocker_of(row, using=self._using)
            if blocker is not None:
                state.postpone(row, blocker, using=self._using)
                return Outcome.REQUEUED
            # A record that is yet to be read has no known type.
            has_failed = row.retry_count > 0
            until = self._pauses.due_at(row.event_type, row.topic, has_failed=has_failed) if row.source else None
            if until is not None:
                state.postpone_type(row, until, using=self._using)
                return Outcome.REQUEUED
            deliveries = state.count_delivery(row, using=self._using, outlived=row.id in self.survived)
        return Stored(row.id, deliveries, None if row.source else record_of(row))

    def count_unread(self, row: InboxMessage, record: ReceivedRecord) -> Stored | None:
        """Count a delivery of an unread record that is stored already; None if it was read meanwhile."""
        with transaction.atomic(using=self._using):
            known = state.lock_unread(row, using=self._using)
            if known is None:
                return None
            outlived = known.id in self.survived
            deliveries = state.count_delivery(known, using=self._using, outlived=outlived, wait=UNREAD_DELAY)
        return Stored(known.id, deliveries, record)

    def uncount(self, item: Stored) -> None:
        """Take the delivery of an unread record back, which waits for a schema registry and will be read again."""
        state.uncount_delivery(item.id, using=self._using)
        self.survived.discard(item.id)

    def postpone(self, item: Stored) -> Outcome:
        """Let a stored record wait for a schema registry, uncounted."""
        seconds = CLAIM_SECONDS if item.record is None else max(CLAIM_SECONDS, self._reader.take_wait(item.record))
        transitions.requeue(state.in_delivery(item.id, using=self._using), timedelta(seconds=seconds))
        self.survived.discard(item.id)
        return Outcome.REQUEUED

    def prepare(self, items: Sequence[Stored]) -> list[Claim]:
        return [self._read(item) for item in items]

    def _read(self, item: Stored) -> Claim:
        """Read a record that may kill the process, or that an operator retries."""
        self.survived.add(item.id)
        if item.record is None or item.deliveries > settings.max_deliveries:
            return UNDECIDED
        try:
            return Claim(Outcome.REQUEUED, event=self._reader.read_loading(item.record))
        except UnreadableRecord as error:
            return Claim(Outcome.DEAD, reason=unreadable(error))
        except RegistryUnavailable:
            return Claim(Outcome.WAITING)

    def claim(self, items: Sequence[Stored], prepared: Sequence[Claim]) -> list[Claim]:
        return [self._claim(item, read) for item, read in zip(items, prepared, strict=True)]

    def _claim(self, item: Stored, read: Claim) -> Claim:
        row = state.lock(item.id, using=self._using)
        if row is None:
            return SKIP
        # Of both, as another consumer may have taken its own delivery back.
        if max(row.delivery_count, item.deliveries) > settings.max_deliveries:
            raise Reject(max_deliveries_reason("handler" if row.source else "mapper"))
        if not row.source:
            return Claim(self._identify(row, read))
        handlers = self._handlers.find(row.event_type, row.topic)
        if not handlers:
            # During a deployment, the other release may have the handler.
            raise Retry(reason=f"No handler is registered for {row.event_type!r} (removed, or not deployed yet).")
        return Claim(Outcome.CONSUMED, row, event_of(row), handlers)

    def _identify(self, row: InboxMessage, read: Claim) -> Outcome:
        """Turn the row of an unread record into the event that was read."""
        is_retry = bool(row.last_error)
        if is_retry and row.raw_key is None and row.raw_value is None and not row.headers:
            # It would be read as a tombstone.
            raise Reject("Its bytes were not stored; read it from Kafka again.")
        if read.outcome is Outcome.DEAD:
            raise Reject(read.reason)
        event = read.event
        if event is None and is_retry:
            raise Reject("It can be read now, but no handler is registered for it, or INBOX ignores its topic.")
        if event is None:
            state.forget(row, using=self._using)
            return Outcome.SKIPPED
        if not self._handlers.find(event.type, row.topic):
            raise Reject(unhandled_reason(event.type))
        if state.identify(row, pending_row(event, self._group, timedelta(0)), using=self._using):
            return Outcome.REQUEUED
        if not is_retry:
            state.forget(row, using=self._using)
        return Outcome.SKIPPED

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        for claim in done:
            if isinstance(claim.message, InboxMessage):
                state.mark_consumed(claim.message, using=self._using)

    def fail(self, item: Stored, claim: Claim | None, error: Exception) -> Outcome:
        return store_failure(state.in_delivery(item.id, using=self._using), error)

    def requeue(self, item: Stored, fault: Exception) -> Outcome:
        transitions.requeue(state.in_delivery(item.id, using=self._using), REQUEUE_DELAY)
        extra = {"action": "put_back", "message_id": item.id, "group": self._group}
        log_requeued(f"Inbox message {item.id}", fault, extra)
        return Outcome.REQUEUED

    def describe(self, item: Stored) -> tuple[str, dict[str, object]]:
        return f"inbox message {item.id}", {"message_id": item.id, "group": self._group}
