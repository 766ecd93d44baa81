"""Batch handlers: many events in one call, and none of them pays for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import OutboxMessage
from django_outbox.worker.stop import Stop
from tests.support.app.models import Effect
from tests.support.effects import effect_of_payload, effects, effects_of_payloads
from tests.support.outbox import Pipeline, Status, make_due, make_message, row, statuses

pytestmark = pytest.mark.django_db(transaction=True)


class BatchPipeline(Pipeline):
    """At work for a while. ``handle`` is what each test wants done with events of type order.paid, ten at a time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(steady=True, **{"clock": lambda: 0.0, **options})
        self.calls: list[list[Any]] = []
        self.handle: Callable[[list[Event]], Any] = lambda events: None
        self.on("order.paid", self._batch, batch=10)

    def _batch(self, events: list[Event]) -> None:
        self.calls.append([event.payload for event in events])
        effects_of_payloads(events)
        self.handle(events)


@pytest.fixture
def pipeline() -> BatchPipeline:
    return BatchPipeline()


def publish(*payloads: Any, **fields: Any) -> list[OutboxMessage]:
    return [make_message(payload=payload, **{"event_type": "order.paid", **fields}) for payload in payloads]


def refuse(*payloads: Any, error: Callable[[list[Event]], Exception]) -> Callable[[list[Event]], None]:
    """A handler that raises an error about events with these payloads."""

    def handle(events: list[Event]) -> None:
        if bad := [event for event in events if event.payload in payloads]:
            raise error(bad)

    return handle


def rejected(bad: list[Event]) -> Reject:
    return Reject("never", events=bad)


def test_a_batch_is_one_call_in_order_and_one_statement_marks_it(pipeline: BatchPipeline) -> None:
    publish(*range(10))
    pipeline.relay.run_once()

    with CaptureQueriesContext(connection) as queries:
        done = pipeline.consumer.run_once()

    assert (done.received, done.consumed) == (10, 10)
    assert pipeline.calls == [[*range(10)]]
    assert statuses() == ["consumed"] * 10
    statements = [query["sql"] for query in queries]
    assert sum(sql.startswith("BEGIN") for sql in statements) == 1
    assert sum(sql.lstrip().startswith("UPDATE") for sql in statements) == 1


def test_more_than_a_batch_are_several_calls(pipeline: BatchPipeline) -> None:
    publish(*range(23))
    pipeline.turn()
    assert pipeline.calls == [[*range(10)], [*range(10, 20)], [*range(20, 23)]]
    assert statuses() == ["consumed"] * 23


def test_a_batch_may_be_larger_than_what_is_read_at_once() -> None:
    pipeline = Pipeline(steady=True, batch_size=7)
    calls: list[int] = []
    pipeline.on("order.paid", lambda events: calls.append(len(events)), batch=50)
    publish(*range(120))
    pipeline.relay.run_once()

    while pipeline.consumer.run_once().received:
        pass

    assert calls == [50, 50, 20]
    assert statuses() == ["consumed"] * 120


