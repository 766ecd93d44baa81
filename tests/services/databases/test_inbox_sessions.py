"""Several consumers of one group: each event is handled once, in order, whoever gets there first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.events.event import Event
from django_outbox.models import InboxMessage
from django_outbox.state import inbox as inbox_state
from django_outbox.state.inbox_rows import pending_row
from django_outbox.state.ordering import Blocker
from django_outbox.state.retry import retry
from tests.support.app.models import Effect
from tests.support.inbox import Receiver, Status, make_due, make_received, plain, received, statuses
from tests.support.outbox import in_thread, is_waiting_for_a_lock
from tests.support.processes import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.databases("postgresql", "mariadb", "mysql")]

AN_HOUR = timedelta(hours=1)


def effect(event: Event) -> None:
    Effect.objects.create(name=str(event.payload), event_id=event.id)


def effects() -> list[str]:
    return list(Effect.objects.order_by("id").values_list("name", flat=True))


def receiver_with(handle: Callable[[Event], Any]) -> Receiver:
    receiver = Receiver(clock=time.monotonic)
    receiver.on("order.created", handle)
    return receiver


class Gate:
    """A handler that runs until it is told to go on."""

    def __init__(self, *, fails: bool = False) -> None:
        self.running, self.go_on = threading.Event(), threading.Event()
        self.fails = fails

    def __call__(self, event: Event) -> None:
        effect(event)
        self.running.set()
        assert self.go_on.wait(30)
        if self.fails:
            raise ArithmeticError("boom")


def stored(record: ReceivedRecord) -> InboxMessage:
    event = Reader(using="default", accepts=lambda *args: True, accepts_own=False).read(record)
    assert event is not None
    return pending_row(event, "tests", timedelta(hours=1))


def legacy(record: ReceivedRecord) -> Event:
    number = int(record.value or b"")
    return Event(type="order.created", payload=number, key=str(number % 3))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_two_consumers_with_the_same_records_handle_each_once(settings: Any, counted: bool, mapped: bool) -> None:
    """As in a rebalance: both have read them, neither has committed the offset."""
    settings.OUTBOX = {**settings.OUTBOX, "INBOX": {"elsewhere": legacy}}
    records = [plain(b"%d" % n) if mapped else received(n, key=str(n % 3)) for n in range(30)]
    start = threading.Barrier(2)

    def work() -> None:
        receiver = receiver_with(effect)
        start.wait(30)
        left = records
        while left:
            left = left[len(receiver.receive(*left, counted=counted)) :]

    with in_thread(work), in_thread(work):
        pass

    def finished() -> bool:
        make_due()
        receiver_with(effect).run_due(100)
        return statuses() == ["consumed"] * 30

    wait_until(finished)
    assert sorted(effects(), key=int) == [str(n) for n in range(30)]
    for key in range(3):
        of_key = [int(name) for name in effects() if int(name) % 3 == key]
        assert of_key == sorted(of_key)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("fails", [True, False])
def test_a_copy_waits_for_the_end_of_the_first_and_takes_over_if_that_fails(fails: bool) -> None:
    record = received(1)
    gate = Gate(fails=fails)
    done: list[str] = []

    with in_thread(lambda: receiver_with(gate).receive(record)):
        assert gate.running.wait(30)
        with in_thread(lambda: done.extend(receiver_with(effect).receive(record))):
            wait_until(is_waiting_for_a_lock)
            gate.go_on.set()

    if statuses() == ["pending"]:  # the first was quicker to store its failure
        assert done == ["skipped"]
        receiver_with(effect).retry()
    else:
        assert done == ["consumed" if fails else "skipped"]
    assert statuses() == ["consumed"]
    assert effects() == ["1"]


@pytest.mark.databases("postgresql")
def test_what_is_behind_one_that_another_consumer_stores_meanwhile_waits_for_it() -> None:
    """The insert waits for that other consumer, so only what is seen after it counts."""
    first, second = received(1, key="a"), received(2, key="a")
    done: list[str] = []

    with ExitStack() as beside, transaction.atomic():
        inbox_state.add([stored(first)], using="default")
        beside.enter_context(in_thread(lambda: done.extend(receiver_with(effect).receive(first, second))))
        wait_until(is_waiting_for_a_lock)

    assert done == ["skipped", "requeued"]
    assert (statuses(), effects()) == (["pending", "pending"], [])


@pytest.mark.parametrize("seconds", [0.0, 1.1])
def test_what_is_behind_one_in_hand_waits_and_others_pass(seconds: float) -> None:
    """Also when the other has been at it for so long that it would be due again."""
    for payload, key in enumerate(["a", "a", "a", "b"], 1):
        make_received(payload=payload, message_key=key)
    gate = Gate()
    other = receiver_with(effect)

    with in_thread(lambda: receiver_with(gate).run_due(1)):
        assert gate.running.wait(30)
        started = time.monotonic()
        done = other.run_due(10)
        wait_until(lambda: time.monotonic() - started >= seconds)
        done += other.run_due(10)
        assert done.count("consumed") == 1
        assert effects() == ["4"]
        gate.go_on.set()

    assert effects() == ["1", "4"] or effects() == ["4", "1"]
    assert "consumed" in other.run_due(10)
    assert effects()[-1] in ("2", "3")
    assert effects()[2] == "2"


@pytest.mark.parametrize(("overdue", "wait"), [(0.5, 1), (20, 20), (3600, 32)])
def test_the_longer_one_is_in_hand_the_longer_all_that_is_behind_it_waits(overdue: float, wait: float) -> None:
    """Or all of it would be written anew each second."""
    now = timezone.now()
    first = make_received(message_key="a", next_retry_at=now - timedelta(seconds=overdue))
    for _ in range(3):
        make_received(message_key="a", next_retry_at=now - timedelta(seconds=0.1))

    with transaction.atomic():
        InboxMessage.objects.select_for_update().get(id=first.id)
        with in_thread(lambda: receiver_with(effect).run_due(1)):
            pass

    waits = {due - now for due in InboxMessage.objects.filter(id__gt=first.id).values_list("next_retry_at", flat=True)}
    assert len(waits) == 1
    assert timedelta(seconds=wait) <= waits.pop() < timedelta(seconds=2 * wait + 10)


@pytest.mark.databases("postgresql")
def test_what_is_let_wait_while_the_one_before_it_ends_goes_on_at_once() -> None:
    first, second = (make_received(payload=n, message_key="a") for n in (1, 2))
    consumer = receiver_with(effect)

    with ExitStack() as threads, transaction.atomic():
        assert inbox_state.postpone(second, Blocker(first.id, AN_HOUR), using="default") == 1
        threads.enter_context(in_thread(lambda: consumer.run_due(1)))
        wait_until(is_waiting_for_a_lock)

    assert effects() == ["1"]
    assert consumer.run_due(1) == ["consumed"]


def test_letting_a_key_wait_does_not_wait_for_what_others_have_locked() -> None:
    """Two consumers that come from two ends of a key would wait for one another."""
    first, _, third = (
        make_received(message_key="a", next_retry_at=timezone.now() + timedelta(hours=hours)) for hours in (1, -1, -1)
    )
    with transaction.atomic():
        InboxMessage.objects.select_for_update().get(id=third.id)
        with in_thread(lambda: receiver_with(effect).run_due(1)):
            pass

    due = InboxMessage.objects.order_by("id").values_list("next_retry_at", flat=True)
    assert list(due) == [first.next_retry_at, first.next_retry_at, third.next_retry_at]


def test_what_was_let_go_meanwhile_does_not_wait_again() -> None:
    first = make_received(Status.CONSUMED, message_key="a")
    second = make_received(message_key="a")

    with transaction.atomic():
        assert inbox_state.postpone(second, Blocker(first.id, timedelta(hours=1)), using="default") == 0


def test_many_consumers_share_what_is_due_and_keep_its_order() -> None:
    number = 60
    for n in range(number):
        make_received(payload=n, message_key=str(n % 4))

    def work() -> None:
        receiver = receiver_with(effect)
        wait_until(lambda: receiver.run_due(5) is None or "pending" not in statuses())

    with in_thread(work), in_thread(work), in_thread(work):
        pass

    assert statuses() == ["consumed"] * number
    assert sorted(effects(), key=int) == [str(n) for n in range(number)]
    for key in range(4):
        of_key = [int(name) for name in effects() if int(name) % 4 == key]
        assert of_key == sorted(of_key)


def test_a_message_in_hand_is_passed_over() -> None:
    make_received(payload=1)
    make_received(payload=2)
    gate = Gate()

    with in_thread(lambda: receiver_with(gate).run_due(1)):
        assert gate.running.wait(30)
        assert receiver_with(effect).run_due(10) == ["consumed"]
        gate.go_on.set()

    assert sorted(effects()) == ["1", "2"]


def test_an_operators_retry_while_a_message_is_handled_does_not_run_it_twice() -> None:
    make_received(payload=1)
    gate = Gate()

    with in_thread(lambda: receiver_with(gate).run_due(1)):
        assert gate.running.wait(30)
        assert retry(InboxMessage.objects.all(), using="default") == 0
        gate.go_on.set()

    assert effects() == ["1"]
