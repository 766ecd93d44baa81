"""Every error that this package raises."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Self

from django.core.exceptions import ImproperlyConfigured

LONGEST_DELAY = timedelta(days=3650)
"""What publishers and handlers may ask for. Not every time that PostgreSQL stores is one that Python can read."""
_HANDLERS = "_outbox_handlers"


class OutboxError(Exception):
    """Base of all errors of this package."""


class TransactionRequired(OutboxError):
    """A message was to be written outside of a database transaction."""


class InvalidMessage(OutboxError, ValueError):
    """A message cannot be carried; ``field`` names the argument at fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class MessageNotFound(OutboxError):
    """A state change names a message that is not in the table, or no longer as it was locked."""

    def __init__(self, *message_ids: int) -> None:
        ids = ", ".join(map(str, message_ids))
        super().__init__(
            f"There is no outbox message {ids}."
            if len(message_ids) == 1
            else f"Of the outbox messages {ids} one is gone or was changed, though this transaction had locked them."
        )
        self.message_ids = message_ids


class HandlersNotImportable(OutboxError):
    """The ``handlers`` module of an installed app cannot be imported."""


class HandlerCancelled(OutboxError):
    """A handler awaited a task that was cancelled. A failure of the handler like any other."""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """What stands for an ``asyncio.CancelledError``, with its place in the code."""
        return cls("It awaited what was cancelled.").with_traceback(error.__traceback__)


class PayloadMismatch(OutboxError, ValueError):
    """A payload is not what its handler's annotation says.

    The text names the place in the payload, what was expected and the type of what was found, and
    never a value, which may be secret. A failure of the handler like any other.
    """


class MissingDependency(OutboxError, ImproperlyConfigured):
    """The settings name what needs an optional package; the text says how to install it."""


class MessagesLeft(OutboxError):
    """A drain ended although messages are left, as their topics cannot be written to, or not be read."""


class Retry(OutboxError):
    """Raised by a handler: not now, try again after ``delay``.

    The attempt counts, so a message that is put off for ever ends as a dead letter.

    Args:
        delay: seconds or a timedelta to wait, of ten years at most; None takes the usual backoff.
        reason: kept as the message's ``last_error``.

    Raises:
        ValueError, TypeError, OverflowError: instead, if the delay is none, as failures of the handler.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        if isinstance(delay, (int, float)):
            delay = timedelta(seconds=delay)
        if delay is not None and not -LONGEST_DELAY <= delay <= LONGEST_DELAY:
            raise ValueError(f"Retry takes a delay of at most {LONGEST_DELAY.days} days, not {delay}.")
        super().__init__(reason or "The handler asked for a retry.")
        self.delay = delay


class Reject(OutboxError):
    """Raised by a handler: this message can never be handled, make it a dead letter at once."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "The handler rejected the message.")


class BrokerError(OutboxError):
    """Base of what goes wrong between this process and the broker."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached, does not answer in time, or refuses this client.

    No message is at fault. The producer or subscription that raised it must be closed.
    """


class NoAnswer(BrokerUnavailable):
    """A question had no answer; ``answering`` names those of several brokers that answer others."""

    def __init__(self, reason: str, answering: Collection[str] = ()) -> None:
        super().__init__(reason)
        self.answering = answering


class TopicNotReadable(BrokerUnavailable):
    """Some ``topics`` cannot be read, or not be told of, while others perhaps can."""

    def __init__(self, topics: Collection[str], reason: str) -> None:
        super().__init__(reason)
        self.topics = frozenset(topics)


class RecordsUndecodable(TopicNotReadable):
    """Some topics have records that the client's library cannot take apart; ``advice`` says what helps."""

    def __init__(self, topics: Collection[str], reason: str, advice: str) -> None:
        super().__init__(topics, f"{reason}. {advice}.")
        self.reason = reason
        self.advice = advice


class TopicNotCreated(BrokerError):
    """The broker refuses to create a topic."""


class UnreadableRecord(BrokerError):
    """A record is not in a wire format that this package knows."""


def text_of(error: BaseException | str) -> str:
    """What an error says, be it a mere text.

    Those of handlers, and of what these call, may raise when they are asked; Python says it so.
    """
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def in_one_line(error: BaseException) -> str:
    """An error's text without line breaks, for a log."""
    return " ".join(text_of(error).split()) or type(error).__name__


def name_handlers(error: BaseException, names: Iterable[str]) -> None:
    """Note the handlers of a failed message, for an error without a line of the project in its traceback.

    Such as a payload that does not fit, or a constraint that the database checks at the commit. The first note stays.
    """
    if not isinstance(error, (Reject, Retry)):
        with suppress(Exception):  # a handler may be anything callable, and its repr may raise
            vars(error).setdefault(_HANDLERS, ", ".join(names))


def handlers_of(error: BaseException) -> str:
    """What ``name_handlers`` noted on an error."""
    return str(vars(error).get(_HANDLERS, ""))