def test_it_is_read_again_until_no_more_is_available(pipeline: BatchPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe = pipeline.broker.subscribe

    def trickling(*arguments: Any) -> Any:
        subscription = subscribe(*arguments)
        poll = subscription.poll
        monkeypatch.setattr(subscription, "poll", lambda timeout, limit: poll(timeout, min(limit, 3)))
        return subscription

    monkeypatch.setattr(pipeline.broker, "subscribe", trickling)
    publish(*range(10))
    pipeline.turn()
    assert pipeline.calls == [[*range(10)]]


def test_the_first_deliveries_after_a_start_are_lists_of_ten_at_most(pipeline: BatchPipeline) -> None:
    publish(*range(12))
    pipeline.consumer.lanes.guard.records = 2
    pipeline.turn()
    assert pipeline.calls == [[*range(10)], [10, 11]]


def test_all_that_a_killed_process_had_in_hand_is_guarded() -> None:
    pipeline = Pipeline(batch_size=7)
    pipeline.on("order.paid", lambda events: None, batch=50)
    assert pipeline.consumer.lanes.guard.records == 50


# Failures


def test_after_an_error_each_is_tried_alone_and_only_the_bad_one_has_failed(pipeline: BatchPipeline) -> None:
    messages = publish(*range(10))
    pipeline.handle = refuse(4, error=lambda bad: ArithmeticError("boom"))
    pipeline.relay.run_once()

    done = pipeline.consumer.run_once()

    assert (done.consumed, done.failed) == (9, 1)
    assert pipeline.calls == [[*range(10)], *([number] for number in range(10))]
    assert effects() == [str(number) for number in range(10) if number != 4]
    assert [(row(each).status, row(each).retry_count) for each in messages] == [
        (Status.PENDING, 1) if number == 4 else (Status.CONSUMED, 0) for number in range(10)
    ]
    assert row(messages[4]).last_error.startswith("ArithmeticError: boom")


def test_then_batches_are_full_again(pipeline: BatchPipeline) -> None:
    pipeline.handle = refuse(4, error=lambda bad: ArithmeticError("boom"))
    publish(*range(20))
    pipeline.turn()
    # However long this takes, the failed one is not due.
    OutboxMessage.objects.filter(status="pending").update(next_retry_at=timezone.now() + timedelta(hours=1))
    publish(*range(20, 30))
    pipeline.calls.clear()
    pipeline.turn()
    assert pipeline.calls == [[*range(20, 30)]]


def test_rejected_by_name_are_dead_and_the_others_are_handled_again_together(pipeline: BatchPipeline) -> None:
    messages = publish(*range(10))
    pipeline.handle = refuse(0, 4, 9, error=rejected)
    pipeline.relay.run_once()

    done = pipeline.consumer.run_once()

    assert (done.received, done.consumed, done.dead) == (10, 7, 3)
    assert pipeline.calls == [[*range(10)], [1, 2, 3, 5, 6, 7, 8]]
    assert effects() == ["1", "2", "3", "5", "6", "7", "8"]
    assert [row(each).status for each in messages] == [
        Status.DEAD if number in (0, 4, 9) else Status.CONSUMED for number in range(10)
    ]
    assert {(row(each).last_error, row(each).retry_count) for each in (messages[0], messages[9])} == {("never", 0)}


def test_retried_by_name_wait_and_count_and_the_others_are_handled_again_together(pipeline: BatchPipeline) -> None:
    messages = publish(*range(10))
    pipeline.handle = refuse(3, 5, error=lambda bad: Retry(3600, "later", events=bad))
    pipeline.relay.run_once()

    done = pipeline.consumer.run_once()

    assert (done.consumed, done.failed) == (8, 2)
    assert pipeline.calls[1:] == [[0, 1, 2, 4, 6, 7, 8, 9]]
    retried = row(messages[5])
    assert (retried.status, retried.retry_count, retried.last_error) == (Status.PENDING, 1, "later")
    assert retried.next_retry_at is not None
    assert retried.next_retry_at > timezone.now() + timedelta(minutes=50)


def test_a_list_that_fails_is_handled_one_by_one_and_what_is_around_it_together(pipeline: BatchPipeline) -> None:
    notes: list[Any] = []
    pipeline.on("order.sent", note_into(notes))
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    publish("a", "b", event_type="order.sent")
    publish(0, 1, 2)
    publish("c", "d", event_type="order.sent")
    pipeline.handle = refuse(1, error=lambda bad: ArithmeticError())
    pipeline.relay.run_once()

    with CaptureQueriesContext(connection) as queries:
        done = pipeline.consumer.run_once()

    assert (done.consumed, done.failed) == (6, 1)
    assert notes == ["a", "b", "c", "d", "a", "b", "c", "d"]  # the list waits for more until the end
    assert pipeline.calls == [[0, 1, 2], [0], [1], [2]]
    consumed = [query["sql"] for query in queries if "'consumed'" in query["sql"] and "UPDATE" in query["sql"]]
    assert len(consumed) == 4


def test_after_named_ones_another_error_leaves_their_failures_as_they_are(pipeline: BatchPipeline) -> None:
    pipeline.on("order.sent", lambda event: 1 / event.payload)
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    messages = [*publish(*range(3)), *publish(3, message_key="k")]  # called before the next one of its key
    sent = publish(1, 0, 2, event_type="order.sent", message_key="k")
    pipeline.handle = refuse(1, error=rejected)
    pipeline.relay.run_once()

    pipeline.consumer.run_once()

    assert pipeline.calls == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3]]
    assert [row(each).status for each in messages] == ["consumed", "dead", "consumed", "consumed"]
    assert [row(each).status for each in sent] == ["consumed", "pending", "pending"]
    assert [row(each).retry_count for each in sent] == [0, 1, 0]


def test_all_may_be_named(pipeline: BatchPipeline) -> None:
    publish(*range(4))
    pipeline.handle = lambda events: (_ for _ in ()).throw(rejected(events))
    assert pipeline.turn().dead == 4
    assert len(pipeline.calls) == 1
    assert statuses() == ["dead"] * 4


