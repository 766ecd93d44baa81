"""The inbox: a failed event is retried from its row, or dead with its reason."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import InboxMessage
from django_outbox.state.backoff import backoff
from django_outbox.state.retry import retry
from tests.support.effects import effect_of_payload, effects, fails, fails_on
from tests.support.inbox import Receiver, make_received, only, received, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

A_MINUTE, AN_HOUR = timedelta(minutes=1), timedelta(hours=1)


def test_a_failed_event_is_stored_with_its_error_and_retried_from_its_row(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.state.backoff.backoff", lambda failures: backoff(failures) + A_MINUTE)
    receiver.on("order.created", fails_on({"n": 1}))
    record = received({"n": 1}, key="k", id="e1", time="2026-01-02T03:04:05Z", headers=[("h", b"v")])

    assert receiver.receive(record) == ["failed"]

    row = only()
    assert (row.status, row.retry_count, row.delivery_count, row.payload) == ("pending", 1, 0, {"n": 1})
    assert row.last_error.startswith("ArithmeticError: boom\n")
    assert row.next_retry_at is not None
    assert timedelta(seconds=1) <= row.next_retry_at - row.updated_at - A_MINUTE < timedelta(seconds=2)
    assert receiver.receive(record) == ["skipped"]
    assert receiver.run_due(10) == []

    assert receiver.retry() == ["consumed"]

    row = only()
    assert (row.status, row.retry_count, row.last_error, row.payload, row.headers) == ("consumed", 1, "", None, {})
    assert effects() == ["{'n': 1}"]


def test_a_retried_handler_gets_the_same_event(receiver: Receiver) -> None:
    def handle(event: Event) -> None:
        receiver.handled.append(event)
        if event.attempt == 1:
            raise ArithmeticError

    receiver.on("order.created", handle)
    receiver.receive(
        received({"n": [1, None]}, key="k", id="e1", time="2026-01-02T03:04:05.678901Z", headers=[("h", b"v")])
    )

    receiver.retry()

    first, second = receiver.handled
    assert first == Event(**{name: getattr(second, name) for name in Event.__slots__} | {"attempt": 1})
    assert second.attempt == 2


def test_the_last_failure_ends_dead_with_its_reason_and_a_retry_revives(receiver: Receiver) -> None:
    broken = [True]

    def handle(event: Event) -> None:
        if broken:
            raise LookupError("no price")
        effect_of_payload(event)

    receiver.on("order.created", handle)
    with outbox_settings(MAX_RETRY=2):
        receiver.receive(received(1))
    assert receiver.retry() == ["failed"]
    row = only()
    assert (row.status, row.retry_count, row.payload) == ("dead", 2, 1)
    assert row.last_error.startswith("LookupError: no price")

    broken.clear()
    assert retry(InboxMessage.objects.dead(), using="default") == 1
    assert (only().status, only().retry_count) == ("pending", 0)

    assert receiver.run_due(10) == ["consumed"]


@pytest.mark.parametrize("counted", [True, False])
def test_one_failure_is_the_last_if_no_more_are_allowed(receiver: Receiver, counted: bool) -> None:
    receiver.on("order.created", fails)
    with outbox_settings(MAX_RETRY=1):
        assert receiver.receive(received(1), counted=counted) == ["failed"]
    row = only()
    assert (row.status, row.retry_count, row.payload) == ("dead", 1, 1)


@pytest.mark.parametrize("counted", [True, False])
def test_reject_is_dead_at_once(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        raise Reject("the customer is gone")

    receiver.on("order.created", handle)

    assert receiver.receive(received(1), counted=counted) == ["dead"]

    row = only()
    assert (row.status, row.last_error, row.retry_count, row.payload) == ("dead", "the customer is gone", 0, 1)
    assert effects() == []


@pytest.mark.parametrize("counted", [True, False])
def test_retry_waits_as_long_as_it_says_and_counts(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        raise Retry(timedelta(hours=2), "the bank is closed")

    receiver.on("order.created", handle)

    receiver.receive(received(1), counted=counted)

    row = only()
    assert (row.status, row.retry_count, row.last_error) == ("pending", 1, "the bank is closed")
    assert row.next_retry_at is not None
    assert row.next_retry_at - row.updated_at > timedelta(hours=1.9)


@pytest.mark.parametrize("setting", ["ignore", "dead"])
def test_what_no_handler_wants(
    receiver: Receiver, setting: str, django_assert_num_queries: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.on("order.created")
    receiver.on("audit.written", topic="another")
    with outbox_settings(UNKNOWN_EVENT=setting):
        if setting == "ignore":
            with django_assert_num_queries(0):
                assert receiver.receive(received(1, type="audit.written", value=b"{")) == ["skipped"]
        else:
            assert receiver.receive(received(1, type="audit.written")) == ["dead"]
            assert only().last_error == "No handler is registered for 'audit.written' (UNKNOWN_EVENT is 'dead')."
            assert only().payload == 1
            assert "audit.written from warehouse) is dead" in caplog.text


def test_a_stored_event_whose_handler_is_gone_is_tried_again_and_dead_in_the_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.state.backoff.backoff", lambda failures: A_MINUTE)
    make_received(event_type="order.forgotten", max_retry=2)

    assert receiver.retry() == ["failed"]
    assert receiver.run_due(10) == []  # it waits
    assert only().status == "pending"
    assert receiver.retry() == ["failed"]
    assert only().status == "dead"
    assert only().last_error == "No handler is registered for 'order.forgotten' (removed, or not deployed yet)."


def test_a_new_release_handles_what_the_old_one_beside_it_does_not_know(receiver: Receiver) -> None:
    old = Receiver()
    receiver.on("order.split", fails_on(1))
    receiver.receive(received(1, type="order.split"))

    assert old.retry() == ["failed"]
    assert receiver.retry() == ["consumed"]
    assert (effects(), statuses()) == (["1"], ["consumed"])


def test_a_failure_is_logged_with_what_an_operator_asks(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.on("order.created", lambda event: 1 / 0)

    receiver.receive(received({"secret": "hunter2"}))

    (record,) = (r for r in caplog.records if getattr(r, "action", "") == "failed")
    text, _, place = record.getMessage().partition(' ("')
    assert text == (
        f"Inbox message {only().id} (order.created from warehouse) failed (1 of 20) and is pending: "
        f"ZeroDivisionError: division by zero"
    )
    assert re.fullmatch(r'tests/pipeline/consumer/test_inbox_retries\.py", line \d+, in <lambda>\)', place)
    assert "hunter2" not in caplog.text
