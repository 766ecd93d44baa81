"""Handling messages of the inbox from their rows: whatever has to be tried again, or with care."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from django.db import transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.consumer.delivery import PUT_BACK, TIME_BUDGET_SECONDS, killer_reason, unwanted_reason
from django_outbox.events.reader import Reader
from django_outbox.exceptions import Reject, Retry, UnreadableRecord, in_one_line, name_handlers
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import log_extra, repeats, said, said_in_full
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.state import inbox as inbox_state
from django_outbox.state.failures import error_text
from django_outbox.state.inbox_ordering import blocker_of
from django_outbox.state.inbox_rows import event_of, pending_row, record_of
from django_outbox.worker.faults import TRIES, Outages, handling, try_again

log = logging.getLogger(__name__)

UNREAD = timedelta(minutes=10)
"""How long a record that took the process down while it was read is left to its redelivery, which has all of it."""

Status = InboxMessage.Status


class StoredMessages:
    """The pending messages of one consumer group. Any number of consumers share the work on them."""

    def __init__(
        self,
        *,
        using: str,
        group: str,
        handlers: GroupHandlers,
        reader: Reader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._using = using
        self._group = group
        self._handlers = handlers
        self._reader = reader
        self._clock = clock
        # Deliveries that this process has counted, and lived through to see the database go away.
        self._outlived: set[int] = set()
        self._outages = Outages()

    def run_due(self, limit: int) -> list[str]:
        """Handle stored messages of this group that are due, the longest due first.

        Each one is claimed and handled in transactions of its own. What others have in hand is
        passed over.

        Args:
            limit: the most messages to look at. It ends earlier after about a second.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        deadline = self._clock() + TIME_BUDGET_SECONDS
        outcomes: list[str] = []
        while len(outcomes) < limit and not (outcomes and self._clock() >= deadline):
            with transaction.atomic(using=self._using):
                row = inbox_state.next_due(self._group, using=self._using)
                if row is None:
                    break
                is_next = self._count(row)
            outcomes.append(self.handle(row.id) if is_next else "put_back")
        return outcomes

    def _count(self, row: InboxMessage) -> bool:
        """Count a delivery of a locked message if it is its turn; else let it wait."""
        blocker = blocker_of(row, using=self._using)
        if blocker is None:
            inbox_state.count_delivery(row, using=self._using, outlived=row.id in self._outlived)
        else:
            inbox_state.postpone(row, blocker, using=self._using)
        return blocker is None

    def count_unread(self, row: InboxMessage) -> bool:
        """Count another reading of a record that has a row already, in whose place ``row`` is; False if that is over."""
        known = inbox_state.lock_unread(row, using=self._using)
        if known is None:
            return False
        outlived = known.id in self._outlived
        inbox_state.count_delivery(known, using=self._using, outlived=outlived, wait=UNREAD)
        row.id = known.id
        return True

    def read(self, row_id: int, record: ReceivedRecord) -> str:
        """Read a record whose reading has been counted in a row, and handle the event that it is.

        Raises:
            OperationalError, InterfaceError: the database is away; the record is to be received again.
        """
        outcome = self.handle(row_id, record)
        if outcome != "put_back":
            return outcome
        with transaction.atomic(using=self._using):
            row = inbox_state.next_due(self._group, using=self._using, only=row_id)
            is_next = row is not None and self._count(row)
        return self.handle(row_id) if is_next else "put_back"

    def has_due(self) -> bool:
        """True if a stored message is due."""
        return InboxMessage.objects.using(self._using).due().filter(group=self._group).exists()

    def handle(self, row_id: int, record: ReceivedRecord | None = None) -> str:
        """Handle a message whose delivery has been counted.

        Args:
            row_id: of the message.
            record: that it came as, if it is at hand. A row that has not been read yet has no more of the headers
                than what is text.

        Raises:
            OperationalError, InterfaceError: the database is away; nothing was changed.
        """
        self._outlived.add(row_id)
        outcome = try_again(
            partial(self._try, row_id, record),
            using=self._using,
            fail=partial(self._fail, row_id),
            give_up=partial(self._put_back, row_id),
            tell=partial(self._tell_again, row_id),
            outages=self._outages,
            name=row_id,
        )
        self._outlived.discard(row_id)
        return outcome

    def _try(self, row_id: int, record: ReceivedRecord | None) -> str:
        names: list[str] = []
        try:
            return self._handle_row(row_id, record, names)
        except Exception as error:
            name_handlers(error, names)
            raise

    def _handle_row(self, row_id: int, record: ReceivedRecord | None, names: list[str]) -> str:
        """Do it in one transaction; adds the names of the handlers that run."""
        trace = tracing.processing(self._group, using=self._using, together=False)
        with trace as run, handling(self._using):
            row = inbox_state.lock(row_id, using=self._using)
            if row is None:
                return "skipped"
            if row.delivery_count > settings.max_deliveries:
                raise Reject(killer_reason("handler" if row.source else "mapper"))
            if not row.source:
                return self._read(row, record or record_of(row))
            handlers = self._handlers.find(row.event_type, row.topic)
            if not handlers:
                # Perhaps this is the old one of two releases that run side by side, and the new one wants it.
                raise Retry(reason=f"No handler wants {row.event_type!r} here: no more, or not yet.")
            names += [handler.name for handler in handlers]
            run(event_of(row), handlers)
            inbox_state.mark_consumed(row, using=self._using)
        log.debug("Inbox message %s is consumed.", row_id, extra=log_extra("consumed", row))
        instrumentation.consumed([row], group=self._group, using=self._using)
        return "consumed"

    def _read(self, row: InboxMessage, record: ReceivedRecord) -> str:
        """Read what may take the process down, or what an operator wants to have read again."""
        is_again = bool(row.last_error)
        try:
            event = self._reader.read(record)
        except UnreadableRecord as error:
            raise Reject(unreadable(error)) from None
        if event is None and is_again:
            raise Reject("It can be read now, but no handler wants it, or INBOX leaves it alone.")
        if event is None:
            inbox_state.forget(row, using=self._using)
            return "skipped"
        if not self._handlers.find(event.type, row.topic):
            raise Reject(unwanted_reason(event.type))
        if inbox_state.identify(row, pending_row(event, self._group, timedelta(0)), using=self._using):
            return "put_back"
        if not is_again:
            inbox_state.forget(row, using=self._using)
        return "skipped"

    def _fail(self, row_id: int, error: Exception) -> str:
        """Write down that a message failed; its transaction has been rolled back."""
        if isinstance(error, Reject):
            row = inbox_state.mark_dead(row_id, error, using=self._using)
            if row is not None:
                tell_dead(row, error, using=self._using)
            return "skipped" if row is None else "dead"
        delay = error.delay if isinstance(error, Retry) else None
        row = inbox_state.mark_failed(row_id, error, using=self._using, delay=delay)
        if row is None:
            return "skipped"
        tell_failed(row, error, using=self._using)
        return "failed"

    def _put_back(self, row_id: int, fault: Exception) -> str:
        """Let a message wait, uncounted: again and again something else than it was at fault."""
        inbox_state.put_back(row_id, PUT_BACK, using=self._using)
        log.warning(
            "Inbox message %s waits %d s, as the database was in the way %d times: %s",
            row_id,
            PUT_BACK.total_seconds(),
            TRIES,
            in_one_line(fault),
            extra={"action": "put_back", "message_id": row_id, "group": self._group},
        )
        return "put_back"

    def _tell_again(self, row_id: int, fault: Exception) -> None:
        about = {"action": "again", "message_id": row_id, "group": self._group}
        log.info("Trying inbox message %s again: %s", row_id, in_one_line(fault), extra=about)