def test_others_may_be_named_next(pipeline: BatchPipeline) -> None:
    publish(*range(6))

    def handle(events: list[Event]) -> None:
        refuse(1, error=rejected)(events)
        refuse(3, 4, error=lambda bad: Retry(events=bad))(events)

    pipeline.handle = handle
    done = pipeline.turn()
    assert (done.consumed, done.dead, done.failed) == (3, 1, 2)
    assert pipeline.calls == [[*range(6)], [0, 2, 3, 4, 5], [0, 2, 5]]


def test_a_handler_that_names_one_each_time_gets_them_one_by_one_in_the_end(pipeline: BatchPipeline) -> None:
    messages = publish(*range(10))
    pipeline.handle = lambda events: (_ for _ in ()).throw(rejected(events[:1]))
    pipeline.turn()
    assert {row(each).status for each in messages} == {Status.DEAD}
    assert len(pipeline.calls) < 20


def test_a_slow_handler_that_names_some_gets_the_others_together() -> None:
    now = [0.0]
    pipeline = BatchPipeline(clock=lambda: now[0])

    def handle(events: list[Event]) -> None:
        now[0] += 5
        refuse(3, error=rejected)(events)

    pipeline.handle = handle
    publish(*range(10))
    pipeline.turn()
    assert pipeline.calls == [[*range(10)], [0, 1, 2, 4, 5, 6, 7, 8, 9]]


def test_what_names_nothing_of_its_list_is_a_failure_that_says_so(pipeline: BatchPipeline) -> None:
    (message,) = publish(1)
    pipeline.handle = lambda events: (_ for _ in ()).throw(Reject("no", events=[Event(type="order.paid")]))
    assert pipeline.turn().failed == 1
    assert row(message).status == Status.PENDING
    assert "Reject names an event that is not in the list of the handler" in row(message).last_error


def test_a_handler_may_change_its_list(pipeline: BatchPipeline) -> None:
    messages = publish(*range(4))

    def handle(events: list[Event]) -> None:
        events.reverse()
        bad = [event for event in events if event.payload == 2]
        events.clear()
        if bad:
            raise rejected(bad)

    pipeline.handle = handle
    pipeline.turn()
    assert [row(each).status for each in messages] == ["consumed", "consumed", "dead", "consumed"]


def test_after_a_statement_that_fails_the_order_of_a_key_stays(pipeline: BatchPipeline) -> None:
    messages = publish(*range(4), message_key="k")
    left = [1]

    def handle(events: list[Event]) -> None:
        if left:
            left.clear()
            Effect.objects.create(id=Effect.objects.latest("id").id, name="again", event_id="x")

    pipeline.handle = handle
    pipeline.turn()
    assert effects() == ["0", "1", "2", "3"]
    assert {row(each).retry_count for each in messages} == {0}


# Order


def test_messages_behind_one_that_waits_are_held_and_those_before_it_are_not(pipeline: BatchPipeline) -> None:
    before, bad, after = publish("before", "bad", "after", message_key="k")
    (other,) = publish("other", message_key="o")
    pipeline.handle = refuse("bad", error=lambda bad: Retry(events=bad))
    pipeline.turn()
    pipeline.consumer.run_once()

    assert [row(each).status for each in (before, bad, after, other)] == ["consumed", "pending", "pending", "consumed"]
    assert (row(bad).retry_count, row(after).retry_count) == (1, 0)
    assert effects() == ["before", "other"]
    pipeline.handle = lambda events: None
    make_due(bad, after)
    pipeline.run()
    assert effects() == ["before", "other", "bad", "after"]


def test_behind_a_rejected_one_they_follow_or_with_on_dead_hold_wait(pipeline: BatchPipeline, settings: Any) -> None:
    pipeline.handle = refuse("bad", error=rejected)
    publish("bad", "after", message_key="k")
    pipeline.turn()
    pipeline.consumer.run_once()
    assert statuses() == ["dead", "consumed"]

    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    publish("bad", "after", message_key="l")
    pipeline.turn()
    pipeline.consumer.run_once()
    assert statuses()[2:] == ["dead", "pending"]


def note_into(notes: list[Any]) -> Callable[[Any], None]:
    def note(events: Any) -> None:
        notes.append([event.payload for event in events] if isinstance(events, list) else events.payload)

    return note


