"""The state machine: each transition leaves only the state that it is named for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.brokers.base import TopicPartition
from django_outbox.exceptions import MessageNotFound, Retry
from django_outbox.models import OutboxMessage
from django_outbox.state import failures
from django_outbox.state import outbox as state
from django_outbox.state import retry as retrying
from django_outbox.state.dialects.results import Published
from django_outbox.state.retry import retry, retry_in_batches, retry_with_payload
from django_outbox.state.rows import LOCKED_COLUMNS
from django_outbox.state.transitions import mark_dead, mark_failed, requeue
from tests.support.outbox import (
    Status,
    fail,
    in_thread,
    is_waiting_for_a_lock,
    make_message,
    publish_again,
    row,
    statuses,
)
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db

A_DAY = timedelta(days=1)
CLOCKS_APART = timedelta(seconds=0.1)  # at most, the database's and this process's
PLACE = TopicPartition("outbox", 0)


def published(message: OutboxMessage, attempt: int | None = None) -> int:
    attempt = message.publish_count + 1 if attempt is None else attempt
    return state.mark_published([Published(message.id, attempt, 2, 7)], using="default")


def status_of(message: OutboxMessage | None) -> str | None:
    return None if message is None else message.status


def consume(*messages: OutboxMessage, handle: Callable[[], Any] = bool) -> None:
    with transaction.atomic():
        locked = state.lock([message.id for message in messages], using="default")
        handle()
        state.mark_consumed(list(locked.values()), using="default")


def consume_if_published(message: OutboxMessage) -> None:
    with suppress(MessageNotFound):
        consume(message)


def something_before(message: OutboxMessage) -> OutboxMessage:
    """A message that this one has to wait for."""
    return make_message(id=message.id - 1, message_key=message.message_key, next_retry_at=timezone.now() + A_DAY)


TRANSITIONS: dict[str, tuple[str, str, Callable[[OutboxMessage], Any]]] = {
    "mark_published": (Status.PENDING, Status.PUBLISHED, published),
    "mark_failed to send": (
        Status.PENDING,
        Status.PENDING,
        lambda m: mark_failed(state.to_send(m.id, m.publish_count + 1, using="default"), "boom"),
    ),
    "postpone": (
        Status.PENDING,
        Status.PENDING,
        lambda m: state.postpone([something_before(m).id], using="default"),
    ),
    "mark_dead to send": (
        Status.PENDING,
        Status.DEAD,
        lambda m: mark_dead(state.to_send(m.id, 1, using="default"), "too large"),
    ),
    "consume": (
        Status.PUBLISHED,
        Status.CONSUMED,
        lambda m: consume_if_published(m),
    ),
    "count_deliveries": (
        Status.PUBLISHED,
        Status.PUBLISHED,
        lambda m: state.count_deliveries([state.Delivery(m.id, m.publish_count, *PLACE, 0)], using="default"),
    ),
    "mark_failed": (
        Status.PUBLISHED,
        Status.PENDING,
        lambda m: mark_failed(state.in_delivery(m.id, m.publish_count, using="default"), "boom"),
    ),
    "requeue": (
        Status.PUBLISHED,
        Status.PENDING,
        lambda m: requeue(state.in_delivery(m.id, m.publish_count, using="default"), timedelta(0)),
    ),
    "mark_dead": (
        Status.PUBLISHED,
        Status.DEAD,
        lambda m: mark_dead(state.in_delivery(m.id, m.publish_count, using="default"), "no"),
    ),
    "retry": (
        Status.DEAD,
        Status.PENDING,
        lambda m: retry(OutboxMessage.objects.filter(id=m.id), using="default"),
    ),
}


@pytest.mark.parametrize("status", Status.values)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_leaves_only_the_state_that_it_is_for(name: str, status: str) -> None:
    leaves, reaches, transition = TRANSITIONS[name]
    message = make_message(status, id=1000, message_key="k", last_error="before")
    before = OutboxMessage.objects.values().get(id=message.id)

    transition(message)

    after = OutboxMessage.objects.values().get(id=message.id)
    if status == leaves:
        assert after["status"] == reaches
        assert after != before
    else:
        assert after == before


def test_publishing_sets_what_is_known_of_the_record() -> None:
    message = make_message(retry_count=3, last_error="boom")

    assert published(message) == 1

    now = row(message)
    assert (now.publish_count, now.partition, now.offset) == (1, 2, 7)
    assert (now.next_retry_at, now.last_error, now.retry_count) == (None, "", 3)
    assert now.published_at is not None


def test_publishing_many_sets_the_place_of_each_one() -> None:
    first, second, third = (make_message(publish_count=n) for n in (0, 0, 4))

    changed = state.mark_published(
        [
            Published(first.id, 1, 0, 10),
            Published(second.id, 1, 3, None),
            Published(third.id, 5, 0, 11),
        ],
        using="default",
    )

    assert changed == 3
    places = [(m.publish_count, m.partition, m.offset) for m in map(row, (first, second, third))]
    assert places == [(1, 0, 10), (1, 3, None), (5, 0, 11)]


def test_publishing_nothing_asks_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert state.mark_published([], using="default") == 0


# Faults of the system that this package began as: each of these failed there.


def test_regression_a_late_published_does_not_strand_a_message_that_failed_meanwhile() -> None:
    message = make_message()
    published(message, attempt=1)
    assert fail(message) == Status.PENDING  # and waits for its retry

    assert published(message, attempt=1) == 0  # a relay that was slow to say so

    now = row(message)
    assert now.status == Status.PENDING
    assert now.next_retry_at is not None


def test_regression_dead_does_not_overwrite_consumed() -> None:
    message = make_message(Status.CONSUMED)

    assert mark_dead(state.to_send(message.id, 1, using="default"), "late") is None
    assert mark_dead(state.in_delivery(message.id, 1, using="default"), "late") is None
    assert mark_failed(state.in_delivery(message.id, 1, using="default"), "late") is None
    assert mark_failed(state.to_send(message.id, 2, using="default"), "late") is None

    assert (row(message).status, row(message).last_error) == (Status.CONSUMED, "")


def test_regression_consumed_does_not_overwrite_dead() -> None:
    message = make_message(Status.DEAD, last_error="why")

    with pytest.raises(MessageNotFound):
        consume(message)

    assert (row(message).status, row(message).last_error) == (Status.DEAD, "why")


def test_regression_error_text_is_never_cut_inside_a_character() -> None:
    message = make_message(Status.PUBLISHED)

    mark_failed(state.in_delivery(message.id, 1, using="default"), "\N{SNOWMAN}" * 3000)

    assert row(message).last_error == "\N{SNOWMAN}" * 2000


@pytest.mark.parametrize(
    "change",
    [
        lambda: mark_failed(state.in_delivery(404, 1, using="default"), "boom"),
        lambda: mark_failed(state.to_send(404, 1, using="default"), "boom"),
    ],
    ids=["in hand", "to send"],
)
def test_regression_a_missing_row_is_not_a_success(change: Callable[[], Any]) -> None:
    assert change() is None


def test_regression_a_missing_row_is_not_counted() -> None:
    gone = OutboxMessage(id=404, publish_count=1)

    assert published(gone) == 0
    assert mark_dead(state.to_send(404, 1, using="default"), "boom") is None
    assert mark_dead(state.in_delivery(404, 1, using="default"), "boom") is None
    assert state.count_deliveries([state.Delivery(404, None, *PLACE, 0)], using="default") == 0
    assert requeue(state.in_delivery(gone.id, gone.publish_count, using="default"), timedelta(0)) is False
    assert state.lock([404], using="default") == {}


# Failing


def test_a_failure_is_counted_and_waits() -> None:
    message = make_message(Status.PUBLISHED, retry_count=2, delivery_count=3)

    assert status_of(mark_failed(state.in_delivery(message.id, 1, using="default"), "boom")) == Status.PENDING

    now = row(message)
    assert (now.retry_count, now.last_error, now.delivery_count) == (3, "boom", 0)
    assert now.next_retry_at is not None
    wait = now.next_retry_at - now.updated_at
    assert timedelta(seconds=4) <= wait <= timedelta(seconds=4.5)


def test_the_twentieth_failure_is_the_last_by_default() -> None:
    message = make_message(Status.PUBLISHED)
    assert message.max_retry == 20

    assert fail(message, times=19) == Status.PENDING
    assert fail(message) == Status.DEAD

    now = row(message)
    assert (now.retry_count, now.last_error, now.next_retry_at) == (20, "boom", None)


@pytest.mark.parametrize("max_retry", [0, 1])
def test_a_message_without_retries_dies_of_its_first_failure(max_retry: int) -> None:
    message = make_message(Status.PUBLISHED, max_retry=max_retry)

    assert fail(message) == Status.DEAD


def test_a_failure_of_an_older_publication_changes_nothing() -> None:
    message = make_message(Status.PUBLISHED, publish_count=2)

    assert mark_failed(state.in_delivery(message.id, 1, using="default"), "late") is None
    assert mark_dead(state.in_delivery(message.id, 1, using="default"), "late") is None

    assert (row(message).status, row(message).retry_count) == (Status.PUBLISHED, 0)


def test_a_failure_to_send_is_counted_and_ends_dead() -> None:
    message = make_message(max_retry=2)

    assert status_of(mark_failed(state.to_send(message.id, 1, using="default"), "boom")) == Status.PENDING
    assert status_of(mark_failed(state.to_send(message.id, 1, using="default"), "boom")) == Status.DEAD


def test_a_failure_may_bring_its_own_delay() -> None:
    message = make_message(Status.PUBLISHED)

    mark_failed(state.in_delivery(message.id, 1, using="default"), Retry(timedelta(hours=1), "later"))

    now = row(message)
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at == pytest.approx(timedelta(hours=1), abs=timedelta(milliseconds=1))


def test_error_text_is_what_every_database_can_store() -> None:
    message = make_message(Status.PUBLISHED)

    mark_failed(state.in_delivery(message.id, 1, using="default"), "a\0b\ud800c")

    assert row(message).last_error == "a\N{REPLACEMENT CHARACTER}b?c"
    assert failures.error_text(ValueError()) == "ValueError"


# Consuming


def test_what_is_locked_is_what_the_row_has() -> None:
    message = make_message(
        Status.PUBLISHED, message_key="k", headers={"h": "v"}, payload={"é": 1.5}, partition=1, offset=9
    )

    with transaction.atomic():
        (locked,) = state.lock([message.id], using="default").values()

    assert locked.event_id == str(message.event_id)
    for name in (*LOCKED_COLUMNS, "headers", "payload"):
        if name != "event_id":
            assert getattr(locked, name) == getattr(message, name), name


def test_consuming_many_marks_each_and_forgets_the_last_error() -> None:
    messages = [
        make_message(Status.PUBLISHED, publish_count=count, last_error="of the last time") for count in (1, 1, 3)
    ]

    consume(*messages)

    assert all(row(m).consumed_at is not None and row(m).last_error == "" for m in messages)
    assert statuses() == ["consumed"] * 3


@pytest.mark.parametrize("change", ["deleted", "published again"])
def test_a_handler_that_removes_or_changes_its_own_row_is_an_error(change: str) -> None:
    message, other = make_message(Status.PUBLISHED), make_message(Status.PUBLISHED)

    def handle() -> None:
        if change == "deleted":
            message.delete()
        else:
            OutboxMessage.objects.filter(id=message.id).update(publish_count=2)

    with pytest.raises(MessageNotFound, match="was deleted or changed"):
        consume(message, other, handle=handle)

    assert statuses() == ["published", "published"]


# Requeueing, postponing, retrying


def test_what_is_requeued_is_not_counted() -> None:
    message = make_message(Status.PUBLISHED, retry_count=2, delivery_count=1)

    assert requeue(state.in_delivery(message.id, message.publish_count, using="default"), timedelta(seconds=5))

    now = row(message)
    assert (now.status, now.retry_count, now.delivery_count) == (Status.PENDING, 2, 0)
    assert now.next_retry_at is not None
    assert timedelta(seconds=4) < now.next_retry_at - now.updated_at <= timedelta(seconds=5)


def test_a_later_publication_is_not_requeued_for_an_earlier_one() -> None:
    message = make_message(Status.PUBLISHED)
    requeue(state.in_delivery(message.id, message.publish_count, using="default"), timedelta(0))
    publish_again(message)

    assert not requeue(state.in_delivery(message.id, message.publish_count, using="default"), timedelta(0))

    assert (row(message).status, row(message).publish_count) == (Status.PUBLISHED, 2)


def test_requeue_until_a_time() -> None:
    message = make_message(Status.PUBLISHED)
    then = timezone.now().replace(microsecond=0) + A_DAY

    requeue(state.in_delivery(message.id, message.publish_count, using="default"), then)

    assert row(message).next_retry_at == then


def test_what_waits_behind_a_message_waits_as_long_and_never_shorter() -> None:
    tomorrow = timezone.now() + A_DAY
    before = make_message(message_key="k")
    earlier = make_message(message_key="k", next_retry_at=tomorrow)
    soon = make_message(message_key="k")
    late = make_message(message_key="k", next_retry_at=tomorrow + A_DAY)
    others = [make_message(message_key="j"), make_message(message_key="k", topic="other")]

    assert state.postpone([earlier.id], using="default") == 1

    assert row(soon).next_retry_at == tomorrow
    for message in (before, late, *others):
        assert row(message).next_retry_at == message.next_retry_at


def test_what_waits_behind_a_dead_message_looks_again_later() -> None:
    dead = make_message(Status.DEAD, message_key="k")
    message = make_message(message_key="k", next_retry_at=timezone.now() - timedelta(seconds=1))

    assert state.postpone([dead.id], using="default") == 1

    wait = row(message).next_retry_at - message.created_at  # type: ignore[operator]
    assert timedelta(seconds=31) < wait < timedelta(seconds=40)


@pytest.mark.parametrize("status", [Status.PUBLISHED, Status.CONSUMED])
def test_nothing_waits_behind_a_message_that_went_out_meanwhile(status: str) -> None:
    gone = make_message(status, message_key="k")
    message = make_message(message_key="k")

    assert state.postpone([gone.id], using="default") == 0

    assert row(message).next_retry_at == message.next_retry_at


def test_retrying_starts_the_counts_anew_and_keeps_the_error() -> None:
    message = make_message(Status.DEAD, retry_count=20, delivery_count=6, last_error="why")

    assert retry(OutboxMessage.objects.dead(), using="default") == 1

    now = row(message)
    assert (now.status, now.retry_count, now.delivery_count) == (Status.PENDING, 0, 0)
    assert now.last_error == "why"
    assert OutboxMessage.objects.due().get() == now


def test_retrying_touches_only_what_was_chosen_and_is_dead() -> None:
    for status in Status.values:
        make_message(status)
    other = make_message(Status.DEAD, topic="other")

    assert retry(OutboxMessage.objects.exclude(id=other.id), using="default") == 1

    assert statuses() == ["pending", "published", "consumed", "pending", "dead"]


# Due


def test_due_messages_come_by_time_then_id() -> None:
    now = timezone.now() - timedelta(minutes=1)
    third, second = make_message(next_retry_at=now), make_message(next_retry_at=now - A_DAY)
    first = make_message(next_retry_at=now - 2 * A_DAY)
    fourth = make_message(next_retry_at=now)
    make_message(next_retry_at=now + A_DAY)
    make_message(Status.PUBLISHED)

    assert list(OutboxMessage.objects.due()) == [first, second, third, fourth]


# Locks, between sessions


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_who_fails_and_who_consumes_wait_for_each_other() -> None:
    message = make_message(Status.PUBLISHED)
    results: list[OutboxMessage | None] = []

    def fail_it() -> None:
        results.append(mark_failed(state.in_delivery(message.id, 1, using="default"), "boom"))

    with ExitStack() as beside, transaction.atomic():
        held = state.lock([message.id], using="default")[message.id]
        beside.enter_context(in_thread(fail_it))
        wait_until(is_waiting_for_a_lock)
        state.mark_consumed([held], using="default")

    assert results == [None]
    assert row(message).status == Status.CONSUMED


def test_publishing_again_counts_up() -> None:
    message = make_message(Status.PUBLISHED)
    fail(message)

    publish_again(message, 1, 5)

    now = row(message)
    assert (now.status, now.publish_count, now.partition, now.offset) == ("published", 2, 1, 5)


# Retrying many


def test_retry_at_a_rate_spreads_the_due_times_in_the_order_of_the_ids() -> None:
    messages = [make_message(Status.DEAD, message_key=str(number % 2)) for number in range(7)]
    alive = make_message(Status.CONSUMED)
    assert retry(OutboxMessage.objects.all(), using="default", rate=3) == 7
    due = [row(message).next_retry_at for message in messages]
    assert all(due)
    assert due == sorted(due)  # type: ignore[type-var]
    assert [round((each - due[0]).total_seconds()) for each in due if each and due[0]] == [0, 0, 0, 1, 1, 1, 2]
    assert row(alive).status == "consumed"


def test_retry_at_a_rate_goes_on_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BATCH_SIZE", 2)
    messages = [make_message(Status.DEAD, retry_count=20) for _ in range(5)]
    before = timezone.now()
    assert retry(OutboxMessage.objects.all(), using="default", rate=1) == 5
    after = timezone.now()
    for number, message in enumerate(messages):
        due = row(message).next_retry_at
        assert due is not None
        assert before - CLOCKS_APART <= due - timedelta(seconds=number) <= after + CLOCKS_APART
    assert {row(message).retry_count for message in messages} == {0}


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_two_retries_at_once_give_each_message_one_new_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BATCH_SIZE", 2)
    messages = [make_message(Status.DEAD, message_key="k") for _ in range(4)]
    dead = OutboxMessage.objects.all()
    second: list[int] = []

    with ExitStack() as beside, transaction.atomic():
        first = retry_in_batches(dead, using="default", rate=1, status="dead")
        retried = next(first)
        # Sees the same messages dead, and waits for the rows.
        beside.enter_context(
            in_thread(lambda: second.extend(retry_in_batches(dead, using="default", rate=1, status="dead")))
        )
        wait_until(is_waiting_for_a_lock)

    assert (retried, second, list(first)) == (2, [0, 2], [])
    assert {row(message).status for message in messages} == {Status.PENDING}


def test_retry_with_another_payload_replaces_it() -> None:
    message = make_message(Status.DEAD, retry_count=20, payload={"n": 1})
    assert retry_with_payload(message, {"n": 2}, using="default")
    after = row(message)
    assert (after.status, after.payload, after.retry_count) == ("pending", {"n": 2}, 0)


def test_retry_with_another_payload_changes_nothing_that_another_changed_since() -> None:
    message = make_message(Status.DEAD, payload={"n": 1})
    OutboxMessage.objects.filter(id=message.id).update(updated_at=timezone.now() + A_DAY)
    assert not retry_with_payload(message, {"n": 2}, using="default")
    assert (row(message).status, row(message).payload) == ("dead", {"n": 1})


def test_which_of_many_messages_are_published_is_asked_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(state, "UPDATE_SIZE", 2)
    messages = [make_message(status) for status in ("published", "pending", "published", "consumed", "published")]
    ids = [message.id for message in messages]

    with django_assert_num_queries(3):
        assert state.still_published(ids, using="default") == {ids[0], ids[2], ids[4]}
    with django_assert_num_queries(0):
        assert state.still_published([], using="default") == set()
