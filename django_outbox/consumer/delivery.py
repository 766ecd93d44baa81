"""Handling one message: lock it, see whether it is its turn, run the handlers, write down what came of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.events.wire import Incoming
from django_outbox.exceptions import MessageNotFound, Reject, Retry, in_one_line, name_handlers, text_of
from django_outbox.handlers.registry import GroupHandlers, Handler
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import log_extra, repeats, said, said_in_full
from django_outbox.observability.tracing import hooks as tracing
from django_outbox.observability.tracing.base import Run
from django_outbox.state import outbox as state
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.ordering import unhandled_before
from django_outbox.state.rows import LockedMessage
from django_outbox.worker.faults import TRIES, Outages, handling, try_again

log = logging.getLogger(__name__)

TIME_BUDGET_SECONDS = 1.0
"""For what is handled in one go, after which offsets are committed and signals looked at."""
PUT_BACK = timedelta(seconds=MAX_BACKOFF_SECONDS)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all deliveries of a consumer."""

    using: str
    handlers: GroupHandlers
    outages: Outages = field(default_factory=Outages)


@dataclass(frozen=True, slots=True)
class Named:
    """A record of this service, and what it says of itself."""

    record: ReceivedRecord
    incoming: Incoming
    id: int

    def names(self, message: LockedMessage) -> bool:
        """True if the row is of this service, was last published as this very record, and has not been handled since.

        The attempt alone would not do: what a broker took from a relay that was then killed
        carries the same number as what the next relay sends.
        """
        record, incoming = self.record, self.incoming
        if message.source != settings.source:
            return False
        if message.status != state.Status.PUBLISHED or message.event_id != incoming.event_id:
            return False
        if incoming.attempt not in (None, message.publish_count) or message.topic != record.topic:
            return False
        return message.offset is None or (message.partition, message.offset) == (record.partition, record.offset)

    def log_extra(self, action: str) -> dict[str, object]:
        """What a log record says of the message beside its text, as the record tells it."""
        return {
            "action": action,
            "message_id": self.id,
            "event_id": self.incoming.event_id,
            "topic": self.record.topic,
            "attempt": self.incoming.attempt,
        }

    def event(self, message: LockedMessage) -> Event:
        """What a handler gets: the content of the row, and where the record was found."""
        return Event(
            type=message.event_type,
            payload=message.payload,
            key=message.message_key,
            headers=message.headers,
            topic=message.topic,
            version=message.event_version,
            id=message.event_id,
            source=message.source,
            time=message.created_at,
            attempt=message.publish_count,
            partition=self.record.partition,
            offset=self.record.offset,
        )