def test_a_batch_ends_before_another_event_of_one_of_its_keys() -> None:
    pipeline = Pipeline(steady=True, clock=lambda: 0.0)
    notes: list[Any] = []
    pipeline.on("order.paid", note_into(notes), batch=10)
    pipeline.on("order.sent", note_into(notes))
    pipeline.on("order.noted", note_into(notes), batch=10)
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    publish("a1", message_key="a")
    publish("b1", message_key="b")
    publish("c2", message_key="c", event_type="order.sent")  # ends nothing: another key
    publish("b2", message_key="b", event_type="order.noted")
    publish("a2", message_key="a")
    publish("a3", message_key="a", event_type="order.sent")
    publish("no key", event_type="order.sent")
    publish("b3", message_key="b")
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 8
    assert notes == ["c2", ["a1", "b1"], ["a2"], "a3", "no key", ["b2"], ["b3"]]


def test_handlers_of_one_type_all_get_all_events_in_the_order_of_registration() -> None:
    pipeline = Pipeline(steady=True, clock=lambda: 0.0)
    notes: list[Any] = []
    pipeline.on("order.paid", lambda event: notes.append(("first", event.payload)))
    pipeline.on("order.paid", lambda events: notes.append(("batch", [each.payload for each in events])), batch=3)
    pipeline.on("order.paid", lambda events: notes.append(("pairs", [each.payload for each in events])), batch=2)
    pipeline.on("order.paid", lambda event: notes.append(("last", event.payload)))
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    publish(1, 2, 3)
    pipeline.turn()
    assert notes == [
        *[("first", number) for number in (1, 2, 3)],
        ("batch", [1, 2, 3]),
        ("pairs", [1, 2]),
        ("pairs", [3]),
        *[("last", number) for number in (1, 2, 3)],
    ]
    assert statuses() == ["consumed"] * 3


def test_slow_handlers_beside_a_batch_still_get_about_a_second() -> None:
    now = [0.0]
    pipeline = Pipeline(steady=True, clock=lambda: now[0])
    sizes: list[int] = []
    pipeline.on("order.paid", lambda event: now.__setitem__(0, now[0] + 0.6))
    pipeline.on("order.paid", lambda events: sizes.append(len(events)), batch=500)
    publish(*range(8))
    pipeline.turn()
    assert sizes == [2, 2, 2, 2]


def test_a_stop_ends_the_batch_with_what_it_has(stop: Stop, pipeline: BatchPipeline) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        stop.request()

    pipeline.on("order.created", handle)
    publish(0, 1)
    publish(2, event_type="order.created")
    publish(3)
    pipeline.relay.run_once()

    pipeline.consumer.run(stop)

    assert pipeline.calls == [[0, 1]]
    assert statuses() == ["consumed"] * 3 + ["published"]


# Kinds of handlers


@dataclass
class Order:
    id: int


def test_typed_payloads_come_as_a_list_and_may_be_named(pipeline: BatchPipeline) -> None:
    got: list[Any] = []

    def takes(orders: list[Order], events: list[Event]) -> None:
        got.append([(order.id, event.payload["id"]) for order, event in zip(orders, events, strict=True)])
        if bad := [order for order in orders if order.id == 2]:
            raise Reject("no such order", events=bad)

    pipeline.on("order.typed", takes, batch=10)
    publish({"id": 1}, {"id": 2}, {"id": 3}, event_type="order.typed")
    pipeline.turn()
    assert got == [[(1, 1), (2, 2), (3, 3)], [(1, 1), (3, 3)]]
    assert statuses() == ["consumed", "dead", "consumed"]


def test_a_payload_that_does_not_fit_fails_alone(pipeline: BatchPipeline) -> None:
    got: list[Any] = []

    def takes(orders: list[Order]) -> None:
        got.extend(order.id for order in orders)

    pipeline.on("order.typed", takes, batch=10)
    messages = publish({"id": 1}, {"id": "x"}, {"id": 3}, event_type="order.typed")
    pipeline.turn()
    assert got == [1, 3]
    assert row(messages[1]).last_error.startswith(
        "django_outbox.exceptions.PayloadMismatch: The payload is not a valid Order: id"
    )


def test_an_async_batch_handler_works_in_the_transaction_around_it(pipeline: BatchPipeline) -> None:
    async def write(events: list[Event]) -> None:
        await Effect.objects.abulk_create([Effect(name=str(each.payload), event_id=each.id) for each in events])
        if bad := [event for event in events if event.payload == 2]:
            raise Reject("no", events=bad)

    pipeline.on("order.async", write, batch=10)
    publish(1, 2, 3, event_type="order.async")
    pipeline.turn()
    assert effects() == ["1", "3"]
    assert statuses() == ["consumed", "dead", "consumed"]
