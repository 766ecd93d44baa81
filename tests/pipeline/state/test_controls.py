"""Making pending messages due now, and cancelling them: only pending ones that nobody works on, and nobody waits in vain."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import controls
from django_outbox.state.outbox import postpone
from tests.support.changes import changes
from tests.support.inbox import Receiver, make_received, received
from tests.support.outbox import Pipeline, Status, in_thread, is_waiting_for_a_lock, make_message, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db

LATER = DatabaseNow() + timedelta(days=1)


def make_waiting(**fields: Any) -> OutboxMessage:
    return make_message(**{"next_retry_at": LATER, **fields})


def make_due_now(**filters: Any) -> tuple[int, int]:
    return _sum(controls.make_due(OutboxMessage.objects.filter(**filters), using="default"))


def cancel(model: Any = OutboxMessage, **filters: Any) -> tuple[int, int]:
    return _sum(controls.cancel(model.objects.filter(**filters), "Cancelled by ada.\n\nwrong", using="default"))


def _sum(batches: Any) -> tuple[int, int]:
    found = list(batches)
    assert not any(each.released for each in found if not each.changed)
    return sum(each.changed for each in found), sum(each.skipped for each in found)


def is_due(message: OutboxMessage) -> bool:
    return OutboxMessage.objects.due().filter(id=message.id).exists()


# Making due


def test_waiting_message_is_due_now_and_its_failures_stay_counted() -> None:
    message = make_waiting(retry_count=3, last_error="boom", fingerprint="f")
    assert make_due_now() == (1, 0)
    after = row(message)
    assert is_due(message)
    assert (after.status, after.retry_count, after.last_error) == ("pending", 3, "boom")


def test_messages_that_are_due_or_not_pending_stay_as_they_are() -> None:
    messages = [make_message(status) for status in Status.values]
    before = [row(message).updated_at for message in messages]
    assert make_due_now() == (0, 0)
    assert [row(message).updated_at for message in messages] == before


def test_all_batches_are_made_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "BATCH_SIZE", 2)
    messages = [make_waiting() for _ in range(5)]
    assert make_due_now() == (5, 0)
    assert all(is_due(message) for message in messages)


def postponed(behind: OutboxMessage, **fields: Any) -> OutboxMessage:
    """A message that a relay has found due, behind another one of its key."""
    later = make_message(message_key="k", created_at=DatabaseNow() - timedelta(minutes=1), **fields)
    with transaction.atomic():
        postpone([behind.id], using="default")
    assert row(later).next_retry_at == row(behind).next_retry_at
    return later


def test_messages_that_took_over_the_due_time_are_due_too() -> None:
    message = make_waiting(message_key="k")
    later, other = postponed(message), make_waiting(message_key="other")
    written_at = DatabaseNow() - timedelta(seconds=30)
    OutboxMessage.objects.filter(id=later.id).update(updated_at=written_at)
    made_due = controls.make_due(OutboxMessage.objects.filter(id=message.id), using="default")
    assert list(made_due) == [controls.Controlled(1, released=1)]
    assert (is_due(later), is_due(other)) == (True, False)
    assert OutboxMessage.objects.filter(id=later.id, updated_at__gt=written_at).exists()


def test_message_with_its_own_delay_keeps_it() -> None:
    message = make_waiting(message_key="k")
    same = make_waiting(message_key="k")
    OutboxMessage.objects.filter(id=same.id).update(next_retry_at=row(message).next_retry_at)
    longer = make_message(message_key="k", next_retry_at=DatabaseNow() + timedelta(days=2))
    make_due_now(id=message.id)
    assert not is_due(same)
    assert not is_due(longer)


def test_earlier_message_of_the_key_keeps_its_due_time() -> None:
    earlier = make_waiting(message_key="k")
    later = postponed(earlier)
    make_due_now(id=later.id)
    assert (is_due(earlier), is_due(later)) == (False, True)


def test_order_is_kept_as_only_a_later_message_is_due() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    earlier = make_waiting(message_key="k")
    later = postponed(earlier)
    make_due_now(id=later.id)
    pipeline.run()
    assert pipeline.handled == []
    make_due_now()
    pipeline.run()
    assert [str(event.id) for event in pipeline.handled] == [str(earlier.event_id), str(later.event_id)]


@pytest.mark.parametrize(
    ("action", "columns"),
    [
        (controls.make_due, {"next_retry_at"}),
        (partial(controls.cancel, reason="no"), {"status", "next_retry_at", "last_error", "fingerprint"}),
    ],
)
def test_an_action_says_when_and_leaves_other_messages(action: Any, columns: set[str]) -> None:
    make_waiting()
    message = make_waiting()
    chosen = OutboxMessage.objects.filter(id=message.id)
    changed = changes(OutboxMessage, lambda: list(action(chosen, using="default")))
    assert changed == {message.id: {*columns, "updated_at"}}


def act_on(message: OutboxMessage) -> controls.Controlled:
    """Make a message due now."""
    (done,) = controls.make_due(OutboxMessage.objects.filter(id=message.id), using="default")
    return done


def test_messages_of_other_topics_keys_and_without_a_key_keep_the_same_due_time() -> None:
    message = make_waiting(message_key="k")
    without = make_waiting()
    others = [
        make_waiting(),
        make_waiting(message_key="l"),
        make_waiting(message_key="k", topic="another"),
    ]
    at = row(message).next_retry_at
    OutboxMessage.objects.update(next_retry_at=at, updated_at=DatabaseNow() + timedelta(minutes=1))
    assert (act_on(message), act_on(without)) == (controls.Controlled(1), controls.Controlled(1))
    assert not any(is_due(other) for other in others)


def test_messages_behind_one_that_is_due_already_did_not_take_over_its_time() -> None:
    message, later = (make_message(message_key="k") for _ in range(2))
    minute = timedelta(minutes=1)
    OutboxMessage.objects.update(next_retry_at=DatabaseNow() - minute, updated_at=DatabaseNow() + minute)
    chosen = OutboxMessage.objects.filter(id=message.id)
    assert [*controls.cancel(chosen, "no", using="default")] == [controls.Controlled(1)]
    assert is_due(later)


def test_all_that_took_over_the_due_time_are_due_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "BATCH_SIZE", 2)
    message = make_waiting(message_key="k")
    later = [make_message(message_key="k", created_at=DatabaseNow() - timedelta(minutes=1)) for _ in range(5)]
    with transaction.atomic():
        postpone([message.id], using="default")
    assert act_on(message) == controls.Controlled(1, released=5)
    assert all(is_due(each) for each in later)


def test_what_is_chosen_itself_is_not_counted_as_released() -> None:
    message = make_waiting(message_key="k")
    later = postponed(message)
    chosen = OutboxMessage.objects.filter(id__in=[message.id, later.id])
    assert [*controls.make_due(chosen, using="default")] == [controls.Controlled(2)]


# Cancelling


def test_cancelled_message_is_dead_with_its_reason() -> None:
    message = make_waiting(retry_count=3, publish_count=4)
    assert cancel() == (1, 0)
    after = row(message)
    assert (after.status, after.next_retry_at, after.retry_count) == ("dead", None, 3)
    assert (after.last_error, after.fingerprint) == ("Cancelled by ada.\n\nwrong", "Cancelled by ada.")
    failure = MessageFailure.objects.get()
    assert (failure.message_id, failure.stage, failure.attempt, failure.final) == (message.id, "cancel", 4, True)


def test_only_pending_messages_are_cancelled() -> None:
    for status in Status.values:
        make_message(status)
    assert cancel() == (1, 0)
    assert statuses() == ["dead", "published", "consumed", "dead"]
    assert MessageFailure.objects.count() == 1


def test_cancelled_message_is_copied_to_the_topic_of_dead_letters() -> None:
    message = make_message()
    with outbox_settings(DEAD_LETTER_TOPIC="dead"):
        cancel()
    copy = OutboxMessage.objects.exclude(id=message.id).get()
    assert (copy.topic, copy.status) == ("dead", "pending")
    assert copy.headers["kafka_dlt-exception-message"] == "Cancelled by ada.\n\nwrong"
    assert "kafka_dlt-original-consumer-group" not in copy.headers  # no consumer has had it


def test_later_messages_of_a_cancelled_one_continue() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = make_waiting(message_key="k")
    later = postponed(message)
    cancel(id=message.id)
    pipeline.run()
    assert (row(message).status, row(later).status) == ("dead", "consumed")


def test_cancelled_message_holds_its_key_where_dead_ones_do() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = make_waiting(message_key="k")
    later = postponed(message)
    with outbox_settings(ON_DEAD="hold"):
        cancel(id=message.id)
        pipeline.run()
    assert (row(message).status, row(later).status) == ("dead", "pending")


def test_inbox_message_is_cancelled_and_the_next_of_its_key_continues() -> None:
    receiver = Receiver()

    def handle(event: Any) -> None:
        if event.payload == 1:
            raise ValueError
        receiver.handled.append(event)

    receiver.on("order.created", handle)
    receiver.receive(received(1, key="k"), received(2, key="k"))
    first = InboxMessage.objects.order_by("id").first()
    assert first is not None
    assert cancel(InboxMessage, id=first.id) == (1, 0)
    assert receiver.run_due(10) == ["consumed"]
    assert receiver.payloads == [2]
    failure = MessageFailure.objects.get(stage="cancel")
    assert (failure.inbox_message_id, failure.attempt) == (first.id, 1)


def test_inbox_message_between_two_cancelled_ones_continues() -> None:
    first, between, second, _ = (make_received(message_key="k", next_retry_at=LATER) for _ in range(4))
    cancel(InboxMessage, id__in=[first.id, second.id])
    assert list(InboxMessage.objects.due().values_list("id", flat=True)) == [between.id]


def test_waiting_inbox_message_is_handled_once_it_is_due() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    make_received(next_retry_at=LATER)
    assert receiver.run_due(10) == []
    assert _sum(controls.make_due(InboxMessage.objects.all(), using="default")) == (1, 0)
    assert receiver.run_due(10) == ["consumed"]


def test_delivery_that_is_cancelled_before_its_handler_runs_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    receiver.on("order.created")
    message = make_received()
    handle = receiver.inbox.handle

    def cancelled_before(stored: Any) -> Any:
        cancel(InboxMessage)
        return handle(stored)

    monkeypatch.setattr(receiver.inbox, "handle", cancelled_before)
    assert receiver.run_due(10) == ["skipped"]
    message.refresh_from_db()
    assert (message.status, receiver.handled) == ("dead", [])


# Rows that others work on


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", [make_due_now, cancel])
def test_locked_messages_are_skipped(action: Any) -> None:
    locked, free = make_waiting(), make_waiting()
    results: list[tuple[int, int]] = []
    with transaction.atomic():
        list(OutboxMessage.objects.select_for_update().filter(id=locked.id))
        with in_thread(lambda: results.append(action())):
            pass
    assert results == [(1, 1)]
    assert not is_due(locked)
    assert row(locked).status == "pending"
    assert row(free).updated_at > row(locked).updated_at


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_message_that_a_relay_is_postponing_is_due_too() -> None:
    message = make_waiting(message_key="k")
    later = make_message(message_key="k")
    with ExitStack() as stack, transaction.atomic():
        postpone([message.id], using="default")
        stack.enter_context(in_thread(lambda: make_due_now(id=message.id)))
        wait_until(is_waiting_for_a_lock)
    assert is_due(later)


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", [make_due_now, cancel])
def test_earlier_messages_and_those_of_other_keys_are_not_waited_for(action: Any) -> None:
    earlier = make_message(topic="a", message_key="1")
    chosen = [make_waiting(topic=topic, message_key=key).id for topic, key in (("a", "1"), ("b", "2"))]
    others = [make_message(topic=topic, message_key=key) for topic, key in (("a", "2"), ("b", "1"), ("c", "1"))]
    results: list[tuple[int, int]] = []
    with transaction.atomic():
        locked = [earlier.id, *[other.id for other in others]]
        assert len(OutboxMessage.objects.select_for_update().filter(id__in=locked)) == 4
        with in_thread(lambda: results.append(action(id__in=chosen))):
            pass
    assert results == [(2, 0)]


@pytest.mark.parametrize("action", [make_due_now, cancel])
def test_message_that_was_sent_meanwhile_is_skipped(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_outbox.state.dialects.results import Published
    from django_outbox.state.outbox import mark_published

    message = make_waiting()
    atomic = transaction.atomic

    def sent_before(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(transaction, "atomic", atomic)
        mark_published([Published(message.id, 1, 0, 7)], using="default")
        return atomic(*arguments, **options)

    monkeypatch.setattr(transaction, "atomic", sent_before)
    assert action() == (0, 1)
    assert row(message).status == "published"
