"""Handlers: the functions of a project that are registered for a type of event, and how they are called."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from types import CodeType
from typing import Any

from asgiref.sync import async_to_sync

from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.events.event import Event
from django_outbox.exceptions import HandlerCancelled, HandlerRequest, PayloadMismatch, name_handlers
from django_outbox.handlers.arguments import Arguments, arguments_of
from django_outbox.handlers.timeout import call_within


@dataclass(frozen=True)
class Handler:
    """A function registered for one type of event.

    Attributes:
        batch: the most events that it takes at once, as a list; None takes a single event.
        wait: seconds that the consumer may wait for a full list.
    """

    event_type: str
    function: Callable[..., Any]
    topic: str | None
    group: str | None
    batch: int | None = field(default=None, kw_only=True)
    wait: float = field(default=0.0, kw_only=True)

    @cached_property
    def name(self) -> str:
        """The module and name of the function."""
        function = inspect.unwrap(self.function)
        qualname = getattr(function, "__qualname__", None)
        return repr(function) if qualname is None else f"{function.__module__}.{qualname}"

    @property
    def is_task(self) -> bool:
        """True for a task of Django's Tasks framework: not an event for other services."""
        return self.event_type.startswith(TASK_PREFIX)

    @cached_property
    def arguments(self) -> Arguments:
        """What to call the function with; raises the errors of ``arguments_of``."""
        return arguments_of(self.function, batch=self.batch is not None)

    def __call__(self, events: Event | Sequence[Event]) -> None:
        """Run the function, and end the process if it runs longer than ``HANDLER_TIMEOUT``.

        Args:
            events: one event; for a batch handler, up to ``batch`` of them.
        """
        timeout = settings.handler_timeout
        if timeout is None:
            self._run(events)
            return
        first, others = (events, 0) if isinstance(events, Event) else (events[0], len(events) - 1)
        about = {"event_id": first.id, "topic": first.topic, "attempt": first.attempt}
        subject = f"handler {self.name} with event {first.id} ({first.type})"
        if others:
            subject += f" and {others} more"
        call_within(timeout, subject, self._run, events, about=about)

    def _run(self, events: Event | Sequence[Event]) -> None:
        arguments: list[Any] = []
        try:
            if isinstance(events, Event):
                arguments = self.arguments.of(events)
                result = self.function(*arguments)
            else:
                arguments = self.arguments.of_batch(events)
                # Copies, because the function may change its lists.
                result = self.function(*[[*items] for items in arguments])
            if result is not None and inspect.isawaitable(result):
                async_to_sync(_wait_for)(result)
        except PayloadMismatch as mismatch:
            name_handlers(mismatch, [self.name])
            raise
        except HandlerRequest as request:
            if request.events is not None:
                _find_events(request, events, arguments)
            raise
        except CancelledError as error:
            # It is not an Exception, and would end the process.
            raise HandlerCancelled.of(error) from None

    def replaces(self, old: Handler) -> bool:
        """True if this is the same handler as an older one, as after a second import of its module.

        Functions that only share a name, such as those of one factory or decorator, are not the same.
        """
        if (self.event_type, self.topic, self.group) != (old.event_type, old.topic, old.group):
            return False
        if self.function == old.function:
            return True
        code, old_code = _code(self.function), _code(old.function)
        if code is None or old_code is None or code is old_code or self.name != old.name:
            return False
        return (code.co_filename, code.co_firstlineno) == (old_code.co_filename, old_code.co_firstlineno)


class Handlers(tuple[Handler, ...]):
    """The handlers of one type of event from one topic, in the order in which they run."""

    @cached_property
    def batch(self) -> int:
        """The most events that one of them takes at once; 0 if none is a batch handler."""
        return max([handler.batch or 0 for handler in self], default=0)

    @cached_property
    def wait(self) -> float:
        """Seconds that the consumer may wait for a full list, the longest of them."""
        return max([handler.wait for handler in self], default=0.0)

    @cached_property
    def cost(self) -> float:
        """The share of a call that each event causes: 1, or less if all are batch handlers; 0 without handlers."""
        return max([1 / (handler.batch or 1) for handler in self], default=0.0)

    def calls(self, events: Sequence[Event]) -> Iterator[tuple[Event | Sequence[Event], Sequence[Handler]]]:
        """Yield what to call with what, so that each handler gets all events, in order and after the handlers before it."""
        for batch, handlers in groupby(self, key=lambda handler: handler.batch):
            group = tuple(handlers)
            if batch is None:
                yield from ((event, group) for event in events)
            else:
                yield from ((events[start : start + batch], group) for start in range(0, len(events), batch))


NO_HANDLERS = Handlers()


def _find_events(request: HandlerRequest, events: Event | Sequence[Event], arguments: Sequence[Any]) -> None:
    """Replace the items that a batch handler names, which may be payloads, by their events.

    Raises:
        ValueError: an item is not in the list that the handler got.
    """
    batch = [events] if isinstance(events, Event) else events
    lists = [[each] for each in arguments] if isinstance(events, Event) else arguments
    named = {id(each) for each in request.events or ()}
    known = {id(each) for items in lists for each in items}
    if not named <= known:
        name = type(request).__name__
        raise ValueError(f"{name} names an event that is not in the list of the handler. Name items of that list.")
    request.events = tuple(
        event for event, *items in zip(batch, *lists, strict=True) if any(id(each) in named for each in items)
    )


async def _wait_for(result: Awaitable[Any]) -> None:
    await result


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
