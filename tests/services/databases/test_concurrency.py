"""A consumer with several lanes: messages are handled side by side, those of one key one after the other."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections, transaction
from django.db.models import F

from django_outbox import Reject
from django_outbox.brokers.base import TopicPartition
from django_outbox.events.event import Event
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state import outbox as state
from django_outbox.worker.stop import Stop
from tests.support.effects import effect_of_payload, effects, effects_of_payloads
from tests.support.inbox import make_received, received
from tests.support.outbox import Pipeline, in_thread, make_message, put, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.registry import stub_registry
from tests.support.serializing import ORDER, avro_settings, avro_value

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.databases("postgresql", "mariadb", "mysql")]

LANES = 8
WAIT = 120  # seconds, of which a passing test uses almost none


class Gate:
    """A handler that waits for chosen payloads until the test opens it."""

    def __init__(self, *payloads: Any) -> None:
        self.payloads = payloads
        self.running: set[Any] = set()
        self._open = threading.Event()

    def __call__(self, event: Event) -> None:
        effect_of_payload(event)
        if event.payload in self.payloads:
            self.running.add(event.payload)
            assert self._open.wait(WAIT)
            self.running.discard(event.payload)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    pipeline = Pipeline(concurrency=LANES, steady=True)
    yield pipeline
    pipeline.consumer.close()


def publish(*payloads: Any, key: str | None = None) -> list[OutboxMessage]:
    """One message per payload; its key is the payload unless named."""
    return [make_message(payload=each, message_key=str(each) if key is None else key) for each in payloads]


@contextmanager
def running(pipeline: Pipeline) -> Iterator[Stop]:
    """The relay has sent everything; the consumer runs within the block."""
    while pipeline.relay.run_once().moved:
        pass
    with closing(Stop()) as stop, in_thread(lambda: pipeline.consumer.run(stop)):
        try:
            yield stop
        finally:
            stop.request()


def all_consumed() -> bool:
    return set(statuses()) == {"consumed"}


def committed(pipeline: Pipeline) -> int:
    """The offset that the group has committed in the only partition."""
    place = TopicPartition("outbox", 0)
    return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[place].committed or 0


@pytest.mark.parametrize("keyed", [True, False])
def test_messages_of_other_keys_and_without_keys_run_at_the_same_time(pipeline: Pipeline, keyed: bool) -> None:
    together = threading.Barrier(LANES)
    sessions = set()

    def handle(event: Event) -> None:
        sessions.add(id(connection.connection))
        together.wait(WAIT)

    pipeline.on("order.created", handle)
    for number in range(LANES):
        make_message(payload=number, message_key=str(number) if keyed else "")
    with running(pipeline):
        wait_until(all_consumed)
    assert len(sessions) == LANES


@pytest.mark.parametrize("wait", [0, 0.3])
def test_batch_handlers_get_their_lists_in_lanes(pipeline: Pipeline, wait: float) -> None:
    calls: list[list[Any]] = []

    def handle(events: list[Event]) -> None:
        calls.append([event.payload for event in events])
        effects_of_payloads(events)
        if bad := [event for event in events if event.payload % 50 == 7]:
            raise Reject("never", events=bad)

    pipeline.on("order.created", handle, batch=40, wait=wait)
    for number in range(200):
        make_message(payload=number, message_key=str(number % 90))
    with running(pipeline):
        wait_until(lambda: not {"pending", "published"} & set(statuses()))
    assert sorted(map(int, effects())) == [number for number in range(200) if number % 50 != 7]
    assert statuses() == ["dead" if number % 50 == 7 else "consumed" for number in range(200)]
    assert max(map(len, calls)) == 40
    of_key = [number for number in map(int, effects()) if number % 90 == 3]
    assert of_key == sorted(of_key)


def test_async_handlers_run_at_the_same_time(pipeline: Pipeline) -> None:
    together = threading.Barrier(LANES)

    async def handle(event: Event) -> None:
        await asyncio.get_running_loop().run_in_executor(None, together.wait, WAIT)

    pipeline.on("order.created", handle)
    publish(*range(LANES))
    with running(pipeline):
        wait_until(all_consumed)


def test_events_of_others_run_at_the_same_time_when_they_come_and_when_they_are_due() -> None:
    with outbox_settings(SOURCE="shipping"):
        pipeline = Pipeline(concurrency=2, topics=["elsewhere"], steady=True)
        together = threading.Barrier(2)
        pipeline.on("order.created", lambda event: together.wait(WAIT))
        for number in range(2):
            make_received(message_key=f"stored {number}", event_type="order.created", group=pipeline.consumer.group)
        pipeline.consumer.inbox_due_at = 0.0
        for number in range(2):
            put(pipeline.broker, received(number, key=f"fresh {number}"))
        with running(pipeline):
            wait_until(lambda: list(InboxMessage.objects.values_list("status", flat=True)) == ["consumed"] * 4)


def test_a_key_is_in_one_lane_at_a_time_and_in_order_whatever_fails(pipeline: Pipeline) -> None:
    running_now: dict[str, int] = defaultdict(int)
    lock = threading.Lock()
    failed: set[Any] = set()
    overlaps: list[Any] = []

    def handle(event: Event) -> None:
        with lock:
            running_now[event.key] += 1
            if running_now[event.key] > 1:
                overlaps.append(event.payload)
        try:
            effect_of_payload(event)
            if event.payload % 7 == 0 and event.payload not in failed:
                failed.add(event.payload)
                raise ArithmeticError("boom")
        finally:
            with lock:
                running_now[event.key] -= 1

    pipeline.on("order.created", handle)
    for number in range(300):
        make_message(payload=number, message_key=str(number % 20))

    def finished() -> bool:
        OutboxMessage.objects.filter(status="pending").update(next_retry_at=F("created_at"))
        while pipeline.relay.run_once().moved:
            pass
        return all_consumed()

    with running(pipeline):
        wait_until(finished)

    assert sorted(effects(), key=int) == [str(number) for number in range(300)]
    for key in range(20):
        of_key = [int(each) for each in effects() if int(each) % 20 == key]
        assert of_key == sorted(of_key)
    assert (len(failed), overlaps) == (43, [])


def test_offsets_stay_before_the_first_unfinished_message(pipeline: Pipeline) -> None:
    gate = Gate(3)
    pipeline.on("order.created", gate)
    publish(*range(40))
    with running(pipeline):
        wait_until(lambda: committed(pipeline) == 3 and statuses().count("consumed") > 30)
        # Its lane may begin later than others: then it is the oldest once these have finished.
        wait_until(lambda: [each.key for each in pipeline.consumer.worker_state.in_progress[:1]] == ["outbox: 3"])
        gate.open()
        wait_until(lambda: committed(pipeline) == 40)
    assert all_consumed()


def test_a_stop_waits_for_what_runs_starts_nothing_else_and_commits(pipeline: Pipeline) -> None:
    gate = Gate(*range(LANES))
    pipeline.on("order.created", gate)
    publish(*range(LANES * 5))
    with running(pipeline) as stop:
        wait_until(lambda: gate.running == set(range(LANES)))
        stop.request()
        gate.open()
    assert statuses() == ["consumed"] * LANES + ["published"] * LANES * 4
    assert committed(pipeline) == LANES
    assert not [each for each in threading.enumerate() if each.name.startswith("outbox-lane-")]


def test_nothing_new_starts_on_partitions_that_are_taken_away() -> None:
    """The second member waits for the rows that are locked, and skips them."""
    pipeline = Pipeline(concurrency=2, steady=True)
    gate = Gate(0, 1)
    pipeline.on("order.created", gate)
    publish(*range(20))
    with running(pipeline):
        wait_until(lambda: gate.running == {0, 1})
        other = Pipeline(pipeline.broker, steady=True)
        other.handlers = pipeline.handlers
        place = TopicPartition("outbox", 0)
        pipeline.consumer.lanes.revoke({place})
        assert len(pipeline.consumer.lanes) == 0
        gate.open()
        wait_until(lambda: statuses().count("consumed") == 2)
    assert statuses() == ["consumed"] * 2 + ["published"] * 18
    assert committed(pipeline) == 0
    with running(other):
        wait_until(all_consumed)
    assert sorted(effects(), key=int) == [str(number) for number in range(20)]
    other.consumer.close()


def test_what_is_read_ahead_is_bounded() -> None:
    pipeline = Pipeline(concurrency=2, batch_size=10, steady=True)
    gate = Gate(*range(500))
    pipeline.on("order.created", gate)
    publish(*range(500))
    with running(pipeline):
        wait_until(lambda: not pipeline.consumer.lanes.room)
        assert not pipeline.consumer.lanes.full  # the only partition: pausing it would help no other
        assert len(pipeline.consumer.lanes) <= pipeline.consumer.lanes.read_ahead
        gate.open()
        wait_until(all_consumed)


def test_a_partition_with_a_stuck_message_is_paused_and_others_go_on() -> None:
    from tests.support.outbox import memory_broker

    pipeline = Pipeline(memory_broker(partitions=2), concurrency=2, batch_size=10)
    gate = Gate(0)
    pipeline.on("order.created", gate)
    pipeline.consumer.lanes.window = 100
    (stuck,) = publish(0)
    with running(pipeline):
        wait_until(lambda: gate.running == {0})  # alone in its transaction
        publish(*range(1, 600))
        while pipeline.relay.run_once().moved:
            pass
        place = TopicPartition("outbox", row(stuck).partition or 0)
        beside = OutboxMessage.objects.filter(partition=1 - place.partition)
        wait_until(lambda: set(beside.values_list("status", flat=True)) == {"consumed"})
        wait_until(lambda: pipeline.consumer.lanes.full == {place})
        gate.open()
        wait_until(all_consumed)


def test_a_hot_key_leaves_room_for_other_partitions() -> None:
    from tests.support.outbox import memory_broker

    pipeline = Pipeline(memory_broker(partitions=2), concurrency=2, batch_size=10, steady=True)
    gate = Gate(0)
    pipeline.on("order.created", gate)
    publish(*range(300), key="hot")
    with running(pipeline):
        wait_until(lambda: gate.running == {0})
        hot = OutboxMessage.objects.get(payload=0).partition
        publish(*range(1000, 1040))
        while pipeline.relay.run_once().moved:
            pass
        beside = OutboxMessage.objects.exclude(partition=hot)
        wait_until(lambda: set(beside.values_list("status", flat=True)) == {"consumed"})
        assert beside.exists()
        gate.open()
        wait_until(all_consumed)


def test_a_stored_message_that_hangs_keeps_no_other_waiting() -> None:
    with outbox_settings(SOURCE="shipping"):
        pipeline = Pipeline(concurrency=4, topics=["elsewhere"], steady=True)
        gate = Gate("hangs")
        pipeline.on("order.created", gate)
        group = pipeline.consumer.group
        make_received(message_key="a", payload="hangs", group=group)
        pipeline.consumer.inbox_due_at = 0.0
        with running(pipeline):
            wait_until(lambda: gate.running == {"hangs"})
            for number in range(5):
                make_received(message_key=f"b{number}", payload=number, group=group)
            others = InboxMessage.objects.exclude(message_key="a")
            wait_until(lambda: set(others.values_list("status", flat=True)) == {"consumed"})
            gate.open()


def test_records_that_wait_for_a_schema_registry_keep_no_lane_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry first leaves requests without an answer, then it is away."""
    monkeypatch.setattr("django_outbox.serializers.outage.BACKOFF_SECONDS", (0.01, 0.1))
    with stub_registry() as registry, outbox_settings(SERIALIZERS=avro_settings(registry.url)):
        pipeline = Pipeline(concurrency=2, topics=["elsewhere"])
        pipeline.on("order.created")
        subscriptions = []
        subscribe = pipeline.broker.subscribe
        pipeline.broker.subscribe = lambda *args: subscriptions.append(args) or subscribe(*args)

        def send_foreign(number: int, key: str, is_avro: bool) -> None:
            payload = {"order_id": number}
            record = received(payload, value=avro_value(payload) if is_avro else None, key=key)
            put(pipeline.broker, record)

        registry.hang()
        for number in range(40):
            send_foreign(number, f"a{number % 4}", is_avro=True)
            send_foreign(number + 100, f"b{number}", is_avro=False)
        with running(pipeline):
            wait_until(lambda: len(pipeline.handled) == 40)
            registry.go_away()
            registry.is_back.set()
            for number in range(40, 80):
                send_foreign(number + 100, f"b{number}", is_avro=False)
            wait_until(lambda: len(pipeline.handled) == 80 and InboxMessage.objects.count() == 80)
            assert InboxMessage.objects.count() == 80
            registry.register("elsewhere-value", ORDER)
            registry.come_back()
            wait_until(lambda: len(pipeline.handled) == 120)
        by_key = defaultdict(list)
        for event in pipeline.handled[80:]:
            by_key[event.key].append(event.payload["order_id"])
        assert by_key == {f"a{key}": list(range(key, 40, 4)) for key in range(4)}
        assert set(InboxMessage.objects.values_list("status", "retry_count")) == {("consumed", 0)}
        assert len(subscriptions) == 1
        pipeline.consumer.close()


