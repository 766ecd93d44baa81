"""The engine: runs handlers, and commits their effects together with the state of their messages."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Generic, TypeVar

from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, in_one_line, name_handlers
from django_outbox.handlers.registry import Handler
from django_outbox.models import InboxMessage
from django_outbox.observability import instrumentation
from django_outbox.observability.instrumentation import report_dead, report_failed
from django_outbox.observability.logging import log_extra
from django_outbox.observability.tracing.base import current_tracing
from django_outbox.state import transitions
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.failures import fingerprint
from django_outbox.state.rows import LockedMessage
from django_outbox.worker.database_errors import is_outage, session_of
from django_outbox.worker.pooling import stop_preparing
from django_outbox.worker.transactions import MAX_ATTEMPTS, OutageCounts, handler_transaction, retry_transaction

log = logging.getLogger("django_outbox.consumer")

TIME_BUDGET_SECONDS = 1.0
"""For one transaction of several messages. Offsets are committed and stop requests are checked in between."""
REQUEUE_DELAY = timedelta(seconds=MAX_BACKOFF_SECONDS)
"""How long a message waits if its turn has no known time."""

Item = TypeVar("Item")


class Outcome(StrEnum):
    """What happened to a delivery."""

    CONSUMED = "consumed"
    """The handlers ran, and their effects were committed with the message's state."""
    FAILED = "failed"
    """A handler raised. The message waits for a retry, or is dead after the last one."""
    DEAD = "dead"
    """The message can never be handled."""
    REQUEUED = "requeued"
    """The message waits, and no retry is counted: it was not its turn, or the database failed."""
    SKIPPED = "skipped"
    """Nothing to do: a duplicate, or an event without a handler."""


@dataclass(slots=True)
class Claim:
    """A delivery whose message is locked.

    Attributes:
        outcome: of the delivery, unless a handler raises.
        message: its row, if there is one.
        event, handlers: the handlers to run, and the event to pass to them.
        reason: why the message is dead.
        until: when a requeued message is due; a timedelta counts from now.
    """

    outcome: Outcome
    message: LockedMessage | InboxMessage | None = None
    event: Event | None = None
    handlers: Sequence[Handler] = ()
    reason: str = ""
    until: datetime | timedelta = REQUEUE_DELAY


SKIP = Claim(Outcome.SKIPPED)
UNDECIDED = Claim(Outcome.CONSUMED)


class Source(ABC, Generic[Item]):
    """Where messages come from, and what a retry means. The engine is the same for outbox and inbox."""

    def ignores(self, item: Item) -> bool:
        """True if no handler is for a delivery, as it shows without the database."""
        return False

    def prepare(self, items: Sequence[Item]) -> list[Claim]:
        """Read deliveries before the transaction of the handlers. If all claims are ``SKIP``, there is none."""
        return [UNDECIDED] * len(items)

    @abstractmethod
    def claim(self, items: Sequence[Item], prepared: Sequence[Claim]) -> list[Claim]:
        """Lock messages and decide the outcome of each, in the transaction of the handlers."""

    @abstractmethod
    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        """Store the outcomes of claims, in the transaction of the handlers, after they ran.

        Args:
            done: claims whose handlers ran, or that have none.
            left: claims for which there was no time.

        Raises:
            MessageNotFound: a handler changed or removed a row. The transaction must be rolled back.
        """

    @abstractmethod
    def fail(self, item: Item, claim: Claim | None, error: Exception) -> Outcome:
        """Count a failure, after its transaction was rolled back. There is no claim if claiming failed."""

    @abstractmethod
    def requeue(self, item: Item, fault: Exception) -> Outcome:
        """Postpone a message after faults of the database; no retry is counted.

        Raises:
            OperationalError: the message cannot be locked.
        """

    @abstractmethod
    def describe(self, item: Item) -> tuple[str, dict[str, object]]:
        """Return the name of a delivery in log lines, the same at each try, and attributes for them."""


