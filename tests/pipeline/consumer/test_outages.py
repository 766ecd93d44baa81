"""Outages of the database that a message causes: later messages are handled, and it is not counted as a killer."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.db import OperationalError

from django_outbox.events.event import Event
from django_outbox.worker.transactions import MAX_ATTEMPTS, OutageCounts, retry_transaction
from tests.support import inbox
from tests.support.inbox import Receiver, make_received, received
from tests.support.outages import run_through_outages
from tests.support.outbox import Pipeline, Status, make_message, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error of the database that has no code is an outage."""
    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)


def fails(event: Event) -> None:
    raise OperationalError("server closed the connection unexpectedly")


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_a_message_that_comes_with_outages_lets_its_neighbours_pass(
    steady: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(steady=steady)
    pipeline.on("falls", fails)
    pipeline.on("order.created")
    suspect, neighbour = make_message(event_type="falls"), make_message()
    pipeline.relay.run_once()

    assert run_through_outages(pipeline, MAX_ATTEMPTS + 3) == MAX_ATTEMPTS + 1

    assert row(neighbour).status == Status.CONSUMED
    assert (row(suspect).status, row(suspect).retry_count) == (Status.PENDING, 0)
    assert f"Message {suspect.id} waits 32 s, because the database failed 5 times: server closed" in caplog.text


@pytest.mark.usefixtures("lost")
def test_a_stored_event_that_comes_with_outages_lets_others_pass() -> None:
    pipeline = Pipeline()
    pipeline.on("falls", fails)
    pipeline.on("order.created")
    make_received(event_type="falls")
    message = make_message()
    pipeline.relay.run_once()

    assert run_through_outages(pipeline, MAX_ATTEMPTS + 1) == MAX_ATTEMPTS

    assert row(message).status == Status.CONSUMED
    assert (inbox.only().status, inbox.only().retry_count) == ("pending", 0)


@pytest.mark.usefixtures("lost")
def test_a_fresh_event_that_comes_with_outages_lets_others_pass() -> None:
    receiver = Receiver()
    receiver.on("falls", fails)
    receiver.on("order.created")
    records, outcomes = [received(type="falls"), received()], []
    for _ in range(MAX_ATTEMPTS + 3):
        with suppress(OperationalError):
            outcomes += receiver.inbox.receive(records[len(outcomes) :])
        if len(outcomes) == len(records):
            break
    assert outcomes == ["requeued", "consumed"]
    assert sorted(inbox.statuses()) == ["consumed", "pending"]


def test_outages_that_a_process_outlives_are_one_delivery(lost: None) -> None:
    """So the first message after a start is not taken for one that kills its process."""
    left = iter(range(MAX_ATTEMPTS - 1))

    def falls_for_a_while(event: Event) -> None:
        if next(left, None) is not None:
            fails(event)

    pipeline = Pipeline()
    pipeline.on("order.created", falls_for_a_while)
    message = make_message()
    pipeline.relay.run_once()
    assert run_through_outages(pipeline, MAX_ATTEMPTS) == MAX_ATTEMPTS - 1
    assert (row(message).status, row(message).delivery_count) == (Status.CONSUMED, 1)


@pytest.mark.usefixtures("lost")
def test_outages_are_remembered_of_work_that_met_them() -> None:
    outages = OutageCounts()
    calls: list[str] = []

    def work() -> str:
        calls.append("work")
        raise OperationalError("gone")

    def give_up(fault: Exception) -> str:
        return f"gave up: {fault}"

    def once() -> str:
        return retry_transaction(work, using="default", on_exhausted=give_up, outages=outages, work_id=1)

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(OperationalError):
            once()
    assert retry_transaction(lambda: "other", using="default", outages=outages, work_id=2) == "other"
    assert once() == "gave up: gone"
    assert len(calls) == MAX_ATTEMPTS
    with pytest.raises(OperationalError):  # and it begins anew
        once()
