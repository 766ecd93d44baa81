"""The metrics of a worker in Prometheus' format. Needs prometheus-client (extra ``metrics``)."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
from django_outbox.models import Worker
from django_outbox.observability.backlog import Backlog
from django_outbox.observability.metrics import Histogram, Metrics
from django_outbox.state.slot import Slot
from django_outbox.worker.state import WorkerState

COUNTERS = {
    "published": "Messages acknowledged by the broker.",
    "consumed": "Messages handled.",
    "failed": "Counted failures of sending a message or of its handler.",
    "retried": "Failures after which the message is retried.",
    "dead": "Messages that became dead, after their last failure or at once.",
}


def registry_of(metrics: Metrics, backlog: Backlog, worker_state: WorkerState) -> CollectorRegistry:
    """A registry for this worker, including process metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OutboxCollector(metrics, backlog, worker_state))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """The content type and the body that answer a scrape with this ``Accept`` header."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


@dataclass(eq=False)  # hashable
class OutboxCollector(Collector):
    """Collects the metrics of a worker on each scrape."""

    metrics: Metrics
    backlog: Backlog
    worker_state: WorkerState

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        yield from self._unfinished()

    def _counters(self) -> Iterator[Metric]:
        for name, counters in self.metrics.counters.items():
            family = CounterMetricFamily(f"django_outbox_{name}", COUNTERS[name], labels=("topic", "event_type"))
            for labels, number in counters.read().items():
                family.add_metric(labels, number)
            yield family
        if "consumed" in self.metrics.counters:
            text = "Messages that no handler failed on, and that the relay sends again."
            family = CounterMetricFamily("django_outbox_requeued", text, labels=("reason",))
            for labels, number in self.metrics.requeued.read().items():
                family.add_metric(labels, number)
            yield family

    def _histograms(self) -> Iterator[Metric]:
        metrics = self.metrics
        if "published" in metrics.counters:
            text = "How long the broker took to acknowledge a batch."
            yield _histogram("publish_duration_seconds", text, (), metrics.publish_seconds)
            text = "From writing a message to its acknowledgement by the broker."
            yield _histogram("publish_latency_seconds", text, ("topic",), metrics.seconds_to_published)
        else:
            text = "How long a handler ran, whether it succeeded or not."
            yield _histogram("handler_duration_seconds", text, ("event_type", "handler"), metrics.handler_seconds)
            text = "From writing a message to the commit of its handlers, including retries."
            yield _histogram("end_to_end_latency_seconds", text, ("topic",), metrics.seconds_to_consumed)

    def _gauges(self) -> Iterator[Metric]:
        state = self.worker_state
        yield _gauge("broker_up", "Whether the broker answered when last needed.", state.reaches_broker)
        yield _gauge("database_up", "Whether the database answered when last needed.", state.reaches_database)
        if state.kind == Worker.Kind.CONSUMER:
            busy = state.busy
            yield _gauge("lanes", "Messages that this consumer handles at the same time.", state.lanes)
            yield _gauge("busy_lanes", "Lanes that are handling messages.", busy.lanes)
            yield _gauge("in_progress_messages", "Messages that lanes are handling.", busy.messages)
            text = "How long the longest busy lane has been handling the same messages."
            yield _gauge("oldest_in_progress_age_seconds", text, busy.seconds or 0.0)
        turn_at = time.time() - state.seconds_without_progress
        yield _gauge("last_turn_timestamp_seconds", "Time of the last loop iteration, in seconds since 1970.", turn_at)
        versions = {"version": __version__, "django": django.__version__, "python": platform.python_version()}
        value = {**versions, "worker": state.kind}
        yield InfoMetricFamily("django_outbox_build", "Versions of this worker.", value=value)

    def _unfinished(self) -> Iterator[Metric]:
        text = "Unfinished messages in the database, counted up to a million."
        messages = GaugeMetricFamily("django_outbox_messages", text, labels=("box", "status"))
        text = "Age of the oldest pending message, due or not."
        oldest = GaugeMetricFamily("django_outbox_oldest_pending_age_seconds", text, labels=("box",))
        text = "Age of the most overdue message."
        overdue = GaugeMetricFamily("django_outbox_overdue_seconds", text, labels=("box",))
        text = "How long ago the published message was sent that has waited longest for its handler here."
        awaited = GaugeMetricFamily("django_outbox_awaited_seconds", text, labels=())
        text = "Messages that wait for the end of a pause."
        paused = GaugeMetricFamily("django_outbox_paused_messages", text, labels=("box",))
        for box, unfinished in self.backlog.read().items():
            for status, count in unfinished.counts.items():
                messages.add_metric((box, status), count)
            oldest.add_metric((box,), unfinished.oldest)
            overdue.add_metric((box,), unfinished.overdue)
            paused.add_metric((box,), unfinished.paused)
            if box == "outbox":
                awaited.add_metric((), unfinished.awaited)
            if unfinished.slot is not None:
                yield from _slot(unfinished.slot)
        yield from (messages, oldest, overdue, awaited, paused)


def _slot(slot: Slot) -> Iterator[Metric]:
    yield _gauge("slot_active", "Whether Debezium reads its replication slot.", slot.active)
    yield _gauge("slot_lost", "Whether the slot does not exist, or lacks WAL that it needs.", slot.is_lost)
    numbers = {
        "slot_lag_bytes": ("WAL that Debezium has not confirmed.", slot.lag_bytes),
        "slot_lag_seconds": ("How long ago that was written, or since when nothing reads the slot.", slot.lag_seconds),
        "slot_retained_bytes": ("WAL that the server keeps for the slot.", slot.retained_bytes),
    }
    for name, (text, number) in numbers.items():
        if number is not None:
            yield _gauge(name, text, number)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"django_outbox_{name}", text, value=float(value))


def _histogram(name: str, text: str, labels: tuple[str, ...], histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"django_outbox_{name}", text, labels=labels)
    for values, buckets, total in histogram.read():
        bounds = [("+Inf" if bound == float("inf") else str(float(bound)), count) for bound, count in buckets]
        family.add_metric(values, bounds, total)
    return family