class Engine:
    """Handles messages of any source, several in one transaction as long as none of them raises.

    If one raises, the transaction is rolled back, and each of its messages is handled again in its own transaction:
    no retry is counted for the others. An engine serves one thread.
    """

    def __init__(self, using: str, group: str, clock: Callable[[], float]) -> None:
        self._using = using
        self._group = group
        self._clock = clock
        self._outages = OutageCounts()
        self.transaction_size = 2
        """Messages per transaction; adapted so that they take about ``TIME_BUDGET_SECONDS``."""
        self._alone_left = 0  # messages to handle one by one

    def handle(self, source: Source[Item], items: Sequence[Item], is_stopping: Callable[[], bool]) -> list[Outcome]:
        """Handle deliveries in one transaction, as many as fit; returns the outcomes of at least the first.

        Args:
            is_stopping: called between two messages; if True, the transaction ends.

        Raises:
            OperationalError, InterfaceError: the connection is lost; nothing changed.
        """
        wanted = list(islice((item for item in items if not source.ignores(item)), self.transaction_size))
        outcomes = iter(self._handle(source, wanted, is_stopping) if wanted else ())
        handled: list[Outcome] = []
        for item in items:
            outcome = Outcome.SKIPPED if source.ignores(item) else next(outcomes, None)
            if outcome is None:
                break
            handled.append(outcome)
        return handled

    def _handle(self, source: Source[Item], batch: Sequence[Item], is_stopping: Callable[[], bool]) -> list[Outcome]:
        if len(batch) < 2 or self._alone_left:
            return [self.handle_alone(source, batch[0])]
        started = self._clock()
        session = session_of(self._using)

        def is_over() -> bool:
            return is_stopping() or self._clock() - started >= TIME_BUDGET_SECONDS

        try:
            done = self._run(source, batch, [], is_over)
        except Exception as error:
            self._alone_left = len(batch)  # also after an outage, to find the message that causes it
            if not stop_preparing(error, self._using) and is_outage(error, self._using, session):
                raise
            log.debug("Handling one by one after %s", fingerprint(error), extra={"action": "one_by_one"})
        else:
            is_slow = self._clock() - started >= TIME_BUDGET_SECONDS
            self.transaction_size = max(2, len(done)) if is_slow else max(self.transaction_size, 2 * len(batch))
            return [claim.outcome for claim in done]
        # Outside the except block, where the error would be the context of later ones.
        self.transaction_size = max(2, len(batch) // 2)
        return [self.handle_alone(source, batch[0])]

    def handle_alone(self, source: Source[Item], item: Item) -> Outcome:
        """Handle one delivery in its own transaction, again after transient faults.

        Raises:
            OperationalError, InterfaceError: the connection is lost, or the message cannot be locked.
        """
        if source.ignores(item):
            return Outcome.SKIPPED
        claims: list[Claim] = []
        what, extra = source.describe(item)

        def work() -> Outcome:
            claims.clear()
            return self._run(source, [item], claims, lambda: False)[0].outcome

        def fail(error: Exception) -> Outcome:
            for claim in claims:
                name_handlers(error, (handler.name for handler in claim.handlers))
            return source.fail(item, claims[0] if claims else None, error)

        def log_retry(fault: Exception) -> None:
            log.info("Retrying %s: %s", what, in_one_line(fault), extra={"action": "again", **extra})

        outcome = retry_transaction(
            work,
            using=self._using,
            on_error=fail,
            on_exhausted=lambda fault: source.requeue(item, fault),
            on_retry=log_retry,
            outages=self._outages,
            work_id=what,
        )
        self._alone_left = max(0, self._alone_left - 1)
        return outcome

    def reset(self) -> None:
        """Forget the deliveries so far, as the next ones are others."""
        self._alone_left = 0

    def _run(
        self, source: Source[Item], items: Sequence[Item], claims: list[Claim], is_over: Callable[[], bool]
    ) -> list[Claim]:
        """Handle deliveries in one transaction. Adds their claims to ``claims``, and returns those it completed."""
        prepared = source.prepare(items)
        if all(claim is SKIP for claim in prepared):
            return [SKIP] * len(items)
        done: list[Claim] = []
        has_run = False
        trace = current_tracing().processing(self._group, using=self._using, together=len(items) > 1)
        with trace as run_handlers, handler_transaction(self._using):
            claims += source.claim(items, prepared)
            for claim in claims:
                if claim.event is not None and claim.outcome is Outcome.CONSUMED:
                    if has_run and is_over():
                        break
                    run_handlers(claim.event, claim.handlers)
                    has_run = True
                done.append(claim)
            source.settle(done, claims[len(done) :])
        self._report(done)
        return done

    def _report(self, done: Sequence[Claim]) -> None:
        """Log dead and consumed messages, after the commit."""
        handled = [each.message for each in done if each.outcome is Outcome.CONSUMED and each.message is not None]
        for claim in done:
            if claim.outcome is Outcome.DEAD and claim.message is not None:
                report_dead(log, claim.message, claim.reason, using=self._using)
        instrumentation.consumed(handled, group=self._group, using=self._using)
        if log.isEnabledFor(logging.DEBUG):
            for message in handled:
                log.debug("%s is consumed.", message, extra=log_extra("consumed", message))


def store_failure(rows: QuerySet[Any], error: Exception, message: LockedMessage | None = None) -> Outcome:
    """Count and report a failure, after its transaction was rolled back.

    Args:
        rows: the message, as ``transitions`` takes it.
        message: of the outbox, as it was locked.

    Returns:
        The outcome; ``SKIPPED`` if the message left its state meanwhile.
    """
    is_rejected = isinstance(error, Reject)
    row = transitions.mark_dead(rows, error) if is_rejected else transitions.mark_failed(rows, error)
    if row is None:
        return Outcome.SKIPPED
    if message is not None:
        message.retry_count = row.retry_count
    if is_rejected:
        report_dead(log, message or row, error, using=rows.db)
        return Outcome.DEAD
    report_failed(log, message or row, error, final=row.status == InboxMessage.Status.DEAD, using=rows.db)
    return Outcome.FAILED


def log_requeued(name: str, fault: Exception, extra: dict[str, object]) -> None:
    """Log that a message waits, as the database failed each time that it was handled."""
    log.warning(
        "%s waits %d s, because the database failed %d times: %s",
        name,
        REQUEUE_DELAY.total_seconds(),
        MAX_ATTEMPTS,
        in_one_line(fault),
        extra=extra,
    )


def max_deliveries_reason(what: str = "handler") -> str:
    """Return why a message is dead that killed its process too often."""
    return (
        f"It took its process down {settings.max_deliveries} times (MAX_DELIVERIES): the "
        f"process ended, was killed, or was ended by HANDLER_TIMEOUT, while the {what} ran."
    )


def unhandled_reason(event_type: str) -> str:
    """Return why a message without a handler is dead."""
    return f"No handler is registered for {event_type!r} (UNKNOWN_EVENT is 'dead')."
