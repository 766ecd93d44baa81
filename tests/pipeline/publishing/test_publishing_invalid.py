"""Publishing: what Kafka or a database cannot carry is refused, and nothing is written."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, time, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils.translation import gettext_lazy

from django_outbox import Event, InvalidMessage, OutboxError, publish, publish_many
from django_outbox.models import OutboxMessage
from tests.support.outbox import Pipeline, row
from tests.support.overrides import outbox_settings
from tests.support.publishing import nested, publish_with

pytestmark = pytest.mark.django_db
DEPTH = 99


# What cannot be carried


class Unshowable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@dataclass
class Unfit:
    content: Any
    unset: Any = field(init=False)


recursive: list[Any] = []
recursive.append(recursive)

NOT_TEXT = [None, 1, b"bytes", ["a"], object(), gettext_lazy("lazy")]
NOT_STORABLE = ["nul\0", "\ud800", "half \udfff of a pair"]

INVALID: dict[str, list[Any]] = {
    "event_type": ["", "x" * 256, *NOT_TEXT, *NOT_STORABLE],
    "version": ["x" * 33, *NOT_TEXT, *NOT_STORABLE],
    "key": [
        "x" * 256,
        10**255,
        10**5000,
        True,
        *[each for each in NOT_TEXT if not isinstance(each, int)],
        *NOT_STORABLE,
    ],
    "topic": ["", ".", "..", "two words", "übung", "a/b", "a\n", "x" * 250, *NOT_TEXT[1:], *NOT_STORABLE],
    "headers": [
        [],
        0,
        "text",
        [("a", "b")],
        {"": "x"},
        {"x" * 10_000: 1},
        {1: "x"},
        {"a": 1},
        {"a": None},
        {"a": b"x"},
        {b"a": "x"},
        {"ce_id": "x"},
        {"CE_anything": "x"},
        {"content-type": "x"},
        {"Content-Type": "x"},
        *[{"a": text} for text in NOT_STORABLE],
        *[{text: "a"} for text in NOT_STORABLE],
    ],
    "payload": [
        float("nan"),
        float("inf"),
        {"a": [-float("inf")]},
        {float("nan"): 1},
        object(),
        {1, 2},
        b"bytes",
        time(12, tzinfo=UTC),
        Unfit(object()),
        {uuid.UUID(int=1): 1},
        {("a", "b"): 1},
        {b"a": 1},
        10**5000,
        recursive,
        nested(DEPTH + 1),
        nested(DEPTH, nested(1)),
        nested(940),
        nested(5_000),
        nested(100_000),
        *NOT_STORABLE,
        *[{"a": [{"b": text}]} for text in NOT_STORABLE],
        *[{"a": [{text: "b"}]} for text in NOT_STORABLE],
        ["\\u0000", "\0"],
    ],
    "event_id": ["", "x", "x" * 10_000, Unshowable(), "0" * 31, 7, b"0" * 16, object(), True],
    "delay": [
        -1,
        10**5000,
        -0.001,
        timedelta(days=-1),
        float("nan"),
        float("inf"),
        1e300,
        timedelta(days=3651),
        "5",
        [],
        True,
    ],
    "max_retry": [-1, 10**5000, Unshowable(), 32768, 2**70, 1.0, "3", True, float("nan")],
}


def invalid_cases(*names: str) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{number}")
        for field in names or INVALID
        for number, value in enumerate(INVALID[field])
    ]


def event_with(field: str, value: Any) -> Event:
    names = {"event_type": "type", "event_id": "id"}
    return Event(**{"type": "order.created", names.get(field, field): value})


@pytest.mark.parametrize(("field", "value"), invalid_cases())
def test_invalid_argument_is_named_and_the_transaction_goes_on(field: str, value: Any) -> None:
    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidMessage) as error:
            publish_with(field, value)
        publish("still.usable", 1)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: ")
    assert len(str(error.value)) < 500
    assert queries.captured_queries == []
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["still.usable"]


@pytest.mark.parametrize(
    ("field", "value"),
    invalid_cases(),
)
def test_one_invalid_event_keeps_all_of_publish_many_from_being_written(field: str, value: Any) -> None:
    events = [Event(type="good"), event_with(field, value), Event(type="good")]
    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidMessage) as error:
            publish_many(events)
        publish("still.usable", 1)
    assert error.value.field == field
    assert str(error.value).endswith("(event number 2)")
    assert queries.captured_queries == []
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["still.usable"]


@pytest.mark.parametrize("event", [{"type": "order.created"}, "order.created", None])
def test_publish_many_takes_events_only(event: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"^events: number 1 must be an Event\(type=") as error:
        publish_many([event])
    assert error.value.field == "events"


def test_invalid_message_is_a_value_error_and_an_outbox_error() -> None:
    assert issubclass(InvalidMessage, ValueError)
    assert issubclass(InvalidMessage, OutboxError)


def test_longest_texts_are_stored_whole() -> None:
    text = "\N{GRINNING FACE}" * 255
    message = row(publish(text, 1, key=text, version="ü" * 32))
    assert (message.event_type, message.message_key, message.event_version) == (text, text, "ü" * 32)


# What is too large


def test_payload_over_the_limit_is_refused_with_both_sizes() -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=100):
        publish("order.created", "x" * 98)
        with pytest.raises(InvalidMessage, match=r"^payload: .* 101 bytes.* 100 .*MAX_PAYLOAD_BYTES") as error:
            publish("order.created", "x" * 99)
        with pytest.raises(InvalidMessage, match=r"\(event number 2\)$"):
            publish_many([Event(type="good"), Event(type="order.created", payload="x" * 99)])
    assert error.value.field == "payload"
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("character", ["a", "\n", "é", "世", "\N{GRINNING FACE}"])
def test_size_is_that_of_the_value_that_the_relay_sends(character: str) -> None:
    payload = {"text": [character * 20, 1.5]}
    pipeline = Pipeline()
    publish("order.created", payload)
    pipeline.relay.run_once()
    (record,) = pipeline.broker.records("outbox")
    size = len(record.value or b"")
    with outbox_settings(MAX_PAYLOAD_BYTES=size):
        publish("order.created", payload)
    with outbox_settings(MAX_PAYLOAD_BYTES=size - 1), pytest.raises(InvalidMessage, match=f" {size} bytes"):
        publish("order.created", payload)


def test_payload_that_the_client_could_not_send_is_refused_at_once() -> None:
    with outbox_settings(BROKER={"PRODUCER_OPTIONS": {"max_request_size": 50_000}}):
        publish("order.created", "x" * 40_000)
        with pytest.raises(InvalidMessage, match=" 60002 bytes"):
            publish("order.created", "x" * 60_000)
