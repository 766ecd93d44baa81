"""What a tracing library has to do for the outbox, whichever it is."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Generic, TypeVar

from django_outbox.events.event import Event
from django_outbox.exceptions import InvalidMessage
from django_outbox.models.validation import require_text
from django_outbox.observability.tracing.names import Message

log = logging.getLogger(__name__)

Span = TypeVar("Span")

Handlers = Sequence[Callable[[Event], None]]
Run = Callable[[Event, Handlers], None]
"""Runs the handlers of one event."""
Note = Callable[[Sequence[Any]], None]
"""Takes the outcomes of a batch, one a message."""


def run_handlers(event: Event, handlers: Handlers) -> None:
    """Run the handlers of an event, one after the other."""
    for handler in handlers:
        handler(event)


class Harmless:
    """Around what a tracing library does: if that fails, the trace is lost and nothing else."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        log.warning("A trace was lost.", exc_info=error, extra={"action": "trace"})
        return True


def _leave_it(outcomes: Sequence[Any]) -> None: ...


# Without state, so that one of each does for all.
NOT_CREATING: AbstractContextManager[None] = nullcontext()
NOT_SENDING: AbstractContextManager[Note] = nullcontext(_leave_it)
NOT_PROCESSING: AbstractContextManager[Run] = nullcontext(run_handlers)


class Tracing(ABC):
    """One tracing library, at the three places that a message passes.

    ``OUTBOX["TRACING"]`` names a class of this kind. One object of it serves all threads.
    """

    @abstractmethod
    def creating(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Around the INSERT of messages, to whose headers the context is added here."""

    @abstractmethod
    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        """Around the sending of a batch; gives what takes the outcomes."""

    @abstractmethod
    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        """Around a transaction in which handlers run; gives what runs those of one event.

        Args:
            group: the consumer group.
            using: alias of the database of the transaction.
            together: whether it is one try of several messages, which are redone one by one if it fails.
        """

    @property
    @abstractmethod
    def fields(self) -> Iterable[str]:
        """The names of the headers that carry a context."""

    def carried(self, headers: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
        """Of a record's headers those that carry a context; of several of one name the first."""
        fields = self.fields
        return {name: text for name, text in reversed(list(headers)) if name in fields}


def add_headers(message: Message, headers: Mapping[str, str]) -> None:
    """Add headers to a message that it does not have and that every database can store."""
    known = {name.lower() for name in message.headers}
    for name, text in headers.items():
        try:
            require_text("headers", text)
        except InvalidMessage:
            continue
        if name.lower() not in known:
            message.headers[name] = text


class Processing(ABC, Generic[Span]):
    """The spans of one transaction's messages.

    A handler that returns has achieved nothing yet: what it did counts with the commit. So a span ends
    when its handlers do, but is told only after the transaction: as a success if that was committed.
    If not, the message whose handler raised has failed, and so has a message alone whose commit did; the others of
    the transaction were rolled back with it, and each of them is told as that.
    """

    def __init__(self, *, together: bool) -> None:
        self._together = together
        self._ended: list[tuple[Span, int]] = []
        self._failed: tuple[Span, BaseException] | None = None

    @abstractmethod
    def start(self, event: Event) -> tuple[Span, Callable[[], None]]:
        """Begin the span of an event and make it current; the function ends the latter."""

    @abstractmethod
    def finish(self, span: Span, ended_ns: int, error: BaseException | None, *, redone: bool) -> None:
        """Tell what became of a span.

        Args:
            span: from ``start()``.
            ended_ns: when its handlers had run, in nanoseconds since 1970.
            error: that the message failed with; None if it did not.
            redone: if its transaction was rolled back as a whole, and it will be tried again. Without an
                error, that was for another's sake.
        """

    def run(self, event: Event, handlers: Handlers) -> None:
        """Run the handlers of an event within its span."""
        try:
            span, leave = self.start(event)
        except Exception:
            log.warning("Event %s is handled without a trace.", event.id, exc_info=True, extra={"action": "trace"})
            return run_handlers(event, handlers)
        try:
            run_handlers(event, handlers)
        except BaseException as error:
            self._failed = (span, error)
            raise
        finally:
            leave()
            self._ended.append((span, time.time_ns()))

    def __enter__(self) -> Run:
        return self.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        culprit, cause = self._failed or (None, None)
        redone = error is not None and self._together
        for span, ended_ns in self._ended:
            if error is None:
                fault = None
            elif span is culprit:
                fault = cause
            else:
                fault = None if self._together else error
            with Harmless():
                self.finish(span, ended_ns, fault, redone=redone)
        self._ended.clear()
        self._failed = culprit = cause = None  # the error's frames hold this object
