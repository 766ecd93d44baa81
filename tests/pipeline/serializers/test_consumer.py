"""While a schema registry is away, a consumer stays in its group and handles everything that does not need it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from django_outbox import Event
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer import in_hand
from django_outbox.exceptions import MessagesLeft
from django_outbox.models import InboxMessage
from django_outbox.observability.health import readiness
from django_outbox.worker.stop import Stop
from tests.support.inbox import plain, received
from tests.support.outbox import Pipeline, Status, make_message, put
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.registry import StubRegistry
from tests.support.serializing import ORDER, avro_settings, avro_value

pytestmark = pytest.mark.django_db

TOPICS = ["outbox", "orders", "mapped"]


def avro(number: int, key: str = "a", topic: str = "orders") -> ReceivedRecord:
    return received(value=avro_value({"order_id": number}), key=key, topic=topic)


def foreign(number: int, key: str = "a", topic: str = "orders") -> ReceivedRecord:
    """One that needs no schema."""
    return received({"order_id": number}, key=key, topic=topic)


class Scene(Pipeline):
    """A pipeline whose consumer joins its group once, in each of its processes."""

    joined = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(topics=TOPICS, **options)
        self.on("order.created")
        self.on("own")
        subscribe = self.broker.subscribe

        def count(topics: Any, group: str) -> Any:
            self.joined += 1
            return subscribe(topics, group)

        self.broker.subscribe = count  # type: ignore[method-assign]
        self.broker.missing_topics(TOPICS)

    def send(self, *records: ReceivedRecord) -> None:
        put(self.broker, *records)

    def run_until(self, numbers: Sequence[int]) -> None:
        """Run until the events with these numbers, and no others, are handled."""

        def are_handled() -> bool:
            self.consumer.run_once()
            return len(self.handled) >= len(numbers)

        wait_until(are_handled, 30, what="the events")
        assert sorted(self.numbers) == list(numbers)

    @property
    def numbers(self) -> list[int]:
        return [event.payload["order_id"] for event in self.handled]

    @property
    def committed(self) -> dict[str, int | None]:
        """By topic, the next offset to read."""
        progress = self.broker.progress(TOPICS, self.consumer.group)
        return {place.topic: each.committed for place, each in progress.items()}


@pytest.fixture
def scene(registry: StubRegistry) -> Iterator[Scene]:
    mapper = lambda record: Event(type="order.created", payload=record.value)  # noqa: E731
    with outbox_settings(INBOX={"mapped": mapper}):
        scene = Scene()
        yield scene
        scene.consumer.close()


@pytest.mark.parametrize("steady", [False, True])
def test_others_go_on_and_the_order_of_keys_stays(registry: StubRegistry, steady: bool) -> None:
    registry.go_away()
    scene = Scene(steady=steady)
    scene.send(avro(1), foreign(2), avro(3), foreign(4, key="b"), foreign(5, topic="outbox"))
    make_message(event_type="own", payload={"order_id": 6}, topic="orders")
    scene.relay.run_once()

    scene.run_until([4, 5, 6])
    for _ in range(20):
        scene.consumer.run_once()
    assert sorted(scene.numbers) == [4, 5, 6]
    assert InboxMessage.objects.filter(topic="orders").count() == 1
    assert scene.committed["orders"] in (None, 0)
    assert scene.joined == 1

    registry.come_back()
    registry.register("orders-value", ORDER)
    scene.run_until([1, 2, 3, 4, 5, 6])
    assert scene.numbers[3:] == [1, 2, 3]
    assert scene.joined == 1
    scene.consumer.run_once()
    assert scene.committed["orders"] == 5
    scene.consumer.close()


def test_a_consumer_that_restarts_reads_what_waited_again(registry: StubRegistry, scene: Scene) -> None:
    registry.go_away()
    scene.send(avro(1), avro(2), foreign(3, key="b"))
    scene.run_until([3])

    scene.restart_consumer()
    registry.come_back()
    registry.register("orders-value", ORDER)

    scene.run_until([1, 2, 3])
    assert scene.numbers == [3, 1, 2]


def test_records_of_a_mapper_are_not_counted_by_processes_that_meet_the_outage(
    registry: StubRegistry, scene: Scene
) -> None:
    registry.go_away()
    scene.send(*[plain(avro_value({"order_id": number}), topic="mapped") for number in (1, 2)])
    for _ in range(7):  # more processes than MAX_DELIVERIES
        for _ in range(3):
            scene.consumer.run_once()
        scene.restart_consumer()
    assert set(InboxMessage.objects.values_list("status", "delivery_count")) == {(Status.PENDING, 0)}

    registry.come_back()
    registry.register("mapped-value", ORDER)

    scene.run_until([1, 2])
    assert scene.numbers == [1, 2]


def test_a_registry_that_hangs_delays_neither_others_nor_the_end(registry: StubRegistry, scene: Scene) -> None:
    """Each request would wait for ten minutes."""
    registry.hang()
    options = {"url": registry.url, "max.retries": 0, "timeout": 600}
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, registry=options)):
        scene.send(avro(1), foreign(2, key="b"), foreign(3, topic="outbox"))
        scene.run_until([2, 3])
        scene.consumer.close()


def test_a_drain_waits_for_the_registry(registry: StubRegistry, scene: Scene, stop: Stop) -> None:
    registry.register("orders-value", ORDER)
    failures = iter(range(3))
    registry.answer = lambda method, path: None if next(failures, None) is None else (503, {"message": "away"})
    scene.send(avro(1), foreign(2, key="b"))

    scene.consumer.run(stop, drain=True)

    assert sorted(scene.numbers) == [1, 2]


def test_a_drain_ends_with_messages_left_if_the_registry_stays_away(
    registry: StubRegistry, scene: Scene, stop: Stop
) -> None:
    registry.go_away()
    scene.send(avro(1), foreign(2, key="b"))

    reason = f"wait for a schema registry. The schema registry {registry.url} answers 503"
    with outbox_settings(PUBLISH_TIMEOUT=1), pytest.raises(MessagesLeft, match=reason):
        scene.consumer.run(stop, drain=True)

    assert scene.numbers == [2]


def test_the_log_reports_an_outage_once_and_the_workers_page_shows_it(
    registry: StubRegistry, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_outbox")
    registry.go_away()
    scene.send(avro(1), *[foreign(number, key=f"b{number}") for number in range(2, 6)])
    seen: list[Any] = []

    class Ending(Stop):
        def wait(self, seconds: float | None, *others: Any) -> bool:
            seen.append((*scene.consumer.worker_state.snapshot(), readiness(scene.consumer.worker_state).ok))
            if len(seen) == 20:
                registry.come_back()
                registry.register("orders-value", ORDER)
            if len(scene.handled) == 5 and seen[-1][0] == "working":
                self.request()
            return super().wait(0.01)

    with closing(Ending()) as stop:
        scene.consumer.run(stop)

    began, ended = [text for text in caplog.messages if "registry" in text]
    assert began.endswith("away. Messages whose schema is not loaded wait; loaded schemas stay in use.")
    assert ended.startswith(f"The schema registry {registry.url} is available again after ")
    assert not [text for text in caplog.messages if "broker" in text]
    trouble = f"The schema registry {registry.url} answers 503 for schema 1: away. Messages whose schema is not loaded "
    assert seen[10] == ("trouble", f"{trouble}wait.", True)


def test_many_that_wait_do_not_fill_the_hand(
    registry: StubRegistry, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_hand, "MOST_WAITS", 50)
    registry.go_away()
    scene.send(*[avro(number, key=f"k{number}") for number in range(1000)])
    for _ in range(20):
        scene.consumer.run_once()
    scene.send(*[foreign(number, topic="outbox") for number in range(1000, 1300)])

    scene.run_until(range(1000, 1300))

    assert 50 < len(scene.consumer.lanes) < 500
    registry.come_back()
    registry.register("orders-value", ORDER)
    wait_until(lambda: scene.consumer.run_once() and len(scene.handled) == 1300, 60, what="all")
