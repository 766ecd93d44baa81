"""The consumer: a published event reaches its handler, once, and a stop or a drain ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from django_outbox import publish
from django_outbox.brokers.base import TopicPartition
from django_outbox.events.event import Event
from django_outbox.worker.stop import Stop
from tests.support.app.models import Effect
from tests.support.effects import effect_of_type, effects
from tests.support.outbox import (
    Pipeline,
    Status,
    make_message,
    row,
    statuses,
)

pytestmark = pytest.mark.django_db


# The whole way


def test_a_published_event_reaches_its_handler_complete(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    with transaction.atomic():
        message = publish("order.created", {"order": [1, "Zoë"]}, key="k", headers={"h": "v"}, version="v2")

    pipeline.run()

    (event,) = pipeline.handled
    assert event == Event(
        type="order.created",
        payload={"order": [1, "Zoë"]},
        key="k",
        headers={"h": "v"},
        topic="outbox",
        version="v2",
        id=str(message.event_id),
        source="tests",
        time=message.created_at,
        attempt=1,
        partition=0,
        offset=0,
    )
    assert row(message).status == Status.CONSUMED


def test_effects_and_state_are_committed_together(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message()

    pipeline.run()

    assert Effect.objects.get().event_id == str(message.event_id)
    assert row(message).status == Status.CONSUMED


def test_handlers_run_in_order_in_one_transaction(pipeline: Pipeline) -> None:
    order: list[str] = []
    pipeline.on("order.created", effect_of_type)
    pipeline.on("order.created", lambda event: order.append("second"))

    def third(event: Event) -> None:
        order.append("third")
        raise ArithmeticError("boom")

    pipeline.on("order.created", third)
    message = make_message()

    pipeline.turn()

    assert order == ["second", "third"]
    assert not effects()
    assert row(message).status == Status.PENDING


def test_a_handler_may_publish_in_its_own_transaction(pipeline: Pipeline) -> None:
    pipeline.on("order.created", lambda event: publish("order.shipped", None))
    pipeline.on("order.shipped", effect_of_type)
    make_message()

    pipeline.run()

    assert effects() == ["order.shipped"]
    assert statuses() == ["consumed", "consumed"]


def test_a_coroutine_handler_is_awaited(pipeline: Pipeline) -> None:
    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        await Effect.objects.acreate(name="async", event_id=event.id)

    pipeline.on("order.created", handle)
    make_message()

    pipeline.run()

    assert effects() == ["async"]
    assert statuses() == ["consumed"]


@pytest.mark.parametrize("size", [1, 100])
def test_a_whole_life_costs_at_most_eight_queries(pipeline: Pipeline, size: int) -> None:
    """Batches of one, with a key, in counted mode: the most expensive way that there is."""
    pipeline = Pipeline(batch_size=size)
    pipeline.on("order.created")
    pipeline.turn()  # connected, joined

    with CaptureQueriesContext(connection) as queries:
        with transaction.atomic():
            publish("order.created", {"order": 1}, key="k")
        pipeline.relay.is_idle = False
        pipeline.turn()

    assert statuses() == ["consumed"]
    markers = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    asked = [q["sql"] for q in queries if not q["sql"].startswith(markers)]
    reads_the_id = not connection.features.can_return_rows_from_bulk_insert  # MySQL
    assert len(asked) <= 8 + reads_the_id, "\n".join(asked)


def test_an_idle_consumer_asks_the_database_nothing(pipeline: Pipeline, django_assert_num_queries: Any) -> None:
    pipeline.on("order.created")
    pipeline.consumer.run_once()

    with django_assert_num_queries(0):
        pipeline.consumer.run_once()


# Running


def test_drain_ends_when_all_that_could_be_handled_was(pipeline: Pipeline, stop: Stop) -> None:
    pipeline.on("order.created", effect_of_type)
    for _ in range(250):
        make_message()
    make_message(event_type="of.nobody")
    pipeline.relay.run(stop, drain=True)

    pipeline.consumer.run(stop, drain=True)

    assert len(effects()) == 250


def test_drain_does_not_wait_for_ever_for_a_record_that_was_lost(
    stop: Stop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    make_message(Status.PUBLISHED)

    pipeline.consumer.run(stop, drain=True)

    assert "1 published messages were not received" in caplog.text


def test_a_stopped_consumer_finishes_the_message_in_hand_and_commits(pipeline: Pipeline, stop: Stop) -> None:
    def handle(event: Event) -> None:
        effect_of_type(event)
        stop.request()

    pipeline.on("order.created", handle)
    make_message()
    make_message()
    pipeline.relay.run_once()

    pipeline.consumer.run(stop)

    assert statuses() == ["consumed", "published"]
    pipeline.restart_consumer()
    assert pipeline.consumer.run_once().received == 1  # the first one's offset is committed


def test_an_offset_that_the_group_refuses_in_a_rebalance_is_committed_later(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.on("order.created")
    make_message()
    place = TopicPartition("outbox", 0)

    def committed() -> int | None:
        return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[place].committed

    with monkeypatch.context() as patches:
        patches.setattr("django_outbox.brokers.memory._Subscription.commit", lambda self, offsets: False)
        pipeline.turn()
        assert (statuses(), committed()) == (["consumed"], None)
    pipeline.consumer.run_once()  # no other record comes
    assert committed() == 1


def test_messages_are_handled_while_a_commit_waits_and_its_offsets_are_committed_at_last(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the broker that stores the offsets waits for one that is away."""
    pipeline.on("order.created")
    asked: list[int] = []

    def wait(subscription: object, offsets: dict[TopicPartition, int]) -> bool:
        asked.extend(offsets.values())
        return False

    monkeypatch.setattr("django_outbox.brokers.memory._Subscription.commit_soon", wait)
    for _ in range(3):
        make_message()
        pipeline.turn()
    assert (statuses(), asked) == (["consumed"] * 3, [1, 2, 3])
    pipeline.consumer.run_once()
    assert asked == [1, 2, 3, 3]
    pipeline.consumer.close()
    (progress,) = pipeline.broker.progress(["outbox"], pipeline.consumer.group).values()
    assert progress.committed == 3


def test_a_drain_ends_when_what_it_handled_is_committed(
    pipeline: Pipeline, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.on("order.created")
    make_message()
    pipeline.relay.run_once()
    answers = iter([False, False, True])
    asked: list[bool] = []

    def commit_soon(subscription: object, offsets: object) -> bool:
        asked.append(next(answers))
        return asked[-1]

    monkeypatch.setattr("django_outbox.brokers.memory._Subscription.commit_soon", commit_soon)
    pipeline.consumer.run(stop, drain=True)
    assert asked == [False, False, True]
