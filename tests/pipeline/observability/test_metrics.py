"""Metrics: every message counted once, after the commit, under labels that no stranger can multiply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from django_outbox.brokers.base import Failed, Record, Refused, SendResult
from django_outbox.events.event import Event
from django_outbox.events.writer import Outgoing
from django_outbox.exceptions import Reject
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.observability.backlog import Backlog, Unfinished
from django_outbox.observability.instrumentation import observed_by
from django_outbox.observability.metrics import MOST_LABELS, Counters, Histogram, Metrics
from django_outbox.observability.prometheus import exposition, registry_of
from django_outbox.relay.relay import Relay
from django_outbox.state.slot import Slot
from django_outbox.worker.state import WorkerState
from tests.support.clock import Clock
from tests.support.inbox import Receiver, plain, received
from tests.support.outbox import Pipeline, ScriptedBroker, make_due, make_message
from tests.support.overrides import outbox_settings

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)


def outgoing(event_type: str = "order.created", topic: str = "outbox", key: str = "") -> Outgoing:
    return Outgoing(1, "tests", "id", event_type, "v1", topic, key, "{}", WRITTEN, 0, "{}")


def backlog(found: dict[str, Unfinished] | None = None) -> Backlog:
    return Backlog("default", lambda using: found or {})


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape brings, by name and labels."""
    _, body = exposition(registry, "")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


