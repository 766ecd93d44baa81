"""The calls of handlers in one transaction: gathers events for batch handlers, and keeps each key's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from django_outbox.consumer.source import Claim
from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler, Handlers
from django_outbox.observability.tracing.base import Events, Run

Kind = tuple[str, str | None]
"""Type and topic of events."""
Key = tuple[str | None, str]
"""Topic and key of events."""


@dataclass(slots=True)
class Attempt:
    """How far a transaction came, for when it is rolled back.

    Attributes:
        claims: of its deliveries; empty if claiming them failed.
        running: events whose handler runs, or raised.
    """

    claims: Sequence[Claim] = ()
    running: Sequence[Event] = ()


@dataclass(slots=True)
class _Batch:
    """Events of one kind whose handlers have not run yet, and their keys."""

    handlers: Handlers
    events: list[Event] = field(default_factory=list)
    keys: set[Key] = field(default_factory=set)


class Calls:
    """Runs handlers. An event of a batch handler waits for others of its kind, but never for one behind it in its key."""

    def __init__(self, run: Run, attempt: Attempt) -> None:
        self._run_handlers = run
        self._attempt = attempt
        self._waiting: dict[Kind, _Batch] = {}

    def add(self, event: Event, handlers: Handlers) -> None:
        """Run the handlers of an event, or let it wait until its batch is complete."""
        if not (handlers.batch or self._waiting):
            self._run(event, handlers)
            return
        kind = (event.type, event.topic)
        key = (event.topic, event.key)
        if event.key:
            for other in [each for each, batch in self._waiting.items() if each != kind and key in batch.keys]:
                self._call(other)
        if not handlers.batch:
            self._run(event, handlers)
            return
        batch = self._waiting.setdefault(kind, _Batch(handlers))
        batch.events.append(event)
        batch.keys.add(key)
        if len(batch.events) == handlers.batch:
            self._call(kind)

    def finish(self) -> None:
        """Run the handlers of all events that wait."""
        for kind in list(self._waiting):
            self._call(kind)

    def _run(self, events: Events, handlers: Sequence[Handler]) -> None:
        self._attempt.running = [events] if isinstance(events, Event) else events
        self._run_handlers(events, handlers)
        self._attempt.running = ()

    def _call(self, kind: Kind) -> None:
        batch = self._waiting.pop(kind)
        for events, handlers in batch.handlers.calls(batch.events):
            self._run(events, handlers)
