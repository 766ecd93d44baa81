"""What the engine handles: a message that was claimed, and the source that it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.handlers.registry import Handler
from django_outbox.models import InboxMessage
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.rows import LockedMessage

REQUEUE_DELAY = timedelta(seconds=MAX_BACKOFF_SECONDS)
"""How long a message waits if nothing tells when its turn comes."""

Item = TypeVar("Item")


class Outcome(StrEnum):
    """What became of a delivery."""

    CONSUMED = "consumed"
    """Its handlers ran, and their effects were committed with its state."""
    FAILED = "failed"
    """A handler raised. The message waits for a retry or, if that was the last one, is dead."""
    DEAD = "dead"
    """It can never be handled."""
    REQUEUED = "requeued"
    """It waits, uncounted: it was not its turn, or not its fault."""
    SKIPPED = "skipped"
    """There was nothing to do: a duplicate, or an event without a handler here."""


@dataclass(slots=True)
class Claim:
    """A delivery whose message is locked.

    Attributes:
        outcome: what it comes to, unless a handler raises.
        message: its row, where there is one.
        event, handlers: what to run for it.
        reason: why it is dead.
        until: when a requeued message is due, or in how long.
    """

    outcome: Outcome
    message: LockedMessage | InboxMessage | None = None
    event: Event | None = None
    handlers: Sequence[Handler] = ()
    reason: str = ""
    until: datetime | timedelta = REQUEUE_DELAY


SKIP = Claim(Outcome.SKIPPED)


class Source(ABC, Generic[Item]):
    """Where messages come from, and what a retry means. The rest is the same for outbox and inbox."""

    def prepare(self, items: Sequence[Item]) -> list[Claim]:
        """Read what can be read of deliveries before the transaction of the handlers begins; empty if nothing is.

        If there is nothing to do for any of them, there is no transaction.
        """
        return []

    @abstractmethod
    def claim(self, items: Sequence[Item], prepared: list[Claim]) -> list[Claim]:
        """Lock messages and decide what becomes of each. In the transaction of the handlers."""

    @abstractmethod
    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        """Write the outcomes of claims. In the transaction of the handlers, after they ran.

        Args:
            done: claims whose handlers ran, or that need none.
            left: claims that there was no time for.

        Raises:
            MessageNotFound: a handler changed or removed a row. The transaction must not be committed.
        """

    @abstractmethod
    def fail(self, item: Item, claim: Claim | None, error: Exception) -> Outcome:
        """Count a failure, after its transaction was rolled back.

        Args:
            item: what failed.
            claim: what it was claimed as; None if that is what failed.
            error: what was raised.
        """

    @abstractmethod
    def requeue(self, item: Item, fault: Exception) -> Outcome:
        """Postpone a message that a fault of the database kept from being handled, uncounted.

        Raises:
            OperationalError: the message cannot even be locked.
        """

    @abstractmethod
    def identity(self, item: Item) -> Hashable:
        """The identity of a delivery, the same at each try."""

    @abstractmethod
    def describe(self, item: Item) -> tuple[str, dict[str, object]]:
        """What a log line calls a delivery, and its extra attributes."""


def killer_reason(what: str = "handler") -> str:
    """Why a message is dead that kept killing its process while its handler or mapper ran."""
    return (
        f"It took its process down {settings.max_deliveries} times (MAX_DELIVERIES): the "
        f"process ended, was killed, or was ended by HANDLER_TIMEOUT, while the {what} ran."
    )


def unwanted_reason(event_type: str) -> str:
    """Why a message is dead that nobody handles."""
    return f"No handler wants {event_type!r} (UNKNOWN_EVENT is 'dead')."
