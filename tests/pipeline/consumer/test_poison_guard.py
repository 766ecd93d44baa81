"""The poison guard: a message that takes its process down is dead after ``MAX_DELIVERIES``."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from django.db import OperationalError

from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.state import outbox as state
from django_outbox.worker.stop import Stop
from tests.support.effects import effect_of_type
from tests.support.outbox import (
    Pipeline,
    Status,
    make_due,
    make_message,
    row,
)
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def test_the_first_deliveries_after_a_start_are_counted_before_the_handler() -> None:
    pipeline = Pipeline()
    seen: list[int] = []
    pipeline.on("order.created", lambda event: seen.append(OutboxMessage.objects.get().delivery_count))
    make_message()

    pipeline.turn()

    assert seen == [1]


def test_in_steady_state_deliveries_are_not_counted() -> None:
    pipeline = Pipeline(batch_size=2)
    pipeline.on("order.created")
    for _ in range(4):
        make_message()

    pipeline.run()

    counts = OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)
    assert list(counts) == [1, 1, 0, 0]


def test_the_first_deliveries_are_counted_however_few_are_read_at_once() -> None:
    pipeline = Pipeline(batch_size=2)
    pipeline.on("order.created")
    for _ in range(3):
        make_message()
        pipeline.turn()

    counts = OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)
    assert list(counts) == [1, 1, 0]


def test_ten_of_the_first_deliveries_are_counted_and_handled_together_at_most() -> None:
    pipeline = Pipeline()
    counted = OutboxMessage.objects.filter(status=Status.PUBLISHED, delivery_count__gt=0)
    seen: list[int] = []
    pipeline.on("order.created", lambda event: seen.append(counted.count()))
    for _ in range(40):
        make_message()

    pipeline.turn()

    assert (len(seen), max(seen)) == (40, 10)


def test_the_first_deliveries_after_a_rebalance_are_counted_before_the_handler() -> None:
    pipeline = Pipeline(batch_size=2)
    seen: list[int] = []
    pipeline.on("order.created", lambda event: seen.append(OutboxMessage.objects.get(event_id=event.id).delivery_count))
    for _ in range(4):
        make_message()
    pipeline.run()
    pipeline.broker.subscribe(["outbox"], "tests").close()  # another member comes and goes
    for _ in range(4):
        make_message()

    pipeline.run()

    assert seen == [1, 1, 0, 0, 1, 1, 0, 0]


def test_a_consumer_that_left_its_group_forgets_what_it_had_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another member has handled it meanwhile."""
    pipeline = Pipeline()
    pipeline.on("order.created", effect_of_type)
    make_message()
    pipeline.relay.run_once()

    def lock(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("connection refused")

    with monkeypatch.context() as patches:
        patches.setattr(state, "lock", lock)
        patches.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
        with pytest.raises(OperationalError):
            pipeline.consumer.run_once()
    pipeline.consumer.close()
    other = Pipeline(pipeline.broker)
    other.on("order.created", effect_of_type)
    assert other.consumer.run_once().consumed == 1
    other.consumer.close()

    assert pipeline.consumer.run_once().received == 0


def test_a_message_that_takes_its_process_down_is_dead_after_max_deliveries() -> None:
    pipeline = Pipeline()

    class Killed(BaseException):
        """Stands for the end of the process; tests with real ones are among the integration tests."""

    runs = 0

    def handle(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise Killed

    pipeline.on("killer", handle)
    pipeline.on("order.created", effect_of_type)
    killer = make_message(event_type="killer")
    make_message()
    pipeline.relay.run_once()

    for _ in range(5):
        with pytest.raises(Killed):
            pipeline.consumer.run_once()
        pipeline.restart_consumer()
    batch = pipeline.consumer.run_once()

    assert (runs, batch.dead, batch.consumed) == (5, 1, 1)
    now = row(killer)
    assert now.status == Status.DEAD
    assert now.last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")


def test_what_was_handled_together_with_a_killer_is_handled_alone_and_only_the_killer_is_dead() -> None:
    pipeline = Pipeline()
    handled: list[int] = []

    class Killed(BaseException):
        """Stands for the end of the process."""

    def handle(event: Event) -> None:
        if event.type == "killer":
            raise Killed
        handled.append(event.payload)

    pipeline.on("order.created", handle)
    pipeline.on("killer", handle)
    innocent = [make_message(payload=0), make_message(payload=1)]
    killer = make_message(event_type="killer")
    innocent.append(make_message(payload=3))
    pipeline.relay.run_once()
    pipeline.consumer.lanes.engines[0].transaction_size = 4

    with pytest.raises(Killed):
        pipeline.consumer.run_once()
    assert handled == [0, 1]
    assert {each.delivery_count for each in OutboxMessage.objects.all()} == {1}
    for _ in range(4):
        pipeline.restart_consumer()
        with pytest.raises(Killed):
            pipeline.consumer.run_once()
    pipeline.restart_consumer()
    pipeline.consumer.run_once()

    assert handled == [0, 1, 0, 1, 3]
    assert row(killer).status == Status.DEAD
    assert [(row(each).status, row(each).delivery_count) for each in innocent] == [(Status.CONSUMED, 2)] * 3


def test_of_deliveries_that_were_rolled_back_only_what_is_handled_again_stays_counted() -> None:
    pipeline = Pipeline()
    counts: list[list[int]] = []

    def handle(event: Event) -> None:
        if event.payload == 2:
            counts.append(list(OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)))
            raise ArithmeticError

    pipeline.on("order.created", handle)
    messages = [make_message(payload=number) for number in range(4)]
    pipeline.relay.run_once()
    pipeline.consumer.lanes.engines[0].transaction_size = 4

    pipeline.consumer.run_once()

    assert counts == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert [row(each).status for each in messages] == ["consumed", "consumed", "pending", "consumed"]


def test_deliveries_that_do_not_begin_before_a_stop_are_not_counted() -> None:
    """The next consumer would handle them alone, and take the stop for the death of a process."""
    pipeline = Pipeline()
    for _ in range(4):
        make_message()
    pipeline.relay.run_once()

    with closing(Stop()) as stop:
        pipeline.on("order.created", lambda event: stop.request())
        pipeline.consumer.lanes.engines[0].transaction_size = 4
        pipeline.consumer.run(stop)

    messages = OutboxMessage.objects.order_by("id").values_list("status", "delivery_count")
    assert list(messages) == [(Status.CONSUMED, 1)] + [(Status.PUBLISHED, 0)] * 3


def test_deliveries_are_counted_as_far_as_they_fit_into_the_transaction() -> None:
    pipeline = Pipeline()
    counts: list[list[int]] = []

    def handle(event: Event) -> None:
        counts.append(list(OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)))

    pipeline.on("order.created", handle)
    pipeline.on("order.paid", batch=10)  # for which a lane takes more than two messages at a time
    for _ in range(4):
        make_message()
    pipeline.relay.run_once()

    pipeline.consumer.run_once()

    assert counts[0] == [1, 1, 0, 0]


