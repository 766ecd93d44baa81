"""The interface between the engine and the sources of messages: claims and their outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler
from django_outbox.models import InboxMessage
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.rows import LockedMessage

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


class Source(ABC, Generic[Item]):
    """Where messages come from, and what a retry means. The engine is the same for outbox and inbox."""

    def prepare(self, items: Sequence[Item]) -> list[Claim]:
        """Read deliveries before the transaction of the handlers; returns their claims, or nothing.

        If all claims are ``SKIP``, there is no transaction.
        """
        return []

    @abstractmethod
    def claim(self, items: Sequence[Item], prepared: list[Claim]) -> list[Claim]:
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
        """Count a failure, after its transaction was rolled back.

        Args:
            claim: its claim; None if claiming failed.
        """

    @abstractmethod
    def requeue(self, item: Item, fault: Exception) -> Outcome:
        """Postpone a message after faults of the database; no retry is counted.

        Raises:
            OperationalError: the message cannot be locked.
        """

    @abstractmethod
    def delivery_id(self, item: Item) -> Hashable:
        """Return the identity of a delivery, the same at each try."""

    @abstractmethod
    def describe(self, item: Item) -> tuple[str, dict[str, object]]:
        """Return the name of a delivery in log lines, and attributes for them."""


def max_deliveries_reason(what: str = "handler") -> str:
    """Return why a message is dead that killed its process too often."""
    return (
        f"It took its process down {settings.max_deliveries} times (MAX_DELIVERIES): the "
        f"process ended, was killed, or was ended by HANDLER_TIMEOUT, while the {what} ran."
    )


def unhandled_reason(event_type: str) -> str:
    """Return why a message without a handler is dead."""
    return f"No handler is registered for {event_type!r} (UNKNOWN_EVENT is 'dead')."
