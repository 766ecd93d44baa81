"""The inbox: killed processes are counted, and faults of the database are not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from django_outbox.consumer.inbox.stored import Stored
from django_outbox.events.event import Event
from django_outbox.models import InboxMessage
from django_outbox.state import inbox as inbox_state
from django_outbox.worker.transactions import MAX_ATTEMPTS
from tests.support.effects import effect_of_payload, effects, fails
from tests.support.inbox import Receiver, make_received, only, received, statuses

pytestmark = pytest.mark.django_db

A_MINUTE, AN_HOUR = timedelta(minutes=1), timedelta(hours=1)


class Killed(BaseException):
    """Stands for the end of the process; tests with real ones are among the integration tests."""


def killed(event: Event) -> None:
    effect_of_payload(event)
    raise Killed


# Processes that end


def test_careful_deliveries_are_counted_before_the_handler(receiver: Receiver) -> None:
    seen: list[tuple[str, int]] = []
    receiver.on("order.created", lambda event: seen.append((only().status, only().delivery_count)))

    assert receiver.receive(received(1), counted=True) == ["consumed"]

    assert seen == [("pending", 1)]
    assert (only().status, only().payload) == ("consumed", None)


def test_an_event_that_takes_its_process_down_is_dead_after_max_deliveries(receiver: Receiver) -> None:
    receiver.on("killer", killed)
    receiver.on("order.created", effect_of_payload)
    record = received(1, type="killer")
    with pytest.raises(Killed):
        receiver.receive(record, counted=True)
    for _ in range(4):
        receiver.restart()
        assert receiver.receive(record, counted=True) == ["skipped"]
        with pytest.raises(Killed):
            receiver.retry()
    receiver.restart()

    assert receiver.retry() == ["dead"]

    assert only().last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")
    assert effects() == []


def test_an_event_that_only_fails_is_never_taken_for_a_killer(receiver: Receiver) -> None:
    receiver.on("order.created", fails)
    receiver.receive(received(1), counted=True)

    for _ in range(7):
        receiver.restart()
        receiver.retry()

    row = only()
    assert (row.status, row.retry_count, row.delivery_count) == ("pending", 8, 0)


def test_a_claimed_event_is_not_claimed_again_at_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the claim and the lock: another consumer must not count the same delivery."""
    monkeypatch.setitem(inbox_state.count_delivery.__kwdefaults__, "wait", A_MINUTE)
    receiver.on("order.created", killed)
    make_received()
    with pytest.raises(Killed):
        receiver.retry()

    assert receiver.run_due(10) == []
    assert only().delivery_count == 1


def test_a_delivery_that_another_consumer_has_ended_is_not_gone_on_with(receiver: Receiver) -> None:
    """It failed there, so the event waits for its next try."""
    receiver.on("order.created", effect_of_payload)
    row = make_received(delivery_count=0, retry_count=1, next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.inbox.handle(Stored(row.id)) == "skipped"

    assert (only().status, effects()) == ("pending", [])


# Faults that pass


class PassingFault(OperationalError):
    """A deadlock, as PostgreSQL tells it."""

    sqlstate = "40P01"


@pytest.mark.parametrize("counted", [True, False])
def test_a_deadlock_is_tried_again_and_not_counted(receiver: Receiver, counted: bool) -> None:
    faults = [PassingFault("deadlock detected"), PassingFault("deadlock detected")]

    def handle(event: Event) -> None:
        if faults:
            raise faults.pop()
        effect_of_payload(event)

    receiver.on("order.created", handle)

    assert receiver.receive(received(1), counted=counted) == ["consumed"]
    assert (only().retry_count, effects()) == (0, ["1"])


@pytest.mark.parametrize("name", ["add", "count_delivery"])
def test_a_deadlock_before_the_handler_is_tried_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """When a delivery is counted, another consumer may have the row in hand."""
    receiver.on("order.created", effect_of_payload)
    row = make_received() if name == "count_delivery" else None
    do, faults = getattr(inbox_state, name), [PassingFault("deadlock detected"), PassingFault("deadlock detected")]

    def deadlock_at_first(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return do(*args, **options)

    monkeypatch.setattr(inbox_state, name, deadlock_at_first)

    outcomes = receiver.retry() if row else receiver.receive(received(1), counted=True)
    assert (outcomes, faults, only().delivery_count, only().retry_count) == (["consumed"], [], 1, 0)


@pytest.mark.parametrize("counted", [True, False])
def test_an_event_that_deadlocks_again_and_again_lets_others_pass(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        raise PassingFault("deadlock detected")

    receiver.on("unlucky", handle)
    receiver.on("order.created", effect_of_payload)

    done = receiver.receive(received(1, type="unlucky"), received(2), counted=counted)

    assert done == ["requeued", "consumed"]
    row = InboxMessage.objects.get(status="pending")
    assert (row.retry_count, row.delivery_count, row.last_error, row.payload) == (0, 0, "", 1)
    assert row.next_retry_at is not None
    assert row.next_retry_at - row.updated_at > timedelta(seconds=30)
    assert receiver.retry() == ["requeued"]


def test_a_database_that_goes_away_leaves_what_is_not_done(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[int] = [3]

    def handle(event: Event) -> None:
        if event.payload in gone:
            raise OperationalError("the connection is lost")
        effect_of_payload(event)

    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    receiver.on("order.created", handle)
    records = [received(n) for n in range(5)]

    with pytest.raises(OperationalError, match="lost"):
        receiver.inbox.receive(records)
    for record in records[:3]:
        assert receiver.inbox.receive([record]) == ["consumed"]
    with pytest.raises(OperationalError, match="lost"):
        receiver.inbox.receive(records[3:])
    gone.clear()

    assert receiver.receive(*records[3:]) == ["consumed"] * 2
    assert statuses() == ["consumed"] * 5


def test_a_delivery_that_the_process_outlives_is_counted_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(event: Event) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    receiver.on("order.created", handle)
    make_received()

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(OperationalError, match="lost"):
            receiver.retry()

    assert (only().status, only().delivery_count, only().retry_count) == ("pending", 1, 0)
