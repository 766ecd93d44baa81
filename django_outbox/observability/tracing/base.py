"""The interface to a tracing library."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import TracebackType
from typing import Any

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import InvalidMessage
from django_outbox.models.validation import headers_as_text, require_text
from django_outbox.observability.tracing.names import Message

log = logging.getLogger(__name__)

Events = Event | Sequence[Event]
"""One event or, for batch handlers, several."""
Handlers = Sequence[Callable[[Events], None]]
Run = Callable[[Events, Handlers], None]
"""Runs handlers with one event, or batch handlers with several."""
Note = Callable[[Sequence[Any]], None]
"""Takes the results of a batch, one for each message."""
Finish = Callable[[int, BaseException | None, bool], None]
"""Finishes a span. Takes the time when its handlers had run, in nanoseconds since 1970; the failure of its message, or
None; and whether the message will be redone, as the transaction was rolled back (without a failure: of another one)."""


def run_handlers(events: Events, handlers: Handlers) -> None:
    """Run handlers one after the other."""
    for handler in handlers:
        handler(events)


@contextmanager
def harmless() -> Iterator[None]:
    """Suppress errors of a tracing library: the trace is lost, and nothing else."""
    try:
        yield
    except Exception as error:
        log.warning("A trace was lost.", exc_info=error, extra={"action": "trace"})


class Tracing(ABC):
    """A tracing library, at the three stages of a message. ``OUTBOX["TRACING"]`` names a subclass.

    One instance serves all threads.
    """

    @abstractmethod
    def creating(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Around the INSERT of messages; adds the trace context to their headers."""

    @abstractmethod
    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        """Around the sending of a batch; yields a function that takes the results."""

    @abstractmethod
    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        """Around a transaction in which handlers run; yields a function that runs those of one event or batch.

        Args:
            group: the consumer group.
            using: alias of the database of the transaction.
            together: several messages may share the transaction, and are redone if it fails.
        """

    @property
    @abstractmethod
    def fields(self) -> Iterable[str]:
        """The names of the headers with trace context."""

    def carried(self, headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
        """The headers of a record with trace context, as text that every database can store; the first of each name."""
        fields = self.fields
        return headers_as_text({name: text for name, text in reversed(list(headers)) if name in fields})


class NoTracing(Tracing):
    """Traces nothing."""

    fields = ()

    def creating(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        return nullcontext()

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        return nullcontext(lambda results: None)

    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        return nullcontext(run_handlers)


NOTHING = NoTracing()


def current_tracing() -> Tracing:
    """The tracing library of this project."""
    return _made(settings.tracing or NoTracing)


@cache
def _made(kind: Callable[[], Tracing]) -> Tracing:
    return kind()


def add_headers(message: Message, headers: Mapping[str, str]) -> None:
    """Add headers that the message does not have yet and that every database can store."""
    known = {name.lower() for name in message.headers}
    for name, text in headers.items():
        try:
            require_text("headers", text)
        except InvalidMessage:
            continue
        if name.lower() not in known:
            message.headers[name] = text


class Processing:
    """The spans of the messages of one transaction.

    A span ends with its handlers but is finished after the transaction, as only a commit makes it a success. If the
    transaction fails, the message whose handler raised has failed; the others are finished as rolled back.

    Args:
        start: starts the span of one event, or of a batch, and makes it current. Returns None if there is nothing to trace, or two
            functions: one makes the previous span current again, the other is a ``Finish``.
        together: see ``Tracing.processing``.
    """

    def __init__(
        self, start: Callable[[Sequence[Event]], tuple[Callable[[], object], Finish] | None], *, together: bool
    ) -> None:
        self._start = start
        self._together = together
        self._ended: list[tuple[Finish, int]] = []
        self._failed: tuple[Finish, BaseException] | None = None

    def run(self, events: Events, handlers: Handlers) -> None:
        """Run handlers within the span of their events."""
        batch = [events] if isinstance(events, Event) else events
        try:
            started = self._start(batch)
        except Exception:
            log.warning("Event %s is handled without a trace.", batch[0].id, exc_info=True, extra={"action": "trace"})
            started = None
        if started is None:
            return run_handlers(events, handlers)
        leave, finish = started
        try:
            run_handlers(events, handlers)
        except BaseException as error:
            self._failed = (finish, error)
            raise
        finally:
            leave()
            self._ended.append((finish, time.time_ns()))

    def __enter__(self) -> Run:
        return self.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        culprit, cause = self._failed or (None, None)
        redone = error is not None and self._together
        for finish, ended_ns in self._ended:
            if error is None:
                fault = None
            elif finish is culprit:
                fault = cause
            else:
                fault = None if self._together else error
            with harmless():
                finish(ended_ns, fault, redone)
        self._ended.clear()
        self._failed = culprit = cause = None  # the error's frames hold this object
