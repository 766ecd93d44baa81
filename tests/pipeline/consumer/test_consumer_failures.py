"""The consumer: a failed message is counted and retried, or dead with its reason."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import OutboxMessage
from django_outbox.state.retry import retry
from tests.support.effects import effect_of_type, effects
from tests.support.mute import Mute, MuteReject, MuteRetry
from tests.support.outbox import (
    Pipeline,
    Status,
    make_due,
    make_message,
    row,
    statuses,
)
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
def test_what_raises_on_commit_does_so_after_the_message_is_consumed(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.on("order.created", lambda event: transaction.on_commit(lambda: 1 / event.payload))
    make_message(payload=0)

    assert pipeline.turn().consumed == 1
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("kind", [Mute, MuteReject, MuteRetry])
def test_an_error_that_cannot_say_what_it_is_is_a_failure_like_any_other(
    pipeline: Pipeline, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def handle(event: Event) -> None:
        raise kind

    pipeline.on("order.created", handle)
    pipeline.on("order.paid", effect_of_type)
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        message, other = make_message(max_retry=1), make_message(event_type="order.paid")
        pipeline.turn()

    assert (row(message).status, row(other).status) == ("dead", "consumed")
    assert "<exception str() failed>" in row(message).last_error
    assert "<exception str() failed>" in caplog.text
    copy = OutboxMessage.objects.get(topic="outbox.dead")
    assert copy.headers["kafka_dlt-exception-message"] == "<exception str() failed>"


@pytest.mark.parametrize("steady", [True, False])
def test_a_handler_that_awaits_what_was_cancelled_has_failed(steady: bool) -> None:
    async def handle(event: Event) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", handle)
    pipeline.on("order.paid", effect_of_type)
    message, other = make_message(), make_message(event_type="order.paid")

    pipeline.turn()

    assert (row(message).status, row(message).retry_count, row(other).status) == ("pending", 1, "consumed")
    assert "The handler awaited a cancelled task." in row(message).last_error
    assert row(message).fingerprint.startswith(
        "django_outbox.exceptions.HandlerCancelled in tests.pipeline.consumer.test_consumer_failures."
    )


def test_a_failed_message_is_retried_until_it_works(pipeline: Pipeline) -> None:
    failures = [ArithmeticError("one"), KeyError("two")]

    def handle(event: Event) -> None:
        if failures:
            raise failures.pop(0)
        effect_of_type(event)

    pipeline.on("order.created", handle)
    message = make_message()

    for expected in ("ArithmeticError: one", "KeyError: 'two'"):
        pipeline.turn()
        assert row(message).last_error.startswith(expected)
        assert row(message).status == Status.PENDING
        make_due(message)
    pipeline.run()

    now = row(message)
    assert (now.status, now.retry_count, now.publish_count, now.last_error) == ("consumed", 2, 3, "")
    assert effects() == ["order.created"]


def test_the_last_failure_ends_dead_with_its_reason_and_a_retry_revives(pipeline: Pipeline) -> None:
    broken = [True]

    def handle(event: Event) -> None:
        if broken:
            raise LookupError("no price for 'tent'")

    pipeline.on("order.created", handle)
    message = make_message(max_retry=2)
    for _ in range(2):
        pipeline.run()
        make_due(message)
    assert row(message).status == Status.DEAD
    assert row(message).last_error.startswith("LookupError: no price for 'tent'")

    broken.clear()
    retry(OutboxMessage.objects.dead(), using="default")
    pipeline.run()

    assert row(message).status == Status.CONSUMED


def test_a_failed_message_never_blocks_its_partition(pipeline: Pipeline) -> None:
    pipeline.on("bad", lambda event: 1 / 0)
    pipeline.on("order.created", effect_of_type)
    make_message(event_type="bad")
    for _ in range(3):
        make_message()

    batch = pipeline.turn()

    assert (batch.failed, batch.consumed) == (1, 3)
    assert statuses() == ["pending", "consumed", "consumed", "consumed"]


def test_reject_is_dead_at_once(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        effect_of_type(event)
        raise Reject("the customer is gone")

    pipeline.on("order.created", handle)
    message = make_message()

    assert pipeline.turn().dead == 1

    now = row(message)
    assert (now.status, now.last_error, now.retry_count) == (Status.DEAD, "the customer is gone", 0)
    assert not effects()


def test_retry_waits_as_long_as_it_says_and_counts(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise Retry(timedelta(hours=2), "the bank is closed")

    pipeline.on("order.created", handle)
    message = make_message()

    pipeline.turn()

    now = row(message)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 1, "the bank is closed")
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at > timedelta(hours=1.9)


@pytest.mark.parametrize("delay", [1.8e12, timedelta.max, timedelta.min, "5"])  # the first: milliseconds since 1970
def test_retry_at_no_time_that_could_be_meant_is_a_failure_and_harms_no_other(pipeline: Pipeline, delay: Any) -> None:
    def handle(event: Event) -> None:
        raise Retry(delay, "not now")

    pipeline.on("order.created", handle)
    message, other = make_message(message_key="k"), make_message(event_type="other.kind")

    pipeline.turn()
    make_message(event_type="other.kind")
    pipeline.turn()

    now = row(message)
    assert (now.status, now.retry_count) == (Status.PENDING, 1)
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at < timedelta(seconds=2)
    assert statuses()[1:] == [Status.PUBLISHED] * 2
    assert row(other).publish_count == 1


def test_retry_without_delay_takes_the_usual_backoff(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise Retry

    pipeline.on("order.created", handle)
    message = make_message()

    pipeline.turn()

    wait = row(message).next_retry_at - row(message).updated_at  # type: ignore[operator]
    assert timedelta(seconds=1) <= wait < timedelta(seconds=1.2)


def test_a_handler_that_breaks_the_transaction_fails_alone(pipeline: Pipeline) -> None:
    """It catches a database error, so that nothing more can be done in its transaction."""

    def handle(event: Event) -> None:
        try:
            OutboxMessage.objects.create(event_id=event.id, event_type="copy", topic="t", payload=1)
        except IntegrityError:
            transaction.set_rollback(True)

    pipeline.on("order.created", handle)
    message = make_message()

    batch = pipeline.turn()

    assert batch.failed == 1
    assert row(message).status == Status.PENDING
    assert "TransactionManagementError" in row(message).last_error


def test_a_failure_is_logged_with_what_an_operator_asks(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.on("order.created", lambda event: 1 / 0)
    message = make_message(payload={"secret": "hunter2"})

    pipeline.turn()

    (record,) = (r for r in caplog.records if getattr(r, "action", "") == "failed")
    text, _, place = record.getMessage().partition(' ("')
    assert text == (
        f"Message {message.id} (order.created) failed (1 of 20) and is pending: ZeroDivisionError: division by zero"
    )
    assert re.fullmatch(r'tests/pipeline/consumer/test_consumer_failures\.py", line \d+, in <lambda>\)', place)
    assert (record.message_id, record.attempt, record.topic) == (message.id, 1, "outbox")  # type: ignore[attr-defined]
    assert "hunter2" not in caplog.text