class Watched:
    """What a pipeline's relay and consumer count."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.of_relay = Metrics()
        self.of_consumer = Metrics(known_types=pipeline.consumer.handlers.types)
        pipeline.consumer.handlers.replace_each(self.of_consumer.timed)
        self.pipeline = pipeline

    def turn(self) -> None:
        with observed_by(self.of_relay):
            self.pipeline.relay.run_once()
        with observed_by(self.of_consumer):
            self.pipeline.consumer.run_once()

    def read(self, name: str) -> float:
        """The sum of a series over all labels, in both."""
        registries = [
            registry_of(metrics, backlog(), WorkerState("relay")) for metrics in (self.of_relay, self.of_consumer)
        ]
        return sum(value for each in registries for (found, _), value in samples(each).items() if found == name)


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return Pipeline(steady=request.param)


# What is counted


@pytest.mark.django_db(transaction=True)
def test_each_message_is_counted_once_on_its_way(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    watched = Watched(pipeline)
    for _ in range(7):
        make_message()
    watched.turn()
    watched.turn()

    assert watched.read("django_outbox_published_total") == 7
    assert watched.read("django_outbox_consumed_total") == 7
    assert watched.read("django_outbox_publish_latency_seconds_count") == 7
    assert watched.read("django_outbox_end_to_end_latency_seconds_count") == 7
    assert watched.read("django_outbox_handler_duration_seconds_count") == 7
    assert watched.read("django_outbox_publish_duration_seconds_count") == 1


@pytest.mark.django_db(transaction=True)
def test_failures_retries_and_dead_letters_are_counted_apart(pipeline: Pipeline) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError

    def rejects(event: Event) -> None:
        raise Reject("never")

    pipeline.on("order.created", fails)
    pipeline.on("order.paid", rejects)
    watched = Watched(pipeline)
    failing = make_message(max_retry=3)
    make_message(event_type="order.paid")
    for _ in range(3):
        watched.turn()
        make_due(failing)

    assert watched.read("django_outbox_failed_total") == 3
    assert watched.read("django_outbox_retried_total") == 2
    assert watched.read("django_outbox_dead_total") == 2
    assert watched.read("django_outbox_consumed_total") == 0


@pytest.mark.django_db(transaction=True)
def test_what_is_put_back_without_a_failure_is_counted_by_its_reason(pipeline: Pipeline) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError

    pipeline.on("order.created", fails)
    watched = Watched(pipeline)
    for _ in range(3):
        make_message(message_key="a")
    watched.turn()

    assert watched.read("django_outbox_failed_total") == 1
    registry = registry_of(watched.of_consumer, backlog(), WorkerState("relay"))
    found = {
        labels: value for (name, labels), value in samples(registry).items() if name == "django_outbox_requeued_total"
    }
    assert {dict(labels)["reason"]: value for labels, value in found.items()} == {
        "order": 2,
        "paused": 0,
        "database": 0,
        "lost": 0,
    }


@pytest.mark.django_db(transaction=True)
def test_what_the_relay_could_not_send_is_counted() -> None:
    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [Refused("too large"), Failed("no room"), Failed("no room"), *outcomes[3:]]

    for fields in ({}, {"max_retry": 5}, {"max_retry": 1}, {}):
        make_message(**fields)
    metrics = Metrics()
    with observed_by(metrics):
        Relay(ScriptedBroker(answer), using="default").run_once()

    counted = {name: sum(counters.read().values()) for name, counters in metrics.counters.items()}
    assert counted == {"published": 1, "failed": 2, "retried": 1, "dead": 2}


@pytest.mark.django_db(transaction=True)
def test_events_of_other_services_are_counted_and_measured_from_when_they_were_written() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    metrics = Metrics(known_types={"order.created"})
    an_hour_ago = (timezone.now() - timedelta(hours=1)).isoformat()
    with observed_by(metrics):
        receiver.receive(received(1, time=an_hour_ago), received(2))

    assert metrics.counters["consumed"].read() == {("elsewhere", "order.created"): 2}
    ((labels, buckets, total),) = metrics.seconds_to_consumed.read()
    assert labels == ("elsewhere",)
    assert buckets[-1][1] == 1, "one says nothing of its time"
    assert total == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    "written", [WRITTEN, WRITTEN.isoformat(), "2026-01-01T00:00:00Z", WRITTEN + timedelta(hours=5)]
)
def test_latency_is_the_time_since_the_message_was_written_and_never_negative(written: Any) -> None:
    metrics = Metrics(clock=lambda: WRITTEN.timestamp() + 2)
    metrics.published([outgoing()._replace(created_at=written)], 0.5)

    ((_, _, total),) = metrics.seconds_to_published.read()
    assert total == (0 if isinstance(written, datetime) and written > WRITTEN else 2)
    ((_, _, total),) = metrics.publish_seconds.read()
    assert total == 0.5


def test_a_handler_is_measured_even_if_it_raises() -> None:
    metrics = Metrics(known_types={"order.created"})
    receiver = Receiver()
    receiver.on("order.created", lambda event: 1 / 0)
    (handler,) = receiver.handlers.for_group("tests")

    with pytest.raises(ZeroDivisionError):
        metrics.timed(handler)(Event(type="order.created"))

    ((labels, buckets, _),) = metrics.handler_seconds.read()
    assert labels == ("order.created", handler.name)
    assert buckets[-1][1] == 1


# Labels


def test_no_label_comes_from_a_key() -> None:
    metrics = Metrics()
    metrics.published([outgoing(key=f"customer-{number}") for number in range(1000)], 1.0)
    _, body = exposition(registry_of(metrics, backlog(), WorkerState("relay")), "")
    assert metrics.counters["published"].read() == {("outbox", "order.created"): 1000}
    assert b"customer" not in body


def test_event_types_without_end_are_others() -> None:
    metrics = Metrics()
    metrics.published([outgoing(f"order.{number}.created") for number in range(5000)], 1.0)
    metrics.published([outgoing("order.1.created")], 1.0)
    counted = metrics.counters["published"].read()
    assert len(counted) == MOST_LABELS + 1
    assert sum(counted.values()) == 5001
    assert counted["outbox", "order.1.created"] == 2
    assert counted["other", "other"] == 5000 - MOST_LABELS
    assert {len(counters.read()) for counters in metrics.counters.values()} <= {MOST_LABELS, MOST_LABELS + 1}


def test_topics_without_end_are_others() -> None:
    metrics = Metrics()
    metrics.published([outgoing(topic=f"topic-{number}") for number in range(5000)], 1.0)
    assert len(list(metrics.seconds_to_published.read())) == MOST_LABELS + 1


@pytest.mark.django_db(transaction=True)
def test_what_strangers_call_their_events_is_no_label() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    metrics = Metrics(known_types=GroupHandlers(receiver.handlers, receiver.group).types)
    with observed_by(metrics), outbox_settings(UNKNOWN_EVENT="dead"):
        for number in range(300):
            receiver.receive(received(1, type=f"forged.{number}"))
        receiver.receive(plain(b"nonsense", headers=[("ce_type", b"forged.too")]))
        receiver.receive(received(1))

    assert metrics.counters["dead"].read() == {("elsewhere", "other"): 301, ("elsewhere", "order.created"): 0}
    labels = {labels for counters in metrics.counters.values() for labels in counters.read()}
    assert labels == {("elsewhere", "other"), ("elsewhere", "order.created")}


def test_a_pair_starts_from_nothing_in_all_counters_so_that_its_first_failure_is_seen() -> None:
    metrics = Metrics()
    metrics.published([outgoing()], 1.0)
    assert metrics.counters["dead"].read() == {("outbox", "order.created"): 0}


# Numbers


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram([1, 5])
    histogram.add(("a",), [0.5, 1, 1.1, 5, 100])
    histogram.add(("a",), [2])
    ((labels, buckets, total),) = histogram.read()
    assert labels == ("a",)
    assert buckets == [(1, 2), (5, 5), (float("inf"), 6)]
    assert total == pytest.approx(109.6)


def test_counters_add_up() -> None:
    counters = Counters()
    counters.add(("a",), 1)
    counters.add(("b",), 2)
    counters.add(("a",), 3)
    assert counters.read() == {("a",): 4, ("b",): 2}


# What Prometheus reads


@pytest.fixture
def worker_state() -> WorkerState:
    return WorkerState("relay", clock=lambda: 0.0)


def test_gauges_say_what_the_loop_and_the_database_say(worker_state: WorkerState) -> None:
    found = {
        "outbox": Unfinished({"pending": 3, "published": 2, "dead": 1}, oldest=12.5, overdue=4.0, awaited=7.0),
        "inbox": Unfinished({"pending": 0, "dead": 0}, oldest=0.0, overdue=0.0),
    }
    registry = registry_of(Metrics(), backlog(found), worker_state)
    before = samples(registry)
    assert (before["django_outbox_broker_up", ()], before["django_outbox_database_up", ()]) == (0, 1), "at the start"
    worker_state.record_round()
    worker_state.record_fault("The broker: away", is_broker=True)

    read = samples(registry)

    assert read["django_outbox_broker_up", ()] == 0
    assert read["django_outbox_database_up", ()] == 1
    worker_state.record_round()
    assert samples(registry)["django_outbox_broker_up", ()] == 1
    assert read["django_outbox_messages", (("box", "outbox"), ("status", "pending"))] == 3
    assert read["django_outbox_messages", (("box", "outbox"), ("status", "dead"))] == 1
    assert read["django_outbox_oldest_pending_age_seconds", (("box", "outbox"),)] == 12.5
    assert read["django_outbox_overdue_seconds", (("box", "outbox"),)] == 4
    assert read["django_outbox_awaited_seconds", ()] == 7
    (build,) = [dict(labels) for name, labels in read if name == "django_outbox_build_info"]
    assert build["version"]
    assert build["worker"] == "relay"


def test_gauges_of_the_slot_are_there_with_debezium_only(worker_state: WorkerState) -> None:
    plain = {"outbox": Unfinished({}, oldest=0.0, overdue=0.0)}
    assert not [name for name, _ in samples(registry_of(Metrics(), backlog(plain), worker_state)) if "slot" in name]

    slot = Slot("outbox", True, True, "reserved", lag_bytes=10, lag_seconds=2.5, retained_bytes=30)
    read = samples(registry_of(Metrics(), backlog({"outbox": replace(plain["outbox"], slot=slot)}), worker_state))
    assert {name: value for (name, _), value in read.items() if "slot" in name} == {
        "django_outbox_slot_active": 1,
        "django_outbox_slot_lost": 0,
        "django_outbox_slot_lag_bytes": 10,
        "django_outbox_slot_lag_seconds": 2.5,
        "django_outbox_slot_retained_bytes": 30,
    }


@pytest.mark.parametrize("slot", [Slot("outbox"), Slot("outbox", True, False, "lost")])
def test_a_slot_that_is_lost_has_a_gauge(worker_state: WorkerState, slot: Slot) -> None:
    found = {"outbox": Unfinished({}, oldest=0.0, overdue=0.0, slot=slot)}
    read = samples(registry_of(Metrics(), backlog(found), worker_state))
    assert (read["django_outbox_slot_active", ()], read["django_outbox_slot_lost", ()]) == (0, 1)
    assert ("django_outbox_slot_lag_bytes", ()) not in read


def test_one_worker_s_numbers_are_not_another_s(worker_state: WorkerState) -> None:
    one, other = Metrics(), Metrics()
    registries = [registry_of(metrics, backlog(), worker_state) for metrics in (one, other)]
    one.published([outgoing()], 1.0)
    name = "django_outbox_published_total", (("event_type", "order.created"), ("topic", "outbox"))
    assert samples(registries[0])[name] == 1
    assert name not in samples(registries[1])


def test_labels_are_escaped(worker_state: WorkerState) -> None:
    metrics = Metrics()
    metrics.published([outgoing('a"b\nc\\d')], 1.0)
    names = {
        labels
        for name, labels in samples(registry_of(metrics, backlog(), worker_state))
        if name.endswith("published_total")
    }
    assert (("event_type", 'a"b\nc\\d'), ("topic", "outbox")) in names


def test_openmetrics_is_spoken_to_those_who_ask_for_it(worker_state: WorkerState) -> None:
    registry = registry_of(Metrics(), backlog(), worker_state)
    content_type, body = exposition(registry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_lanes_of_a_consumer_are_shown_with_what_they_handle(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=16)
    registry = registry_of(Metrics(known_types=()), backlog(), state)

    def read() -> list[float]:
        names = ("lanes", "busy_lanes", "in_progress_messages", "oldest_in_progress_age_seconds")
        found = samples(registry)
        return [found[f"django_outbox_{name}", ()] for name in names]

    assert read() == [16, 0, 0, 0]
    with state.handling(2, "orders: 42", 3), state.handling(7, "", 4):
        clock.now += 30
        assert read() == [16, 2, 7, 30]


def test_a_relay_has_no_lanes() -> None:
    found = samples(registry_of(Metrics(), backlog(), WorkerState("relay")))
    assert not [name for name, _ in found if "lanes" in name or "in_progress" in name]