class Delivery:
    """Handles the message that a record names."""

    def __init__(self, named: Named, terms: Terms) -> None:
        self._named = named
        self._terms = terms
        self._using = terms.using
        self._message: LockedMessage | None = None

    def handle(self) -> str:
        """Do all that the record asks for; returns the name of the count in ``Batch`` when it is done with.

        Raises:
            OperationalError, InterfaceError: the connection is lost, or the message cannot even be
                locked; nothing was changed.
        """

        def anew() -> str:
            self._message = None
            return self._try()

        return try_again(
            anew,
            using=self._using,
            fail=self._fail,
            give_up=self._give_back,
            tell=self._tell_again,
            outages=self._terms.outages,
            name=self._named.id,
        )

    def _try(self) -> str:
        """Handle the message in one transaction."""
        trace = tracing.processing(self._terms.handlers.group, using=self._using, together=False)
        with trace as run_handlers, handling(self._using):
            outcome, why = self._run(run_handlers)
        message = self._message
        if message is not None and outcome == "consumed":
            log.debug("Message %s is consumed.", message.id, extra=log_extra("consumed", message))
            instrumentation.consumed([message], group=self._terms.handlers.group, using=self._using)
        elif message is not None and outcome == "dead":
            self._tell_dead(message, why)
        return outcome

    def _run(self, run_handlers: Run) -> tuple[str, str]:
        """The outcome and, if the message is dead, why."""
        message = self._message = self._lock()
        if message is None:
            return "skipped", ""
        handlers = self._terms.handlers.find(message.event_type, message.topic)
        if not handlers and settings.unknown_event == "ignore":
            return "skipped", ""
        reason = self._hopeless(message, handlers)
        if reason is not None:
            state.mark_rejected(message.id, message.publish_count, reason, using=self._using)
            return "dead", reason
        if self._waits_its_turn(message):
            return "put_back", ""
        run_handlers(self._named.event(message), handlers)
        state.mark_consumed([message], using=self._using)
        return "consumed", ""

    def _fail(self, error: Exception) -> str:
        """Write down that the handler raised; its transaction has been rolled back."""
        message = self._message
        if message is None:
            raise error
        handlers = self._terms.handlers.find(message.event_type, message.topic)
        name_handlers(error, (handler.name for handler in handlers))
        try:
            return self._write_down(message, error)
        except MessageNotFound:
            log.warning("Message %s was removed while it was handled.", message.id, extra=log_extra("skipped", message))
            return "skipped"

    def _write_down(self, message: LockedMessage, error: Exception) -> str:
        if isinstance(error, Reject):
            if state.mark_rejected(message.id, message.publish_count, error, using=self._using):
                self._tell_dead(message, error)
            return "dead"
        status = state.mark_failed(
            message.id,
            message.publish_count,
            error,
            using=self._using,
            delay=error.delay if isinstance(error, Retry) else None,
        )
        final = message.retry_count + 1 >= message.max_retry
        if status == (state.Status.DEAD if final else state.Status.PENDING):  # or another consumer was faster
            self._tell_failed(message, error, final)
        return "failed"

    def _tell_again(self, fault: Exception) -> None:
        named = self._named
        log.info("Trying message %s again: %s", named.id, in_one_line(fault), extra=named.log_extra("again"))

    def _tell_failed(self, message: LockedMessage, error: Exception, final: bool) -> None:
        repeats.tell(
            log,
            logging.ERROR if final else logging.WARNING,
            "failed",
            message,
            error,
            "Message %s (%s) failed, %d of %d, and is %s: %s",
            message.id,
            message.event_type,
            message.retry_count + 1,
            max(message.max_retry, 1),
            "dead" if final else "pending",
            said(error, message),
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("How it failed:\n%s", said_in_full(error, message), extra=log_extra("traceback", message))
        instrumentation.failed(message, error, final=final, using=self._using)

    def _tell_dead(self, message: LockedMessage, why: Reject | str) -> None:
        text = said(text_of(why), message)
        what = "Message %s (%s) is dead: %s"
        repeats.tell(log, logging.ERROR, "dead", message, why, what, message.id, message.event_type, text)
        instrumentation.dead(message, why, using=self._using)

    def _give_back(self, fault: Exception) -> str:
        """Send it again later, uncounted: again and again the database was in the way.

        Raises:
            OperationalError: the message cannot even be locked: nothing is known about it, so its record must not
                count as done with.
        """
        with transaction.atomic(using=self._using):
            message = self._lock()
            if message is None:
                return "skipped"
            state.put_back(message, PUT_BACK, using=self._using)
        log.warning(
            "Message %s waits %d s, as the database was in the way %d times: %s",
            message.id,
            PUT_BACK.total_seconds(),
            TRIES,
            in_one_line(fault),
            extra=log_extra("put_back", message),
        )
        return "put_back"

    def _lock(self) -> LockedMessage | None:
        """The message, locked; None if this record is not the one to handle it by."""
        named = self._named
        message = state.lock([named.id], using=self._using).get(named.id)
        if message is None:
            log.warning(
                "Skipped the record %s[%d]@%d: there is no outbox message %d.",
                named.record.topic,
                named.record.partition,
                named.record.offset,
                named.id,
                extra=named.log_extra("skipped"),
            )
        return message if message is not None and named.names(message) else None

    def _hopeless(self, message: LockedMessage, handlers: list[Handler]) -> str | None:
        """Why the message must not be handled at all."""
        if message.delivery_count > settings.max_deliveries:
            return killer_reason()
        return None if handlers else unwanted_reason(message.event_type)

    def _waits_its_turn(self, message: LockedMessage) -> bool:
        """Put the message back if an earlier one of its key has yet to be handled."""
        earlier = unhandled_before([message], self._terms.handlers.types_of, using=self._using).get(message.id)
        if earlier is None:
            return False
        if earlier.status == state.Status.PENDING:
            until: datetime | timedelta = earlier.due_at or timedelta(0)
        else:
            # A dead one holds until an operator decides; one whose record has been read, and which is
            # published all the same, waits for the reconciler.
            until = timedelta(0) if earlier.is_coming else PUT_BACK
        return state.put_back(message, until, using=self._using)


def killer_reason(what: str = "handler") -> str:
    """Why a message is dead that took its process down again and again, while its handler or mapper ran."""
    return (
        f"It took its process down {settings.max_deliveries} times (MAX_DELIVERIES): the "
        f"process ended, was killed, or was ended by HANDLER_TIMEOUT, while the {what} ran."
    )


def unwanted_reason(event_type: str) -> str:
    """Why a message is dead that nobody handles."""
    return f"No handler wants {event_type!r} (UNKNOWN_EVENT is 'dead')."
