"""Handlers that fail once, to test that they may run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Self

from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import registry


class _Failure:
    """A failure that is to come: that of the first attempt at which the handler runs."""

    def __init__(self, function: Callable[..., Any], error: Exception) -> None:
        self.function = function
        self.error = error
        self.attempt: tuple[object, ...] | None = None


@dataclass(frozen=True)
class DrainHandler(Handler):
    """A handler as a drain runs it.

    Attributes:
        errors: the last error of the handlers, by event id.
        failures: those that a test wants, one for each attempt.
    """

    errors: dict[str, Exception] = field(kw_only=True, compare=False)
    failures: Sequence[_Failure] = field(kw_only=True, compare=False)

    @classmethod
    def of(cls, handler: Handler, errors: dict[str, Exception]) -> Self:
        values = {each.name: getattr(handler, each.name) for each in fields(handler)}
        return cls(**values, errors=errors, failures=[each for each in _failures if each.function == handler.function])

    def __call__(self, events: Event | Sequence[Event]) -> None:
        each_event = [events] if isinstance(events, Event) else events
        try:
            super().__call__(events)
            for event in each_event:
                self._fail(event)
        except Exception as error:
            self.errors.update((str(event.id), error) for event in each_event)
            raise

    def _fail(self, event: Event) -> None:
        # The consumer may roll back and handle the event again before it counts a failure: all of this is one attempt.
        attempt = (self.event_type, self.topic, self.group, event.id, event.attempt)
        for failure in sorted(self.failures, key=lambda each: each.attempt != attempt):
            if failure.attempt in (None, attempt):
                failure.attempt = attempt
                raise failure.error


_failures: list[_Failure] = []


@contextmanager
def fail_once(handler: Callable[..., Any], error: Exception | None = None) -> Iterator[None]:
    """Let a handler fail at the first attempt that ``drain()`` or ``deliver()`` makes in the block, and no more.

    It fails after it has run: its changes to the database are rolled back, and it runs again at the retry. So effects that
    cannot be rolled back happen twice, as they do when a process dies before the commit. Two of the same handler, as in
    ``with fail_once(ship), fail_once(ship):``, let two attempts fail.

    Args:
        handler: the function that is decorated with ``@handler``.
        error: what it raises; None raises a ``RuntimeError``.

    Raises:
        ValueError: the function is not a handler.
        AssertionError: at the end of the block, if the handler did not run in it.
    """
    __tracebackhide__ = True
    registry.load()
    name = getattr(handler, "__qualname__", repr(handler))
    if not any(each.function == handler for _, each in registry.of_all_groups()):
        raise ValueError(f"{name} is not a handler: no @handler registers it.")
    failure = _Failure(handler, error or RuntimeError(f"{name} fails once"))
    _failures.append(failure)
    try:
        yield
    finally:
        _failures.remove(failure)
    if failure.attempt is None:
        raise AssertionError(f"{name} did not run in the block of fail_once(). Call drain() or deliver() in it.")