def unreadable(error: UnreadableRecord) -> str:
    """Why a record is dead on arrival, with what a mapper of the project raised."""
    text = f"It cannot be read: {error}."
    if error.__cause__ is None:
        return text
    return f"{text}\n\n{error_text(error.__cause__, ERROR_LENGTH - len(text) - 2)}"


def tell_failed(row: InboxMessage, error: Exception, *, using: str) -> None:
    """Tell that a handler failed, which is among the row's ``retry_count`` by now."""
    final = row.status == Status.DEAD
    repeats.tell(
        log,
        logging.ERROR if final else logging.WARNING,
        "failed",
        row,
        error,
        "Inbox message %s (%s from %s) failed, %d of %d, and is %s: %s",
        row.id,
        row.event_type,
        row.source,
        row.retry_count,
        max(row.max_retry, 1),
        row.status,
        said(error, row),
        counted=True,
    )
    if log.isEnabledFor(logging.DEBUG):
        log.debug("How it failed:\n%s", said_in_full(error, row), extra=log_extra("traceback", row, counted=True))
    instrumentation.failed(row, error, final=final, using=using)


def tell_dead(row: InboxMessage, error: BaseException | str, *, using: str) -> None:
    """Tell that a message is dead."""
    repeats.tell(
        log,
        logging.ERROR,
        "dead",
        row,
        error,
        "Inbox message %s (%s from %s) is dead: %s",
        row.id,
        row.event_type or f"{row.topic}[{row.partition}]@{row.offset}",
        row.source or "somebody",
        said(row.last_error, row),
    )
    instrumentation.dead(row, error, using=using)
