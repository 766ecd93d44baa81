"""The metrics of a worker as Prometheus reads them. Needs prometheus-client (extra ``metrics``)."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator

import django
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from django_outbox import __version__
from django_outbox.observability.backlog import Backlog
from django_outbox.observability.counters import Histogram
from django_outbox.observability.metrics import Metrics
from django_outbox.worker.state import WorkerState

COUNTERS = {
    "published": "Messages that the broker has acknowledged.",
    "consumed": "Messages that have been handled.",
    "failed": "Failures that count: of a message to be sent, or of its handler.",
    "retried": "Failures after which the message is tried again.",
    "dead": "Messages that were given up: at their last failure, or at once.",
}


def registry_of(metrics: Metrics, backlog: Backlog, worker_state: WorkerState) -> CollectorRegistry:
    """A registry of this worker's own, with the numbers of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OutboxCollector(metrics, backlog, worker_state))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> Callable[[str], tuple[str, bytes]]:
    """What answers a scrape: from its ``Accept`` header to content type and body."""

    def answer(accept: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)

    return answer


class OutboxCollector(Collector):
    """Reads a worker's numbers when Prometheus asks for them."""

    def __init__(
        self, metrics: Metrics, backlog: Backlog, worker_state: WorkerState, clock: Callable[[], float] = time.time
    ) -> None:
        self._metrics = metrics
        self._backlog = backlog
        self._worker_state = worker_state
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        yield from self._unfinished()

    def _counters(self) -> Iterator[Metric]:
        for name, counters in self._metrics.counters.items():
            family = CounterMetricFamily(f"django_outbox_{name}", COUNTERS[name], labels=("topic", "event_type"))
            for labels, number in counters.read().items():
                family.add_metric(labels, number)
            yield family

    def _histograms(self) -> Iterator[Metric]:
        metrics = self._metrics
        if "published" in metrics.counters:
            yield _histogram(
                "publish_duration_seconds",
                "How long the broker took to acknowledge a batch.",
                (),
                metrics.publish_seconds,
            )
            yield _histogram(
                "publish_latency_seconds",
                "From the writing of a message to its acknowledgement by the broker.",
                ("topic",),
                metrics.seconds_to_published,
            )
        else:
            yield _histogram(
                "handler_duration_seconds",
                "How long a handler ran, whether it succeeded or not.",
                ("event_type", "handler"),
                metrics.handler_seconds,
            )
            yield _histogram(
                "end_to_end_latency_seconds",
                "From the writing of a message to the commit of its handlers, retries included.",
                ("topic",),
                metrics.seconds_to_consumed,
            )

    def _gauges(self) -> Iterator[Metric]:
        worker_state = self._worker_state
        yield _gauge("broker_up", "Whether the broker was there when it was last needed.", worker_state.reaches_broker)
        yield _gauge(
            "database_up", "Whether the database was there when it was last needed.", worker_state.reaches_database
        )
        yield _gauge(
            "last_turn_timestamp_seconds",
            "When the worker's loop last went on, in seconds since 1970.",
            self._clock() - worker_state.seconds_without_progress,
        )
        build = {"version": __version__, "django": django.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("django_outbox_build", "What runs here.", value={**build, "worker": worker_state.kind})

    def _unfinished(self) -> Iterator[Metric]:
        messages = GaugeMetricFamily(
            "django_outbox_messages",
            "Unfinished messages in the database, counted up to a million.",
            labels=("box", "status"),
        )
        oldest = GaugeMetricFamily(
            "django_outbox_oldest_pending_age_seconds",
            "Since the oldest pending message was written, be it that it is not due yet.",
            labels=("box",),
        )
        overdue = GaugeMetricFamily(
            "django_outbox_overdue_seconds",
            "How long the message that has been due for longest waits already.",
            labels=("box",),
        )
        awaited = GaugeMetricFamily(
            "django_outbox_awaited_seconds",
            "How long ago the published message was sent that has waited for its handler here for longest.",
            labels=(),
        )
        for box, unfinished in self._backlog.read().items():
            for status, count in unfinished.counts.items():
                messages.add_metric((box, status), count)
            oldest.add_metric((box,), unfinished.oldest)
            overdue.add_metric((box,), unfinished.overdue)
            if box == "outbox":
                awaited.add_metric((), unfinished.awaited)
        yield from (messages, oldest, overdue, awaited)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"django_outbox_{name}", text, value=float(value))


def _histogram(name: str, text: str, labels: tuple[str, ...], histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"django_outbox_{name}", text, labels=labels)
    for values, buckets, total in histogram.read():
        family.add_metric(values, [(_bound(bound), count) for bound, count in buckets], total)
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))
