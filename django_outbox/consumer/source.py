"""What the engine handles: deliveries, where they come from, and what becomes of each."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from threading import Lock
from typing import Any, Generic, TypeVar

from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, in_one_line
from django_outbox.handlers.handler import NO_HANDLERS, Handlers
from django_outbox.models import InboxMessage
from django_outbox.observability.instrumentation import report_dead, report_failed
from django_outbox.state import transitions
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.rows import LockedMessage
from django_outbox.worker.transactions import MAX_ATTEMPTS

log = logging.getLogger("django_outbox.consumer")

REQUEUE_DELAY = timedelta(seconds=MAX_BACKOFF_SECONDS)
"""How long a message waits if its turn has no known time."""

MOST_SURVIVED = 1_000

Item = TypeVar("Item")


class Kind(Enum):
    """Where a delivery comes from."""

    OWN = auto()
    """An ``OwnRecord``: a record of this service's outbox."""
    FOREIGN = auto()
    """A ``ReceivedRecord`` for the inbox."""
    DUE = auto()
    """The id of a stored inbox message that is due."""


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
    WAITING = "waiting"
    """The message stays in hand for a while, and nothing is stored: an earlier one of its key comes first, or a record
    needs a schema of a registry that is away."""
    SKIPPED = "skipped"
    """Nothing to do: a duplicate, or an event without a handler."""


@dataclass(slots=True)
class Claim:
    """A delivery whose message is locked.

    Attributes:
        outcome: of the delivery, unless a handler raises.
        message: its row, if there is one.
        event, handlers: the handlers to run, and the event to pass to them.
        reason: why the message is dead or, of the outbox, requeued.
        until: when a requeued message is due; a timedelta counts from now.
    """

    outcome: Outcome
    message: LockedMessage | InboxMessage | None = None
    event: Event | None = None
    handlers: Handlers = NO_HANDLERS
    reason: str = ""
    until: datetime | timedelta = REQUEUE_DELAY


SKIP = Claim(Outcome.SKIPPED)
UNDECIDED = Claim(Outcome.CONSUMED)


@dataclass(slots=True)
class RoundCounts:
    """What happened to records, and to due messages of the inbox.

    Attributes:
        received: records that were handled.
        retried: due inbox messages (also counted below).
        stored: records that became inbox messages.
        inbox_consumed: consumed inbox messages (also counted in ``consumed``).
        consumed, failed, dead, requeued, skipped: deliveries by their ``Outcome``.
    """

    received: int = 0
    retried: int = 0
    stored: int = 0
    inbox_consumed: int = 0
    consumed: int = 0
    failed: int = 0
    dead: int = 0
    requeued: int = 0
    skipped: int = 0

    def add(self, kind: Kind, outcomes: Sequence[Outcome]) -> None:
        outcomes = [outcome for outcome in outcomes if outcome is not Outcome.WAITING]
        for outcome, number in Counter(outcomes).items():
            setattr(self, outcome, getattr(self, outcome) + number)
        if kind is Kind.DUE:
            self.retried += len(outcomes)
        else:
            self.received += len(outcomes)
        if kind is Kind.FOREIGN:
            self.stored += len(outcomes) - outcomes.count(Outcome.SKIPPED)
        if kind is not Kind.OWN:
            self.inbox_consumed += outcomes.count(Outcome.CONSUMED)

    @property
    def progress(self) -> dict[str, int]:
        """The counts by the columns of ``Activity``."""
        return {
            "consumed": self.consumed - self.inbox_consumed,
            "inbox_received": self.stored,
            "inbox_consumed": self.inbox_consumed,
        }


class Source(ABC, Generic[Item]):
    """Where messages come from, and what a retry means. The engine is the same for outbox and inbox."""

    def cost(self, item: Item) -> float:
        """Calls of handlers that a delivery causes, as far as it shows without the database.

        0 if no handler is for it, less than 1 if it shares a call with others as part of a batch.
        """
        return 1.0

    def prepare(self, items: Sequence[Item]) -> list[Claim]:
        """Read deliveries before the transaction of the handlers. If all are skipped or wait, there is none."""
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


class Survived:
    """Deliveries that this process has counted and not finished: the last thousand of them.

    They are not counted again after a fault of the database, as they did not kill the process. Not all are kept, as another
    consumer may finish them, which nobody reports here. Lanes share it.
    """

    def __init__(self) -> None:
        self._deliveries: dict[Hashable, None] = {}
        self._lock = Lock()

    def __contains__(self, delivery: Hashable) -> bool:
        return delivery in self._deliveries

    def add(self, *deliveries: Hashable) -> None:
        with self._lock:
            self._deliveries.update(dict.fromkeys(deliveries))
            while len(self._deliveries) > MOST_SURVIVED:
                del self._deliveries[next(iter(self._deliveries))]

    def discard(self, *deliveries: Hashable) -> None:
        with self._lock:
            for delivery in deliveries:
                self._deliveries.pop(delivery, None)


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
