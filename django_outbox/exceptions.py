"""The exceptions of this package."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Self

from django.core.exceptions import ImproperlyConfigured

LONGEST_DELAY = timedelta(days=3650)
"""The maximum delay of a message: Python cannot read every time that PostgreSQL can store."""
_HANDLERS = "_outbox_handlers"


class OutboxError(Exception):
    """Base of all errors of this package."""


class TransactionRequired(OutboxError):
    """A message was published outside of a database transaction."""


class InvalidMessage(OutboxError, ValueError):
    """A message is invalid; ``field`` names the argument, or a place in it such as ``payload.lines[1].count``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class MessageNotFound(OutboxError):
    """A message to update does not exist, or changed after it was locked."""

    def __init__(self, *message_ids: int) -> None:
        ids = ", ".join(map(str, message_ids))
        super().__init__(
            f"Outbox message {ids} does not exist."
            if len(message_ids) == 1
            else f"One of the outbox messages {ids} was deleted or changed although this transaction had locked it."
        )
        self.message_ids = message_ids


class HandlersNotImportable(OutboxError):
    """The ``handlers`` module of an installed app cannot be imported."""


class HandlerCancelled(OutboxError):
    """A handler awaited a cancelled task. A failure of the handler like any other."""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Replaces an ``asyncio.CancelledError``, with its traceback."""
        return cls("The handler awaited a cancelled task.").with_traceback(error.__traceback__)


class TaskExited(OutboxError):
    """A task of Django's Tasks framework called ``sys.exit()``. A failure like any other: the consumer goes on."""


class PayloadMismatch(OutboxError, ValueError):
    """A payload does not match the annotation of its handler. A failure of the handler like any other.

    The text names the field, the expected type and the actual type, never a value, which may be secret.
    """


class MissingDependency(OutboxError, ImproperlyConfigured):
    """The settings need an optional package; the text says how to install it."""


class PauseLocked(OutboxError):
    """A consumer has locked a pause, for example while the handler of a message that it tries is running."""


class MessagesLeft(OutboxError):
    """A drain ended with messages left, as their topics cannot be written or read."""


class HandlerRequest(OutboxError):
    """Base of ``Retry`` and ``Reject``. A batch handler may name the ``events`` of its list that it is about."""

    def __init__(self, reason: str, events: Iterable[object] | None) -> None:
        super().__init__(reason)
        self.events = None if events is None else tuple(events)
        if self.events == ():
            raise ValueError(f"{type(self).__name__}: events must name at least one event, or be None.")


class Retry(HandlerRequest):
    """Raised by a handler to retry the message after ``delay``.

    The attempt counts as a failure: a message that is always retried becomes a dead letter.

    Args:
        delay: seconds or a timedelta, at most ten years; None uses the usual backoff.
        reason: stored as the message's ``last_error``.
        events: for a batch handler, the items of its list to retry. The others are handled again without them.

    Raises:
        ValueError, TypeError, OverflowError: an argument is not valid. A failure of the handler like any other.
    """

    def __init__(
        self, delay: float | timedelta | None = None, reason: str = "", *, events: Iterable[object] | None = None
    ) -> None:
        if isinstance(delay, (int, float)):
            delay = timedelta(seconds=delay)
        if delay is not None and not -LONGEST_DELAY <= delay <= LONGEST_DELAY:
            raise ValueError(f"The delay of Retry must be at most {LONGEST_DELAY.days} days, got {delay}.")
        super().__init__(reason or "The handler asked for a retry.", events)
        self.delay = delay


class Reject(HandlerRequest):
    """Raised by a handler to make the message a dead letter at once.

    Args:
        reason: stored as the message's ``last_error``.
        events: for a batch handler, the items of its list to reject. The others are handled again without them.

    Raises:
        ValueError, TypeError: ``events`` is not valid. A failure of the handler like any other.
    """

    def __init__(self, reason: str = "", *, events: Iterable[object] | None = None) -> None:
        super().__init__(reason or "The handler rejected the message.", events)


class BrokerError(OutboxError):
    """Base of errors between this process and the broker."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached, does not answer in time, or refuses this client.

    Not the fault of a message. The producer or subscription that raised it must be closed.
    """


class NoAnswer(BrokerUnavailable):
    """A request got no answer; ``answering`` lists the brokers that answered other requests."""

    def __init__(self, reason: str, answering: Collection[str] = ()) -> None:
        super().__init__(reason)
        self.answering = answering


class TopicNotReadable(BrokerUnavailable):
    """Some ``topics`` cannot be read or described; others may be readable."""

    def __init__(self, topics: Collection[str], reason: str) -> None:
        super().__init__(reason)
        self.topics = frozenset(topics)


class RecordsUndecodable(TopicNotReadable):
    """Some topics have records that the client library cannot decode; ``advice`` says what to do."""

    def __init__(self, topics: Collection[str], reason: str, advice: str) -> None:
        super().__init__(topics, f"{reason}. {advice}.")
        self.reason = reason
        self.advice = advice


class RegistryUnavailable(OutboxError):
    """The schema registry cannot be reached, does not answer in time, or refuses this client.

    Not the fault of a message: those that need it wait for ``retry_after`` seconds, uncounted, and no other does.
    """

    def __init__(self, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class SchemaNotFound(OutboxError, ImproperlyConfigured):
    """The schema registry does not have a schema, or has one that cannot be used; the text says what to do."""


class TopicNotCreated(BrokerError):
    """The broker refuses to create a topic."""


class UnreadableRecord(BrokerError):
    """A record is not in a known wire format."""


def text_of(error: BaseException | str) -> str:
    """The text of an error. ``str()`` of a handler's error may raise; the replacement is Python's own."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def in_one_line(error: BaseException) -> str:
    """The text of an error in one line, for a log."""
    return " ".join(text_of(error).split()) or type(error).__name__


def name_handlers(error: BaseException, names: Iterable[str]) -> None:
    """Store the names of the handlers on an error whose traceback may not contain project code.

    For example, a payload mismatch, or a constraint that the database checks at the commit. The first call wins.
    """
    if not isinstance(error, HandlerRequest):
        with suppress(Exception):  # a handler may be anything callable, and its repr may raise
            vars(error).setdefault(_HANDLERS, ", ".join(names))


def handlers_of(error: BaseException) -> str:
    """The names that ``name_handlers`` stored."""
    return str(vars(error).get(_HANDLERS, ""))
