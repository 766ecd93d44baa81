"""Failures: each is a row that says what, where and by whom, written with the count of it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from django.db import transaction

from django_outbox import Reject, failures, state
from django_outbox.backoff import backoff
from django_outbox.exceptions import Retry
from django_outbox.models import MessageFailure
from tests.outbox import Pipeline, Status, make_due, make_message, row

pytestmark = pytest.mark.django_db


def raised(function: Any) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def only_failure() -> MessageFailure:
    return MessageFailure.objects.get()


# Rows


def test_failure_of_a_handler_is_kept_with_its_publication() -> None:
    message = make_message(Status.PUBLISHED, publish_count=3, partition=2, offset=7)
    state.mark_failed(message.id, 3, ValueError("boom"), using="default")
    failure = only_failure()
    assert failure.message_id == message.id
    assert (failure.stage, failure.attempt, failure.partition, failure.offset) == ("handle", 3, 2, 7)
    assert (failure.error, failure.final) == ("ValueError: boom", False)
    assert failure.worker == f"{failures.host()}:{os.getpid()}"
    assert abs((failure.occurred_at - row(message).updated_at).total_seconds()) < 60


def test_failure_to_send_is_that_of_the_next_publication() -> None:
    message = make_message(publish_count=1, partition=2, offset=7)
    state.mark_unsent(message.id, 2, "too busy", using="default")
    failure = only_failure()
    assert (failure.stage, failure.attempt, failure.partition, failure.offset) == ("send", 2, None, None)


def test_last_failure_is_final() -> None:
    message = make_message(Status.PUBLISHED, retry_count=19, max_retry=20)
    state.mark_failed(message.id, 1, "boom", using="default")
    assert only_failure().final


@pytest.mark.parametrize(
    ("status", "give_up", "stage"), [("pending", "mark_refused", "send"), ("published", "mark_rejected", "handle")]
)
def test_giving_up_is_a_final_failure(status: str, give_up: str, stage: str) -> None:
    message = make_message(status, publish_count=1)
    arguments = [message.id] if give_up == "mark_refused" else [message.id, 1]
    assert getattr(state, give_up)(*arguments, "never", using="default")
    assert (only_failure().final, only_failure().stage, row(message).fingerprint) == (True, stage, "never")


def test_no_failure_is_kept_of_what_was_not_counted() -> None:
    message = make_message(Status.PUBLISHED, publish_count=2)
    state.mark_failed(message.id, 1, "late", using="default")
    state.mark_rejected(message.id, 1, "late", using="default")
    state.mark_refused(message.id, "late", using="default")
    assert not MessageFailure.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_failure_and_its_count_are_one_transaction() -> None:
    message = make_message(Status.PUBLISHED)
    with transaction.atomic():
        state.mark_failed(message.id, 1, "boom", using="default")
        transaction.set_rollback(True)
    assert row(message).retry_count == 0
    assert not MessageFailure.objects.exists()


def test_message_has_the_fingerprint_of_its_last_failure() -> None:
    message = make_message(Status.PUBLISHED)
    state.mark_failed(message.id, 1, ValueError("boom"), using="default")
    assert row(message).fingerprint == only_failure().fingerprint == "ValueError"


def test_each_try_of_a_handler_is_a_failure_of_its_own() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", lambda event: json.loads("{"))
    message = make_message(max_retry=3)
    for _ in range(3):
        pipeline.turn()
        make_due(message)
    found = list(MessageFailure.objects.order_by("id").values_list("attempt", "final", "partition"))
    assert found == [(1, False, 0), (2, False, 0), (3, True, 0)]


# Texts


def test_error_text_names_class_text_and_place() -> None:
    try:
        raise LookupError("no price for 'tent'")
    except LookupError as error:
        text = failures.error_text(error)

    assert text.startswith("LookupError: no price for 'tent'\n")
    assert 'test_failures.py", line ' in text
    assert len(text) <= 2000


def test_error_text_leaves_out_the_frames_of_the_outbox() -> None:
    with pytest.raises(TypeError) as caught:
        backoff(None)  # type: ignore[arg-type]

    assert "test_failures.py" in failures.error_text(caught.value)
    assert "/backoff.py" not in failures.error_text(caught.value)


# Fingerprints


class Shop:
    def ship(self, item: Any) -> None:
        raise LookupError(f"no weight for {item}")


def test_fingerprint_is_the_class_and_the_place() -> None:
    first, second = (raised(lambda item=item: Shop().ship(item)) for item in ("piano", "aquarium"))  # type: ignore[misc]
    assert failures.fingerprint(first) == "LookupError in tests.test_failures.Shop.ship"
    assert failures.fingerprint(second) == failures.fingerprint(first)


def test_place_is_in_the_handlers_own_code_not_in_what_it_calls() -> None:
    error = raised(lambda: json.loads("{"))
    assert failures.fingerprint(error) == (
        "json.decoder.JSONDecodeError in "
        "tests.test_failures.test_place_is_in_the_handlers_own_code_not_in_what_it_calls.<locals>.<lambda>"
    )


def test_place_of_a_coroutine_is_the_coroutine() -> None:
    async def handler(event: Any) -> None:
        raise OSError("away")

    pipeline = Pipeline()
    pipeline.on("order.created", handler)
    message = make_message()
    pipeline.turn()
    assert row(message).fingerprint.startswith("OSError in tests.test_failures.test_place_of_a_coroutine")


@pytest.mark.parametrize("error", [Reject("we do not ship to Atlantis"), Retry(reason="out of stock")])
def test_handlers_own_words_are_the_error_and_its_place_the_fingerprint(error: Exception) -> None:
    def handler(event: Any) -> None:
        raise error

    pipeline = Pipeline()
    pipeline.on("order.created", handler)
    message = make_message()
    pipeline.turn()
    assert row(message).last_error == str(error)
    name = type(error).__name__
    assert row(message).fingerprint.startswith(f"django_outbox.exceptions.{name} in tests.test_failures.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The record has 1048600 bytes; 1000000 are allowed", "The record has # bytes; # are allowed"),
        ("No handler wants 'order.paid'\nat all", "No handler wants '…'"),
        ("", ""),
        ("\0\ud800", "?"),
    ],
)
def test_fingerprint_of_a_text_leaves_out_what_differs_each_time(text: str, expected: str) -> None:
    assert failures.fingerprint(text) == expected


def test_fingerprint_fits() -> None:
    assert len(failures.fingerprint("x" * 1000)) == 200
