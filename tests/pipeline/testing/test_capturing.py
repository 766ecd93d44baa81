"""assert_published() and its relatives: what matches, and what a failure shows."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.db import IntegrityError, transaction

from django_outbox import TOMBSTONE, RawBytes, publish
from django_outbox.models import OutboxMessage
from django_outbox.testing import assert_nothing_published, assert_published, captured_messages
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db


def order(payload: Any = None, event_type: str = "order.created", **options: Any) -> Any:
    with transaction.atomic():
        return publish(event_type, {"order_id": 7} if payload is None else payload, **options)


def failure_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_published(*arguments, **options)
    return str(caught.value)


# What matches


def test_it_returns_the_messages_that_match() -> None:
    first = order(key="7")
    order(key="8")
    last = order(key="7")
    assert assert_published("order.created", key="7") == [first, last]
    assert assert_published("order.created", key="7", count=2) == [first, last]
    assert assert_published("order.paid", count=0) == []


@pytest.mark.parametrize(
    ("expected", "other"),
    [
        ({"key": "7"}, {"key": "8"}),
        ({"key": 7}, {"key": 8}),
        ({"topic": "orders"}, {"topic": "outbox"}),
        ({"version": "v2"}, {"version": "v1"}),
        ({"payload": {"order_id": 7, "lines": [{"sku": "a", "count": 1}]}}, {"payload": {"order_id": 7}}),
        ({"payload": {"order_id": 7, "lines": mock.ANY}}, {"payload": {"order_id": 7, "lines": [], "more": 1}}),
        ({"payload__contains": {"order_id": 7}}, {"payload__contains": {"order_id": 8}}),
        ({"payload__contains": {"lines": [{"sku": "a"}]}}, {"payload__contains": {"lines": [{"sku": "b"}]}}),
        ({"payload__contains": {}}, {"payload__contains": {"more": 1}}),
    ],
)
def test_every_argument_that_is_given_must_fit(expected: dict[str, Any], other: dict[str, Any]) -> None:
    order({"order_id": 7, "lines": [{"sku": "a", "count": 1}]}, key="7", topic="orders", version="v2")
    assert_published("order.created", **expected)
    failure_of("order.created", **other)


@dataclass
class Paid:
    amount: Decimal
    on: date


@pytest.mark.parametrize(
    "payload",
    [
        {"amount": Decimal("49.00"), "on": date(2026, 1, 1)},
        {"id": uuid.UUID(int=7), "parts": (1, 2), 3: None},
        Paid(Decimal("49.00"), date(2026, 1, 1)),
        None,
        [1, {"a": "b"}],
        RawBytes(b"abc"),
        TOMBSTONE,
    ],
)
def test_a_payload_is_expected_as_it_is_published(payload: Any) -> None:
    with transaction.atomic():
        publish("order.created", payload, key="7")
    assert_published("order.created", payload=payload)
    assert_published("order.created", payload__contains=payload)
    failure_of("order.created", payload={"other": 1})


def test_what_is_rolled_back_is_not_published() -> None:
    with transaction.atomic():
        publish("order.created", 1)
        transaction.set_rollback(True)
    assert_nothing_published()


def test_messages_of_another_service_in_the_same_table_do_not_count() -> None:
    make_message(source="other")
    assert_nothing_published()


def test_payload_and_a_part_of_it_exclude_each_other() -> None:
    with pytest.raises(TypeError, match="Pass either payload or payload__contains"):
        assert_published("order.created", payload=1, payload__contains=1)


# Of a block


def test_only_messages_of_the_block_are_captured() -> None:
    order(key="1")
    with captured_messages() as messages:
        order(key="2")
        assert [message.message_key for message in messages] == ["2"]
        order(key="3")
    order(key="4")

    assert [message.message_key for message in messages] == ["2", "3"]
    assert (len(messages), messages[1].message_key, messages[-1:][0].message_key) == (2, "3", "3")
    messages.assert_published("order.created", key="2", count=1)
    with pytest.raises(AssertionError, match="Found none"):
        messages.assert_published("order.created", key="4")
    with pytest.raises(AssertionError, match="Expected no message"):
        messages.assert_nothing_published()


def test_a_block_that_raises_keeps_what_it_has_published() -> None:
    with suppress(ZeroDivisionError), captured_messages() as messages:
        order(key="1")
        _ = 1 / 0
    order(key="2")
    assert [message.message_key for message in messages] == ["1"]


def test_a_block_that_breaks_its_transaction_publishes_nothing() -> None:
    with suppress(IntegrityError), transaction.atomic(), captured_messages() as messages:
        publish("order.created", 1)
        make_message(id=OutboxMessage.objects.latest("id").id)
    order()
    assert list(messages) == []


def test_a_block_that_publishes_nothing() -> None:
    order()
    with captured_messages() as messages:
        pass
    assert not messages
    messages.assert_nothing_published()


# What a failure shows


def test_a_failure_shows_what_was_published_and_the_difference_to_the_nearest() -> None:
    order({"order_id": 7}, "order.paid", key="7")
    order({"order_id": 7, "amount": "50.00", "lines": []}, key="7")
    order({"order_id": 8, "amount": "10.00"}, key="8")

    assert failure_of("order.created", key=7, payload__contains={"order_id": 7, "amount": Decimal("49.00")}) == (
        'Expected a message like this: event_type "order.created", key "7", payload contains '
        '{"amount": "49.00", "order_id": 7}\n'
        "Found none. Published:\n"
        '  1. order.paid, key "7", topic outbox: {"order_id": 7}\n'
        '  2. order.created, key "7", topic outbox: {"amount": "50.00", "lines": [], "order_id": 7}  <-- nearest\n'
        '  3. order.created, key "8", topic outbox: {"amount": "10.00", "order_id": 8}\n'
        "Difference to the nearest (- expected, + published):\n"
        '  event_type: "order.created"\n'
        '  key: "7"\n'
        "  payload: {\n"
        '-   "amount": "49.00",\n'
        '+   "amount": "50.00",\n'
        '    "order_id": 7\n'
        "  }"
    )


def test_a_misspelt_type_is_shown_beside_the_nearest() -> None:
    order(1, "invoice.paid")
    order(2, "order.created")
    failure = failure_of("order.create")
    assert "  2. order.created, topic outbox: 2  <-- nearest\n" in failure
    assert failure.endswith('- event_type: "order.create"\n+ event_type: "order.created"')


def test_a_wrong_count_shows_which_messages_match() -> None:
    order(1)
    order(2, "order.paid")
    order(3)
    assert failure_of("order.created", count=1) == (
        'Expected 1 message like this: event_type "order.created"\n'
        "Found 2. Published:\n"
        "  1. order.created, topic outbox: 1  <-- matches\n"
        "  2. order.paid, topic outbox: 2\n"
        "  3. order.created, topic outbox: 3  <-- matches"
    )


def test_what_any_matches_is_no_difference() -> None:
    order({"order_id": 7, "lines": [{"sku": "a", "count": 1}]})
    failure = failure_of("order.created", payload={"order_id": 8, "lines": [{"sku": mock.ANY, "count": 1}]})
    changed = [line for line in failure.splitlines() if line.startswith(("-", "+"))]
    assert changed == ['-   "order_id": 8', '+   "order_id": 7']


TWO_LINES = {"lines": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (TWO_LINES, {"payload": {"lines": [{"sku": "a", "count": 1}]}}),
        (TWO_LINES, {"payload": {"lines": [{"sku": "a"}, {"sku": "b"}]}}),
        (TWO_LINES, {"payload": {}}),
        (TWO_LINES, {"payload__contains": {"lines": [{"sku": "a"}, {"sku": "c"}]}}),
        (TWO_LINES, {"payload__contains": {"lines": [{"sku": "b"}, {"sku": "a", "count": 3}]}}),
        (TWO_LINES, {"payload__contains": {"other": mock.ANY}}),
        (TWO_LINES, {"payload__contains": [1]}),
        (RawBytes(b"one"), {"payload": RawBytes(b"two")}),
        (TOMBSTONE, {"payload": None}),
        ([1, 2], {"payload": [2, 1]}),
    ],
)
def test_every_failure_shows_a_difference(published: Any, expected: dict[str, Any]) -> None:
    order(published, key="7")
    failure = failure_of("order.created", **expected)
    _, difference = failure.split("Difference to the nearest (- expected, + published):\n")
    assert [line for line in difference.splitlines() if line.startswith(("-", "+"))]


def test_a_message_with_more_in_it_than_expected_is_not_the_nearest() -> None:
    order({"lines": [{"sku": "a"}, {"sku": "b"}]})
    order({"lines": [{"sku": "c"}]})
    failure = failure_of("order.created", payload={"lines": [{"sku": "a"}]})
    assert '  2. order.created, topic outbox: {"lines": [{"sku": "c"}]}  <-- nearest' in failure


@pytest.mark.parametrize("lines", [[{"sku": "b"}], [{"sku": "a"}, {"sku": "b"}], [{"sku": "b"}, {"sku": "a"}]])
def test_what_a_part_matches_is_no_difference(lines: list[Any]) -> None:
    order({"order_id": 7, **TWO_LINES})
    failure = failure_of("order.created", payload__contains={"order_id": 8, "lines": lines})
    changed = [line.strip(",") for line in failure.splitlines() if line.startswith(("-", "+"))]
    assert changed == ['-   "order_id": 8', '+   "order_id": 7']


def test_of_an_item_that_does_not_match_only_the_difference_is_shown() -> None:
    order(TWO_LINES)
    failure = failure_of("order.created", payload__contains={"lines": [{"sku": "a"}, {"sku": "c"}]})
    changed = [line.strip() for line in failure.splitlines() if line.startswith(("-", "+"))]
    assert changed == ['-       "sku": "c"', '+       "sku": "b"']


def test_a_failure_says_that_nothing_was_published() -> None:
    assert failure_of("order.created", count=2) == (
        'Expected 2 messages like this: event_type "order.created"\nNothing was published.'
    )


def test_bytes_and_tombstones_are_named_and_long_payloads_are_cut() -> None:
    order(RawBytes(b"secret", content_type="image/png"), key="7")
    order(TOMBSTONE, key="7")
    order("x" * 1000)
    with pytest.raises(AssertionError) as caught:
        assert_nothing_published()
    assert str(caught.value) == (
        "Expected no message to be published. Published:\n"
        '  1. order.created, key "7", topic outbox: RawBytes of 6 bytes, image/png\n'
        '  2. order.created, key "7", topic outbox: TOMBSTONE\n'
        f'  3. order.created, topic outbox: "{"x" * 199}...'
    )


def test_of_many_messages_the_first_are_shown_and_the_nearest() -> None:
    for number in range(30):
        order(number, key=str(number))
    failure = failure_of("order.created", key="29", payload="none")
    assert '  20. order.created, key "19"' in failure
    assert '  21. order.created, key "20"' not in failure
    assert '  30. order.created, key "29", topic outbox: 29  <-- nearest\n  ... and 9 more\n' in failure
