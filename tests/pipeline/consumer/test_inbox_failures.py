"""Failures in the inbox: each is a row of its own, written with the message's state."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction

from django_outbox import Event, Reject
from django_outbox.exceptions import Retry
from django_outbox.models import MessageFailure
from django_outbox.state import failures
from django_outbox.state import inbox as inbox_state
from django_outbox.state.transitions import mark_dead, mark_failed
from tests.support.inbox import Receiver, Status, make_received, only, plain, received
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def raising(error: Exception) -> Receiver:
    def handle(event: Any) -> None:
        raise error

    receiver = Receiver()
    receiver.on("order.created", handle)
    return receiver


def kept() -> list[tuple[int, bool]]:
    """Which try failed, and whether it was the last."""
    return list(MessageFailure.objects.order_by("id").values_list("attempt", "final"))


def test_each_try_is_a_failure_of_its_own() -> None:
    receiver = raising(ValueError("boom"))
    with outbox_settings(MAX_RETRY=3):
        receiver.receive(received())
    receiver.retry()
    receiver.retry()
    assert kept() == [(1, False), (2, False), (3, True)]
    assert only().status == "dead"


@pytest.mark.parametrize("counted", [False, True])
def test_failure_says_what_and_where_and_who(counted: bool) -> None:
    raising(ValueError("boom")).receive(received(), counted=counted)
    failure = MessageFailure.objects.get()
    assert (failure.inbox_message, failure.message, failure.stage) == (only(), None, "handle")
    assert failure.error.startswith("ValueError: boom\n")
    assert failure.fingerprint == "ValueError in tests.pipeline.consumer.test_inbox_failures.raising.<locals>.handle"
    assert failure.worker == failures.worker_name()
    assert (only().last_error, only().fingerprint) == (failure.error, failure.fingerprint)


def for_nobody(event: Any) -> None:
    LogEntry.objects.create(user_id=10**6, action_flag=1)


@pytest.mark.databases("sqlite", "postgresql")  # the others check at each statement
@pytest.mark.django_db(transaction=True)
def test_failure_at_the_commit_names_the_handlers() -> None:
    receiver = Receiver()
    receiver.on("order.created", for_nobody)
    for fail in (lambda: receiver.receive(received()), receiver.retry):
        fail()
        failure = MessageFailure.objects.latest("id")
        assert (
            failure.fingerprint
            == "django.db.utils.IntegrityError in tests.pipeline.consumer.test_inbox_failures.for_nobody"
        )
    assert kept() == [(1, False), (2, False)]


def mapper(record: Any) -> Event:
    raise LookupError("x" * 5000)


def test_failure_of_a_mapper_says_where_however_long_the_error() -> None:
    with outbox_settings(INBOX={"mapped": mapper}):
        raising(ValueError("never")).receive(plain(b"{}", topic="mapped"))
    line = mapper.__code__.co_firstlineno + 1
    assert (
        f'File "tests/pipeline/consumer/test_inbox_failures.py", line {line}, in mapper\n    raise LookupError('
        in only().last_error
    )
    assert len(only().last_error) == 2000


@pytest.mark.parametrize("max_retry", [0, 1])
@pytest.mark.parametrize("counted", [False, True])
def test_the_only_try_is_the_last(max_retry: int, counted: bool, caplog: pytest.LogCaptureFixture) -> None:
    with outbox_settings(MAX_RETRY=max_retry):
        raising(ValueError("boom")).receive(received(), counted=counted)
    assert kept() == [(1, True)]
    assert only().status == "dead"
    assert "failed (1 of 1) and is dead" in caplog.text


@pytest.mark.parametrize("error", [Reject("not ours"), Retry(reason="not yet"), Retry()])
def test_handlers_own_words_are_the_error_and_its_place_the_fingerprint(error: Exception) -> None:
    receiver = raising(error)
    for fail in (lambda: receiver.receive(received()), receiver.retry):
        fail()
        failure = MessageFailure.objects.latest("id")
        assert failure.error == only().last_error == str(error)
        assert failure.fingerprint.startswith(f"django_outbox.exceptions.{type(error).__name__} in tests.")
        assert failure.final == isinstance(error, Reject)


def test_a_rejected_retry_is_the_next_try() -> None:
    message = make_received(retry_count=2)
    raising(Reject("no")).retry()
    assert kept() == [(3, True)]
    message.refresh_from_db()
    assert message.retry_count == 2


def test_what_cannot_be_read_fails_at_once_and_once() -> None:
    receiver, record = Receiver(), plain(b"no event")
    receiver.receive(record, received())
    receiver.receive(record)
    assert kept() == [(1, True)]
    assert MessageFailure.objects.get().fingerprint.startswith("It cannot be read: ")


def test_failures_that_no_handler_made_are_told_apart() -> None:
    message = make_received(event_type="order.unheard")
    Receiver().retry()
    message.refresh_from_db()
    assert message.fingerprint == "No handler is registered for '…' (removed, or not deployed yet)."


def test_success_leaves_no_failure() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    receiver.receive(received(), received())
    assert kept() == []


def test_what_is_left_for_later_has_not_failed_yet() -> None:
    now = 0.0

    def handle(event: Any) -> None:
        nonlocal now
        now += 60

    receiver = Receiver(clock=lambda: now)
    receiver.on("order.created", handle)
    records = [received(), received(), plain(b"no event")]
    assert receiver.inbox.receive(records) == ["consumed"]
    assert kept() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("write", [mark_failed, mark_dead])
def test_failure_and_state_are_one_transaction(write: Any) -> None:
    message = make_received(delivery_count=1)
    with transaction.atomic():
        assert write(inbox_state.in_delivery(message.id, using="default"), "boom")
        assert len(kept()) == 1
        transaction.set_rollback(True)
    assert (only().status, only().retry_count, kept()) == (Status.PENDING, 0, [])


@pytest.mark.parametrize("write", [mark_failed, mark_dead])
def test_no_failure_is_kept_of_a_delivery_that_is_over(write: Any) -> None:
    message = make_received(Status.CONSUMED)
    assert write(inbox_state.in_delivery(message.id, using="default"), "late") is None
    assert kept() == []
