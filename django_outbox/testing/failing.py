"""Handlers that fail once, to test that they may run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import registry


class _Failure:
    """A failure that is to come: that of the first attempt at which the handler runs."""

    def __init__(self, function: Callable[..., Any], error: Exception) -> None:
        self.function = function
        self.error = error
        self.attempt: tuple[object, ...] | None = None

    def fail(self, handler: Handler, event: Event) -> None:
        # The consumer may roll back and handle the event again before it counts a failure: all of this is one attempt.
        attempt = (handler.event_type, handler.topic, handler.group, event.id, event.attempt)
        if self.attempt in (None, attempt):
            self.attempt = attempt
            raise self.error


@dataclass(frozen=True)
class _FailingHandler(Handler):
    failure: _Failure = field(kw_only=True)

    def __call__(self, events: Event | Sequence[Event]) -> None:
        super().__call__(events)
        for event in [events] if isinstance(events, Event) else events:
            self.failure.fail(self, event)


_failures: list[_Failure] = []


@contextmanager
def fail_once(handler: Callable[..., Any], error: Exception | None = None) -> Iterator[None]:
    """Let a handler fail at the first attempt that ``drain()`` or ``deliver()`` makes in the block, and no more.

    It fails after it has run: its changes to the database are rolled back, and it runs again at the retry. So effects that
    cannot be rolled back happen twice, as they do when a process dies before the commit.

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


def failing(handler: Handler) -> Handler:
    """A handler as a drain runs it: one that fails if a test wants that."""
    for failure in _failures:
        if failure.function == handler.function:
            options: dict[str, Any] = {"batch": handler.batch, "wait": handler.wait, "failure": failure}
            return _FailingHandler(handler.event_type, handler.function, handler.topic, handler.group, **options)
    return handler