def test_what_ends_with_the_consumer_is_counted(pipeline: Pipeline) -> None:
    gate = Gate(0)
    pipeline.on("order.created", gate)
    publish(0)
    with running(pipeline) as stop:
        wait_until(lambda: gate.running == {0})
        stop.request()
        gate.open()
    assert pipeline.consumer.worker_state.take_counts()["consumed"] == 1


def test_a_database_that_goes_away_costs_nothing_but_time(pipeline: Pipeline) -> None:
    """All sessions are ended again and again, whatever the lanes are doing."""
    pipeline.on("order.created", effect_of_payload)
    publish(*range(400))

    def end_sessions() -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            else:
                cursor.execute(
                    "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND db = database()"
                )
                for (id,) in cursor.fetchall():
                    with suppress(OperationalError):  # it has ended by itself meanwhile
                        cursor.execute(f"KILL {id}")

    with running(pipeline):
        for least in range(0, 300, 60):
            wait_until(lambda least=least: statuses().count("consumed") > least, timeout=120)  # type: ignore[misc]
            end_sessions()
        wait_until(all_consumed, timeout=120)
    assert sorted(effects(), key=int) == [str(number) for number in range(400)]
    assert {each.retry_count for each in OutboxMessage.objects.all()} == {0}


def test_an_error_that_no_message_causes_ends_the_consumer(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise SystemExit(3)

    pipeline.on("order.created", handle)
    publish(1)
    pipeline.relay.run_once()
    with closing(Stop()) as stop, pytest.raises(SystemExit):
        pipeline.consumer.run(stop)
    assert statuses() == ["published"]


def test_a_lane_that_hangs_is_no_progress_whatever_the_others_do(pipeline: Pipeline) -> None:
    gate = Gate(0)
    pipeline.on("order.created", gate)
    publish(0)
    state = pipeline.consumer.worker_state
    with running(pipeline):
        wait_until(lambda: gate.running == {0})
        seconds = state.seconds_without_progress
        publish(*range(1, 50))
        while pipeline.relay.run_once().moved:
            pass
        wait_until(lambda: statuses().count("consumed") == 49)
        wait_until(lambda: state.seconds_without_progress > seconds + 1)
        gate.open()
        wait_until(all_consumed)
        wait_until(lambda: state.seconds_without_progress < 1)


def test_logs_of_a_lane_name_it(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "django_outbox")

    def handle(event: Event) -> None:
        raise Reject("no")

    pipeline.on("order.created", handle)
    publish(1)
    with running(pipeline):
        wait_until(lambda: statuses() == ["dead"])
    (record,) = [each for each in caplog.records if getattr(each, "action", "") == "dead"]
    assert record.threadName == f"outbox-lane-{vars(record)['lane']}"


class Poison:
    """Handlers of which some payloads end the process, which takes down what runs beside them."""

    def __init__(self) -> None:
        self.running: set[Any] = set()
        self.beside: set[Any] = set()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.running.add(event.payload)
            if "poison" in self.running:
                self.beside |= self.running
        effect_of_payload(event)
        with self._lock:
            self.running.discard(event.payload)


def test_after_a_start_a_message_that_was_in_progress_at_a_kill_runs_alone() -> None:
    pipeline = Pipeline(concurrency=LANES)
    poison = Poison()
    pipeline.on("order.created", poison)
    publish(*range(30))
    publish("poison")
    publish(*range(30, 60))
    OutboxMessage.objects.filter(payload="poison").update(delivery_count=1)
    with running(pipeline):
        wait_until(all_consumed)
    assert poison.beside == {"poison"}
    assert {each.delivery_count for each in OutboxMessage.objects.exclude(payload="poison")} == {1}
    assert OutboxMessage.objects.get(payload="poison").delivery_count == 2
    pipeline.consumer.close()


def test_counts_are_not_taken_back_of_messages_that_another_consumer_handles_or_that_were_sent_again(
    pipeline: Pipeline,
) -> None:
    publish(*range(3))
    pipeline.relay.run_once()
    rows = OutboxMessage.objects.order_by("id")
    rows.update(delivery_count=2)
    locked, _, sent_again = rows
    deliveries = [
        state.Delivery(each.id, each.publish_count - (each == sent_again), each.topic, each.partition, each.offset)
        for each in rows
    ]
    with transaction.atomic():
        state.lock([locked.id], using="default")
        with in_thread(lambda: state.uncount_deliveries(deliveries, using="default")):
            pass  # it ends although the row is locked
    assert list(rows.values_list("delivery_count", flat=True)) == [2, 1, 2]


def test_after_a_start_messages_that_arrive_one_at_a_time_run_at_the_same_time() -> None:
    pipeline = Pipeline(concurrency=LANES)
    gate = Gate(0, 1)
    pipeline.on("order.created", gate)
    publish(0)
    with running(pipeline):
        wait_until(lambda: gate.running == {0})
        publish(1)
        while pipeline.relay.run_once().moved:
            pass
        wait_until(lambda: gate.running == {0, 1})
        gate.open()
        wait_until(all_consumed)
    pipeline.consumer.close()


def test_with_one_delivery_allowed_all_first_messages_run_alone() -> None:
    with outbox_settings(MAX_DELIVERIES=1):
        pipeline = Pipeline(concurrency=LANES)
        most: list[int] = []
        running_now: set[Any] = set()

        def handle(event: Event) -> None:
            running_now.add(event.payload)
            most.append(len(running_now))
            effect_of_payload(event)
            running_now.discard(event.payload)

        pipeline.on("order.created", handle)
        publish(*range(30))
        with running(pipeline):
            wait_until(all_consumed)
        assert max(most) == 1
        pipeline.consumer.close()


def test_a_drain_waits_for_all_lanes(pipeline: Pipeline) -> None:
    rejected = {"5"}

    def handle(event: Event) -> None:
        if str(event.payload) in rejected:
            raise Reject("no")
        effect_of_payload(event)

    pipeline.on("order.created", handle)
    publish(*range(200))
    while pipeline.relay.run_once().moved:
        pass
    with closing(Stop()) as stop:
        pipeline.consumer.run(stop, drain=True)
    assert sorted(statuses()) == ["consumed"] * 199 + ["dead"]
    assert committed(pipeline) == 200


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("pool", [{"max_size": LANES + 2}, {"min_size": LANES + 2}])
def test_it_works_with_a_pool_of_connections(settings: Any, pool: dict[str, int]) -> None:
    pytest.importorskip("psycopg_pool")
    with pooled(pool):
        pipeline = Pipeline(concurrency=LANES, steady=True)
        pipeline.on("order.created", effect_of_payload)
        publish(*range(100))
        with running(pipeline):
            wait_until(all_consumed)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("pool", [True, {"max_size": LANES + 1}])
def test_a_pool_that_is_too_small_is_refused(pool: Any) -> None:
    with pooled(pool), pytest.raises(ImproperlyConfigured, match="CONCURRENCY 8 needs 10 connections"):
        Pipeline(concurrency=LANES).consumer  # noqa: B018


@contextmanager
def pooled(pool: Any) -> Iterator[None]:
    """Connections of this process come from a pool."""
    options = connection.settings_dict["OPTIONS"]
    connection.close()
    connection.settings_dict["OPTIONS"] = {**options, "pool": pool}
    connection.settings_dict["CONN_MAX_AGE"], before = 0, connection.settings_dict["CONN_MAX_AGE"]
    try:
        yield
    finally:
        connections.close_all()
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL only
        connection.settings_dict["OPTIONS"] = options
        connection.settings_dict["CONN_MAX_AGE"] = before
