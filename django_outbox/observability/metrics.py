"""The metrics of a worker, by topic and event type, never by key.

In plain Python: the worker adds a whole batch at once, and the thread of a scrape reads.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from django_outbox.events.event import Event
from django_outbox.events.writer import Outgoing
from django_outbox.handlers.handler import Handler
from django_outbox.models import InboxMessage
from django_outbox.observability.logging import Message

Labels = tuple[str, ...]
OTHER = "other"
MOST_LABELS = 200
REQUEUED = ("order", "paused", "database", "lost")
"""Why a consumer puts messages back that no handler failed on, so that the relay sends them again."""
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400)


class Counters:
    """Counters by labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[Labels, int] = {}

    def add(self, labels: Labels, number: int) -> None:
        with self._lock:
            self._numbers[labels] = self._numbers.get(labels, 0) + number

    def read(self) -> dict[Labels, int]:
        with self._lock:
            return dict(self._numbers)


class Histogram:
    """Histograms by labels: values per bucket, and their sum."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = (*sorted(bounds), float("inf"))
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, values: Sequence[float]) -> None:
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * len(self.bounds))
            for value in values:
                counts[bisect_left(self.bounds, value)] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + sum(values)

    def read(self) -> Iterator[tuple[Labels, list[tuple[float, int]], float]]:
        """For each labels: the upper bounds with cumulative counts, and the sum."""
        with self._lock:
            rows = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        for labels, counts, total in rows:
            yield labels, list(zip(self.bounds, accumulate(counts), strict=True)), total


class Metrics:
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
        self.requeued = Counters()
        for reason in REQUEUED:
            self.requeued.add((reason,), 0)
        self.publish_seconds = Histogram(DURATIONS)
        self.handler_seconds = Histogram(DURATIONS)
        self.seconds_to_published = Histogram(LATENCIES)
        self.seconds_to_consumed = Histogram(LATENCIES)

    def published(self, messages: Sequence[Outgoing], seconds: float) -> None:
        """The broker acknowledged messages, after so many seconds."""
        self.publish_seconds.add((), [seconds])
        self._moved("published", messages, self.seconds_to_published)

    def consumed(self, messages: Sequence[Message]) -> None:
        self._moved("consumed", messages, self.seconds_to_consumed)

    def failed(self, message: Message, *, final: bool) -> None:
        """An attempt failed and was counted; ``final``: the message is dead."""
        self._count("failed", message)
        if not final:
            self._count("retried", message)

    def dead(self, message: Message) -> None:
        """A message is dead, after its last failure or at once."""
        self._count("dead", message)

    def timed(self, handler: Handler) -> Handler:
        """The same handler, with its runs timed, even if their transaction is rolled back."""
        return TimedHandler(
            handler.event_type,
            handler.function,
            handler.topic,
            handler.group,
            self.handler_seconds,
            batch=handler.batch,
            wait=handler.wait,
        )

    def _moved(self, name: str, messages: Sequence[Message], to: Histogram) -> None:
        """Count messages by topic and event type, and record their ages."""
        written: dict[Labels, list[datetime | str | None]] = defaultdict(list)
        for message in messages:
            written[message.topic, message.event_type].append(_written_at(message))
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
    """A handler that records the duration of each run, whether it returns or raises."""

    durations: Histogram

    def __call__(self, events: Event | Sequence[Event]) -> None:
        started = time.perf_counter()
        try:
            super().__call__(events)
        finally:
            self.durations.add((self.event_type, self.name), [time.perf_counter() - started])


def _written_at(message: Message) -> datetime | str | None:
    """When the event was written; None if another service does not say so."""
    if not isinstance(message, InboxMessage):
        return message.created_at
    time = message.event_time
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _timestamp(at: datetime | str) -> float:
    return (datetime.fromisoformat(at) if isinstance(at, str) else at).timestamp()
