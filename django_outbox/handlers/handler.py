"""A handler: a function that is registered for a type of event."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from asgiref.sync import async_to_sync

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import HandlerCancelled, PayloadMismatch, name_handlers
from django_outbox.handlers.arguments import Arguments, arguments_of
from django_outbox.handlers.timeout import call_within


@dataclass(frozen=True)
class Handler:
    """A function registered for one type of event."""

    event_type: str
    function: Callable[..., Any]
    topic: str | None
    group: str | None

    @cached_property
    def name(self) -> str:
        """The module and name of the function."""
        function = inspect.unwrap(self.function)
        qualname = getattr(function, "__qualname__", None)
        return repr(function) if qualname is None else f"{function.__module__}.{qualname}"

    @cached_property
    def arguments(self) -> Arguments:
        """What to call the function with.

        Raises:
            NameError: an annotation is not defined, or not yet.
            TypeError: the function does not take an event, a payload or both.
        """
        return arguments_of(self.function)

    def __call__(self, event: Event) -> None:
        """Run the function, and end the process if it runs longer than ``HANDLER_TIMEOUT``.

        Raises:
            PayloadMismatch: the payload does not have the type that the function takes.
        """
        timeout = settings.handler_timeout
        if timeout is None:
            self._run(event)
        else:
            about = {"event_id": event.id, "topic": event.topic, "attempt": event.attempt}
            subject = f"handler {self.name} with event {event.id} ({event.type})"
            call_within(timeout, subject, self._run, event, about=about)

    def _run(self, event: Event) -> None:
        try:
            result = self.function(*self._arguments_for(event))
            if inspect.isawaitable(result):
                async_to_sync(_wait_for)(result)
        except CancelledError as error:
            # It is not an Exception, and would end the process.
            raise HandlerCancelled.of(error) from None

    def _arguments_for(self, event: Event) -> list[Any]:
        try:
            return self.arguments.of(event)
        except PayloadMismatch as mismatch:
            name_handlers(mismatch, [self.name])
            raise

    def replaces(self, old: Handler) -> bool:
        """True if this is the same handler as an older one, as after a second import of its module.

        Functions that only share a name, such as those of one factory or decorator, are not the same.
        """
        if (self.event_type, self.topic, self.group) != (old.event_type, old.topic, old.group):
            return False
        if self.function == old.function:
            return True
        code, old_code = _code(self.function), _code(old.function)
        if code is None or old_code is None or code is old_code:
            return False
        return (self.name, code.co_filename, code.co_firstlineno) == (
            old.name,
            old_code.co_filename,
            old_code.co_firstlineno,
        )


async def _wait_for(result: Awaitable[Any]) -> None:
    await result


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
