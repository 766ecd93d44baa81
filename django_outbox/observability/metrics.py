"""The metrics of a worker, by topic and event type, never by key."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django_outbox.events.event import Event
from django_outbox.events.writer import Outgoing
from django_outbox.handlers.registry import Handler
from django_outbox.models import InboxMessage
from django_outbox.observability.counters import Counters, Histogram, Labels
from django_outbox.observability.instrumentation import Observer
from django_outbox.observability.logging import Message
from django_outbox.state.rows import LockedMessage

OTHER = "other"
MOST_LABELS = 200
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400)


class Metrics(Observer):
    """The metrics of one relay or consumer.

    Labels are limited, as each costs memory here and in Prometheus, and foreign records must not decide how much: at
    most ``MOST_LABELS`` pairs of topic and event type; in a consumer only types with a handler. The rest is ``other``.
    """

    def __init__(self, *, known_types: Collection[str] | None = None, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            known_types: event types that may be labels; None allows all.
            clock: seconds since 1970.
        """
        self._known_types = known_types
        self._clock = clock
        self._labels: set[Labels] = set()
        first = "published" if known_types is None else "consumed"
        self.counters = {name: Counters() for name in (first, "failed", "retried", "dead")}
        self.publish_seconds = Histogram(DURATIONS)
        self.handler_seconds = Histogram(DURATIONS)
        self.seconds_to_published = Histogram(LATENCIES)
        self.seconds_to_consumed = Histogram(LATENCIES)

    def published(self, messages: Sequence[Outgoing], seconds: float) -> None:
        self.publish_seconds.add((), [seconds])
        written: dict[Labels, list[datetime | str | None]] = defaultdict(list)
        for message in messages:
            written[message.topic, message.event_type].append(message.created_at)
        self._moved("published", written, self.seconds_to_published)

    def consumed(self, messages: Sequence[LockedMessage | InboxMessage]) -> None:
        written: dict[Labels, list[datetime | str | None]] = defaultdict(list)
        for message in messages:
            written[message.topic, message.event_type].append(_written_at(message))
        self._moved("consumed", written, self.seconds_to_consumed)

    def failed(self, message: Message, *, final: bool) -> None:
        self._count("failed", message)
        if not final:
            self._count("retried", message)

    def dead(self, message: Message) -> None:
        self._count("dead", message)

    def handled(self, handler: Handler, seconds: float) -> None:
        """A handler returned or raised; its transaction may still be rolled back."""
        self.handler_seconds.add((handler.event_type, handler.name), [seconds])

    def timed(self, handler: Handler) -> Handler:
        """The same handler, with its runs timed."""
        return TimedHandler(handler.event_type, handler.function, handler.topic, handler.group, self.handled)

    def _moved(self, name: str, written: Mapping[Labels, Sequence[datetime | str | None]], to: Histogram) -> None:
        """Count messages by topic and event type, and record their ages."""
        now = self._clock()
        for pair, times in written.items():
            labels = self._labels_of(pair)
            self.counters[name].add(labels, len(times))
            seconds = [max(0.0, now - _timestamp(time)) for time in times if time is not None]
            if seconds:
                to.add(labels[:1], seconds)

    def _count(self, name: str, message: Message) -> None:
        self.counters[name].add(self._labels_of((message.topic, message.event_type)), 1)

    def _labels_of(self, pair: Labels) -> Labels:
        """Topic and event type as labels."""
        topic, event_type = pair
        if self._known_types is not None and event_type not in self._known_types:
            pair = (topic, OTHER)
        if pair not in self._labels:
            if len(self._labels) >= MOST_LABELS:
                return (OTHER, OTHER)
            self._labels.add(pair)
            for counters in self.counters.values():
                counters.add(pair, 0)  # otherwise Prometheus, which sees only growth, would miss the first one
        return pair


@dataclass(frozen=True)
class TimedHandler(Handler):
    """A handler that reports the duration of each run."""

    report: Callable[[Handler, float], None]

    def __call__(self, event: Event) -> None:
        started = time.perf_counter()
        try:
            super().__call__(event)
        finally:
            self.report(self, time.perf_counter() - started)


def _written_at(message: LockedMessage | InboxMessage) -> datetime | None:
    """When the event was written; None if another service does not say so."""
    if not isinstance(message, InboxMessage):
        return message.created_at
    time = message.event_time
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _timestamp(at: datetime | str) -> float:
    return (datetime.fromisoformat(at) if isinstance(at, str) else at).timestamp()
