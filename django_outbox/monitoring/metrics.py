"""What a worker counts and measures of its messages, by topic and event type; never by key."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django_outbox.codecs import Outgoing
from django_outbox.events import Event
from django_outbox.handlers import Handler
from django_outbox.instrumentation import Observer
from django_outbox.logs import Message
from django_outbox.models import InboxMessage
from django_outbox.monitoring.numbers import Counters, Histogram, Labels
from django_outbox.rows import LockedMessage

OTHER = "other"
MOST_LABELS = 200
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400)


class Metrics(Observer):
    """The numbers of one relay or consumer.

    Labels are bounded, as each costs memory here and in Prometheus: at most ``MOST_LABELS`` pairs of topic and event
    type, and in a consumer only event types that it has a handler for. All others are ``other``: what strangers
    send must not decide how much is kept.
    """

    def __init__(self, *, known_types: Collection[str] | None = None, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            known_types: event types that may be labels; None for all, as those that this service publishes.
            clock: seconds since 1970.
        """
        self._known_types = known_types
        self._clock = clock
        self._labels: dict[Labels, Labels] = {}
        first = "published" if known_types is None else "consumed"
        self.counters = {name: Counters() for name in (first, "failed", "retried", "dead")}
        self.publish_seconds = Histogram(DURATIONS)
        self.handler_seconds = Histogram(DURATIONS)
        self.seconds_to_published = Histogram(LATENCIES)
        self.seconds_to_consumed = Histogram(LATENCIES)

    def published(self, messages: Sequence[Outgoing], seconds: float) -> None:
        self.publish_seconds.add((), [seconds])
        self._count("published", messages)
        self._measure(self.seconds_to_published, ((m.topic, m.event_type, m.created_at) for m in messages))

    def consumed(self, messages: Sequence[LockedMessage | InboxMessage]) -> None:
        self._count("consumed", messages)
        self._measure(self.seconds_to_consumed, ((m.topic, m.event_type, _written_at(m)) for m in messages))

    def failed(self, message: Message, *, final: bool) -> None:
        self._count("failed", [message])
        if not final:
            self._count("retried", [message])

    def dead(self, message: Message) -> None:
        self._count("dead", [message])

    def handled(self, handler: Handler, seconds: float) -> None:
        """A handler has run, or raised, and took so long; whether that was committed is another matter."""
        self.handler_seconds.add((handler.event_type, handler.name), [seconds])

    def timed(self, handler: Handler) -> Handler:
        """The same handler, whose runs are measured here."""
        return TimedHandler(handler.event_type, handler.function, handler.topic, handler.group, self.handled)

    def _count(self, name: str, messages: Sequence[Message]) -> None:
        pairs = Counter((message.topic, message.event_type) for message in messages)
        numbers: Counter[Labels] = Counter()
        for pair, number in pairs.items():
            numbers[self._labels_of(pair)] += number
        self.counters[name].add(numbers)

    def _measure(self, histogram: Histogram, written: Iterable[tuple[str, str, datetime | str | None]]) -> None:
        now = self._clock()
        by_topic: dict[Labels, list[float]] = {}
        for topic, event_type, at in written:
            if at is not None:
                (label, _) = self._labels_of((topic, event_type))
                by_topic.setdefault((label,), []).append(max(0.0, now - _timestamp(at)))
        for labels, values in by_topic.items():
            histogram.add(labels, values)

    def _labels_of(self, pair: Labels) -> Labels:
        """Topic and event type as labels."""
        if pair not in self._labels:
            topic, event_type = pair
            labels = pair
            if self._known_types is not None and event_type not in self._known_types:
                labels = (topic, OTHER)
            if labels not in self._labels and len(self._labels) >= MOST_LABELS:
                return (OTHER, OTHER)
            pair = labels
            if pair not in self._labels:
                self._labels[pair] = labels
                for counters in self.counters.values():
                    counters.add({labels: 0})  # or the first one would be lost to Prometheus, which sees only growth
        return self._labels[pair]


@dataclass(frozen=True)
class TimedHandler(Handler):
    """A handler that tells how long each of its runs took."""

    tell: Callable[[Handler, float], None]

    def __call__(self, event: Event) -> None:
        started = time.perf_counter()
        try:
            super().__call__(event)
        finally:
            self.tell(self, time.perf_counter() - started)


def _written_at(message: LockedMessage | InboxMessage) -> datetime | None:
    """When the event was written; of another service only if it says so."""
    if not isinstance(message, InboxMessage):
        return message.created_at
    time = message.event_time
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _timestamp(at: datetime | str) -> float:
    return (datetime.fromisoformat(at) if isinstance(at, str) else at).timestamp()
