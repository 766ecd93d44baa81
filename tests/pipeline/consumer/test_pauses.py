"""Pauses: paused messages wait uncounted and in order, are not sent again and again, and none is forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_outbox.consumer.consumer import POLL_SECONDS
from django_outbox.consumer.pauses import REFRESH_SECONDS
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import pauses as state
from tests.support.clock import Clock
from tests.support.inbox import Receiver, make_received, received
from tests.support.outbox import Pipeline, make_message, row, statuses

pytestmark = pytest.mark.django_db

SECONDS = timedelta(seconds=1)


def pause(**subject: str) -> Pause:
    subject = subject or {"event_type": "order.*"}
    return state.pause(subject.pop("group", "tests"), **subject, reason="a bug", by="ada", using="default")


def resume() -> tuple[int, int]:
    return state.resume(Pause.objects.all(), using="default")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest, clock: Clock) -> Pipeline:
    pipeline = Pipeline(steady=request.param == "steady", clock=clock)
    for event_type in ("order.created", "order.paid", "invoice.sent"):
        pipeline.on(event_type)
    return pipeline


def handled(pipeline: Pipeline) -> list[int]:
    """The ids of the messages that were handled."""
    ids = {str(event_id): id for id, event_id in OutboxMessage.objects.values_list("id", "event_id")}
    return [ids[str(event.id)] for event in pipeline.handled]


def waits(message: Any) -> bool:
    """Whether a message waits for a check time, which nothing has counted."""
    message.refresh_from_db()
    (active,) = state.active(Pause.objects.using("default"))
    counts = (message.retry_count, message.delivery_count, message.last_error)
    return message.status == "pending" and message.next_retry_at in active.check_times(active.now) and not any(counts)


# Outbox


@pytest.mark.parametrize("subject", [{"event_type": "order.*"}, {"event_type": "order.created"}])
def test_paused_types_wait_uncounted_and_others_go_on(pipeline: Pipeline, subject: dict[str, str]) -> None:
    pause(**subject)
    paused, other = make_message(), make_message(event_type="invoice.sent")
    pipeline.run()
    assert waits(paused)
    assert row(other).status == "consumed"
    assert handled(pipeline) == [other.id]


def test_messages_of_a_paused_handler_wait_with_its_other_handlers(pipeline: Pipeline) -> None:
    def ship(event: Any) -> None: ...

    pipeline.on("order.created", ship)
    name = next(each.name for each in pipeline.handlers.for_group("tests") if each.function is ship)
    pause(handler=name)
    paused, other = make_message(), make_message(event_type="order.paid")
    pipeline.run()
    assert waits(paused)
    assert handled(pipeline) == [other.id]


def test_pause_of_another_group_pauses_nothing(pipeline: Pipeline) -> None:
    pause(group="others", event_type="*")
    make_message()
    pipeline.run()
    assert statuses() == ["consumed"]


def test_later_messages_of_the_key_wait_whatever_their_type(pipeline: Pipeline) -> None:
    pause()
    first = make_message(message_key="k")
    later = make_message(message_key="k", event_type="invoice.sent")
    other = make_message(message_key="other", event_type="invoice.sent")
    pipeline.run()
    last = make_message(message_key="k", event_type="invoice.sent")
    pipeline.run()
    assert all(waits(message) for message in (first, later, last))
    assert handled(pipeline) == [other.id]
    assert resume() == (1, 3)


def test_messages_without_a_key_do_not_wait_for_a_paused_one(pipeline: Pipeline) -> None:
    pause()
    paused, other = make_message(), make_message(event_type="invoice.sent")
    pipeline.run()
    assert (waits(paused), row(other).status) == (True, "consumed")


def test_resumed_messages_are_handled_in_their_order(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    messages = [make_message(message_key="k"), make_message(message_key="k", event_type="invoice.sent")]
    pipeline.run()
    assert resume() == (1, 2)
    clock.now += REFRESH_SECONDS
    pipeline.run()
    assert handled(pipeline) == [message.id for message in messages]
    assert statuses() == ["consumed", "consumed"]


def test_resuming_leaves_messages_alone_that_wait_for_something_else(pipeline: Pipeline) -> None:
    pause()
    delayed = make_message(next_retry_at=DatabaseNow() + timedelta(days=1))
    failed = make_message(next_retry_at=DatabaseNow() + 30 * SECONDS, retry_count=3)
    before = [row(each).next_retry_at for each in (delayed, failed)]
    assert resume() == (1, 0)
    assert [row(each).next_retry_at for each in (delayed, failed)] == before


def test_pause_takes_effect_in_a_consumer_that_is_running(pipeline: Pipeline, clock: Clock) -> None:
    make_message()
    pipeline.run()
    pause()
    clock.now += REFRESH_SECONDS
    message = make_message()
    pipeline.run()
    assert waits(message)


@pytest.mark.parametrize("is_busy", [True, False])
def test_pause_takes_effect_within_five_seconds(pipeline: Pipeline, clock: Clock, is_busy: bool) -> None:
    pipeline.run()
    pause()
    for _ in range(int(5 / POLL_SECONDS)):
        clock.now += POLL_SECONDS
        if is_busy:
            make_message()
        pipeline.run()
    message = make_message()
    pipeline.run()
    assert waits(message)


def test_pause_takes_effect_between_two_transactions_of_one_poll(clock: Clock) -> None:
    pipeline = Pipeline(clock=clock)

    def handle(event: Any) -> None:
        pipeline.handled.append(event)
        if len(pipeline.handled) == 1:
            pause()
        clock.now += REFRESH_SECONDS

    pipeline.on("order.created", handle)
    for _ in range(10):
        make_message()
    pipeline.run()
    assert len(pipeline.handled) == 1
    assert statuses() == ["consumed"] + ["pending"] * 9


def test_message_put_back_after_the_end_of_the_pause_is_found(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    make_message()
    pipeline.run()
    resume()
    message = make_message()
    pipeline.run()  # the consumer still knows the pause
    assert pipeline.handled == []
    clock.now += REFRESH_SECONDS
    pipeline.consumer.run_once()
    pipeline.run()
    assert row(message).status == "consumed"
    assert statuses() == ["consumed", "consumed"]


def test_message_that_a_long_transaction_puts_back_after_the_end_is_found(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    pipeline.run()
    (active,) = state.active(Pause.objects.using("default"))
    resume()
    clock.now += REFRESH_SECONDS
    pipeline.run()  # the consumer knows the end
    message = make_message(next_retry_at=active.due_at(active.now))  # as another lane does that has not known it
    clock.now += REFRESH_SECONDS
    pipeline.consumer.run_once()
    pipeline.run()
    assert row(message).status == "consumed"


def later(clock: Clock, seconds: float) -> None:
    """Let time pass for the pause, its messages, and the consumer."""
    past = timedelta(seconds=seconds)
    for each in Pause.objects.all():
        Pause.objects.filter(id=each.id).update(created_at=each.created_at - past)
    for model in (OutboxMessage, InboxMessage):
        for message in model.objects.filter(status="pending"):
            model.objects.filter(id=message.id).update(next_retry_at=message.next_retry_at - past)
    clock.now += seconds


def test_messages_are_not_sent_again_while_a_consumer_runs(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    message = make_message(message_key="k")
    pipeline.run()
    for _ in range(30):
        later(clock, 30)
        pipeline.run()
    assert waits(message)
    assert row(message).publish_count == 1
    assert resume() == (1, 1)


def test_messages_are_due_within_ten_minutes_if_no_consumer_runs(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    message = make_message()
    pipeline.run()
    Pause.objects.all().delete()  # whatever happened
    later(clock, 600)
    pipeline.restart_consumer()
    pipeline.run()
    assert row(message).status == "consumed"


def test_messages_of_a_resumed_pause_are_not_moved(pipeline: Pipeline) -> None:
    pause()
    message = make_message()
    pipeline.run()
    (active,) = state.active(Pause.objects.using("default"))
    Pause.objects.all().delete()
    due_at = row(message).next_retry_at
    assert state.postpone(active, active.now, using="default") == 0
    assert row(message).next_retry_at == due_at


def test_messages_wait_for_each_of_two_pauses(pipeline: Pipeline, clock: Clock) -> None:
    pause()
    pause(event_type="order.created")
    message = make_message()
    pipeline.run()
    state.resume(Pause.objects.filter(event_type="order.*"), using="default")
    clock.now += REFRESH_SECONDS
    pipeline.run()
    assert waits(message)
    resume()
    clock.now += REFRESH_SECONDS
    pipeline.run()
    assert row(message).status == "consumed"


def test_pausing_again_replaces_the_reason_and_keeps_the_time() -> None:
    first = pause()
    again = state.pause("tests", event_type="order.*", reason="another bug", by="bob", using="default")
    assert (again.id, again.reason, again.created_by) == (first.id, "another bug", "bob")
    assert Pause.objects.get().created_at == Pause.objects.get(id=first.id).created_at


def test_consumers_read_pauses_seldom(pipeline: Pipeline, clock: Clock) -> None:
    pipeline.consumer.run_once()

    def reads() -> int:
        with CaptureQueriesContext(connection) as queries:
            for _ in range(20):
                make_message()
                pipeline.run()
        return sum("django_outbox_pause" in query["sql"] for query in queries)

    assert reads() == 0
    clock.now += REFRESH_SECONDS
    assert reads() == 1


# Inbox


@pytest.fixture
def receiver(clock: Clock) -> Receiver:
    receiver = Receiver(clock=clock)
    receiver.on("order.created")
    receiver.on("invoice.sent")
    return receiver


@pytest.mark.parametrize("counted", [True, False])
def test_paused_records_are_stored_and_wait_in_order(receiver: Receiver, clock: Clock, counted: bool) -> None:
    pause()
    records = [
        received(1, key="k"),
        received(2, key="k", type="invoice.sent"),
        received(3, type="invoice.sent"),
        received(4, key="k"),
    ]
    outcomes = receiver.receive(*records, counted=counted)
    assert outcomes == ["requeued", "requeued", "consumed", "requeued"]
    waiting = InboxMessage.objects.filter(status="pending")
    assert all(waits(message) for message in waiting)
    assert resume() == (1, 3)
    clock.now += REFRESH_SECONDS
    while receiver.inbox.has_due():
        receiver.run_due(10)
    assert receiver.payloads == [3, 1, 2, 4]


def test_due_messages_of_a_paused_type_wait_at_once(receiver: Receiver) -> None:
    pause()
    messages = [make_received() for _ in range(5)]
    other = make_received(event_type="invoice.sent")
    while receiver.inbox.has_due():
        receiver.run_due(10)
    assert all(waits(message) for message in messages)
    other.refresh_from_db()
    assert other.status == "consumed"


def test_failures_of_a_paused_message_stay_counted(receiver: Receiver) -> None:
    pause()
    message = make_received(retry_count=2)
    receiver.run_due(10)
    message.refresh_from_db()
    assert (message.status, message.retry_count) == ("pending", 2)


def test_records_that_are_yet_to_be_read_are_not_paused_by_their_header(receiver: Receiver) -> None:
    pause(event_type="*")
    unread = make_received(source="", raw_value=b"{}", last_error="boom")
    receiver.run_due(10)
    unread.refresh_from_db()
    assert unread.status == "dead"  # it was read
