"""Batch handlers with ``wait``: a list fills up while the consumer reads on, and offsets stay behind it."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.events.event import Event
from django_outbox.worker.stop import Stop
from tests.support.effects import effects, effects_of_payloads
from tests.support.outbox import Pipeline, make_message, statuses

pytestmark = pytest.mark.django_db(transaction=True)

PLACE = TopicPartition("outbox", 0)


class WaitingPipeline(Pipeline):
    """Takes events of type order.paid three at a time, after five seconds at most, and others at once."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        super().__init__(steady=True, clock=lambda: self.now, **options)
        self.calls: list[list[Any]] = []
        self.on("order.paid", self._batch, batch=3, wait=5)
        self.on("order.sent")

    def _batch(self, events: list[Event]) -> None:
        self.calls.append([event.payload for event in events])
        effects_of_payloads(events)

    def publish(self, *payloads: Any, event_type: str = "order.paid", key: str = "") -> None:
        for payload in payloads:
            make_message(event_type=event_type, payload=payload, message_key=key)
        self.relay.run_once()

    @property
    def committed(self) -> int | None:
        subscription = self.consumer.subscription
        assert subscription is not None
        return subscription.progress()[PLACE].committed


@pytest.fixture
def pipeline() -> WaitingPipeline:
    return WaitingPipeline()


def test_a_list_fills_up_while_others_are_handled_and_offsets_stay_behind(pipeline: WaitingPipeline) -> None:
    pipeline.publish(1, 2)
    pipeline.publish("other", event_type="order.sent")
    assert pipeline.consumer.run_once().consumed == 1
    assert (pipeline.calls, [event.payload for event in pipeline.handled]) == ([], ["other"])
    assert pipeline.committed in (None, 0)

    pipeline.publish(3, 4)
    assert pipeline.consumer.run_once().consumed == 3
    assert pipeline.calls == [[1, 2, 3]]
    assert pipeline.committed == 4
    assert statuses() == ["consumed"] * 4 + ["published"]


def test_after_its_time_a_list_is_handled_as_it_is(pipeline: WaitingPipeline) -> None:
    pipeline.publish(1)
    pipeline.consumer.run_once()
    pipeline.now = 4.0
    pipeline.publish(2)
    pipeline.consumer.run_once()
    assert pipeline.calls == []
    pipeline.now = 5.0
    pipeline.consumer.run_once()
    assert pipeline.calls == [[1, 2]]
    assert pipeline.committed == 2


def test_another_event_of_one_of_its_keys_ends_the_wait(pipeline: WaitingPipeline) -> None:
    pipeline.publish(1, key="a")
    pipeline.publish(2, key="b")
    pipeline.consumer.run_once()
    pipeline.publish("sent", event_type="order.sent", key="b")
    pipeline.consumer.run_once()
    assert pipeline.calls == [[1, 2]]
    assert statuses() == ["consumed"] * 3


def test_after_a_restart_what_waited_is_read_again(pipeline: WaitingPipeline) -> None:
    pipeline.publish(1, 2)
    pipeline.consumer.run_once()
    pipeline.restart_consumer()
    pipeline.publish(3)
    pipeline.consumer.run_once()
    assert pipeline.calls == [[1, 2, 3]]
    assert effects() == ["1", "2", "3"]


def test_a_stop_does_not_wait(pipeline: WaitingPipeline, stop: Stop) -> None:
    pipeline.publish(1, 2)
    pipeline.on("order.sent", lambda event: stop.request())
    pipeline.publish("last", event_type="order.sent")
    pipeline.consumer.run(stop)
    assert pipeline.calls == []
    assert statuses() == ["published"] * 2 + ["consumed"]


def test_a_drain_ends_when_the_last_list_has_waited(stop: Stop) -> None:
    pipeline = Pipeline(steady=True)
    calls: list[int] = []
    pipeline.on("order.paid", lambda events: calls.append(len(events)), batch=3, wait=0.2)
    for payload in range(5):
        make_message(event_type="order.paid", payload=payload)
    pipeline.relay.run_once()
    pipeline.consumer.run(stop, drain=True)
    assert sum(calls) == 5
    assert statuses() == ["consumed"] * 5


def test_the_first_deliveries_after_a_start_do_not_wait(pipeline: WaitingPipeline) -> None:
    pipeline.consumer.lanes.guard.records = 2
    pipeline.publish(1, 2)
    pipeline.consumer.run_once()
    pipeline.publish(3)
    pipeline.consumer.run_once()
    assert pipeline.calls == [[1, 2]]