def test_copies_that_are_skipped_are_no_deliveries() -> None:
    """A relay that was killed before its commit, six times; each copy carries the number of the seventh."""
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = make_message()
    for _ in range(6):
        pipeline.deliver(message, publish_count=0)

    pipeline.run()

    assert (row(message).status, row(message).delivery_count) == (Status.CONSUMED, 1)


def test_a_message_that_only_fails_is_never_taken_for_a_killer(pipeline: Pipeline) -> None:
    pipeline.on("order.created", lambda event: 1 / 0)
    message = make_message()

    for _ in range(8):
        pipeline.turn()
        pipeline.restart_consumer()
        make_due(message)

    now = row(message)
    assert (now.status, now.retry_count, now.delivery_count) == (Status.PENDING, 8, 0)


def test_a_delivery_that_the_process_survived_is_counted_once_however_often_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database goes away between counting and handling, and the consumer loses its partitions meanwhile."""
    pipeline = Pipeline()
    pipeline.on("order.created", effect_of_type)
    make_message()
    pipeline.relay.run_once()

    def lock(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("connection refused")

    with outbox_settings(MAX_DELIVERIES=1):
        with monkeypatch.context() as patches:
            patches.setattr(state, "lock", lock)
            patches.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
            with pytest.raises(OperationalError):
                pipeline.consumer.run_once()
        pipeline.broker.subscribe(["outbox"], "tests").close()  # another member comes and goes
        pipeline.consumer.run_once()
    assert OutboxMessage.objects.get().status == Status.CONSUMED
