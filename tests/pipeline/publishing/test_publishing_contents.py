"""Publishing: payload and headers come back as they were."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from django_outbox import Event, InvalidMessage, publish, publish_many
from django_outbox.models import OutboxMessage
from tests.support.outbox import Pipeline, row
from tests.support.properties import any_text, examples, json_values
from tests.support.publishing import nested, publish_with

pytestmark = pytest.mark.django_db
MARIADB_DEPTH = 31
DEPTH = 99


def payload_in_database(payload: Any) -> Any:
    return row(publish("order.created", payload)).payload


def is_mariadb() -> bool:
    return getattr(connection, "mysql_is_mariadb", False)


def lasting_depth() -> int:
    return MARIADB_DEPTH if is_mariadb() else DEPTH


@pytest.mark.parametrize(
    "payload",
    [
        None,
        0,
        False,
        "",
        [],
        {},
        {"": None},
        -1,
        2**53 + 1,
        2**63,
        # MySQL keeps integers of more than 64 bits as floats.
        pytest.param(-(10**40), marks=pytest.mark.databases("sqlite", "postgresql", "mariadb")),
        0.1,
        -1.5e-7,
        123456.789,
        5e-324,
        "Grüße, 世界 \N{GRINNING FACE} \u2028 \x01\x1f\x7f \\ \" ' \\u0000 %s {0}",
        {"nested": [1, [2, {"three": [None, True, "3"]}]], "ключ": "ключ"},
        ["a" * 100_000],
    ],
)
def test_payload_comes_back_unchanged(payload: Any) -> None:
    back = payload_in_database(payload)
    assert back == payload
    assert type(back) is type(payload)


@pytest.mark.databases("mysql")
def test_mysql_stores_integers_of_more_than_64_bits_as_floats() -> None:
    back = payload_in_database(2**64)
    assert back == float(2**64)
    assert type(back) is float


def test_large_floats_come_back_as_the_same_number() -> None:
    # PostgreSQL writes them without an exponent, so that they come back as integers.
    for number in (1e16, 1e23, -1.7976931348623157e308):
        assert float(payload_in_database(number)) == number


def test_deepest_payload_comes_back_unchanged() -> None:
    payload = nested(lasting_depth(), "core")
    assert payload_in_database(payload) == payload


def test_limit_of_the_depth_names_the_database_if_it_is_the_database_s() -> None:
    with pytest.raises(InvalidMessage) as error:
        publish("order.created", nested(lasting_depth() + 1))
    assert f"more than {lasting_depth()} levels deep" in str(error.value)
    assert ("MariaDB" in str(error.value)) is is_mariadb()


def test_wide_payload_is_not_taken_for_a_deep_one() -> None:
    payload = [{"a": []} for _ in range(500)]
    assert payload_in_database(payload) == payload


class Numbered(dict):  # type: ignore[type-arg]
    pass


class Colour(models.TextChoices):
    RED = "red"


@dataclass
class Line:
    product: str
    price: Decimal


class Invoice(pydantic.BaseModel):
    number: int = pydantic.Field(alias="No")
    due: date
    lines: list[Line]


LINE = Line("tea", Decimal("12.50"))
LINE_AS_JSON = {"product": "tea", "price": "12.50"}


@pytest.mark.parametrize(
    ("payload", "back"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), "2026-01-02T03:04:05.678Z"),
        (
            {"on": date(2026, 1, 2), "at": time(3, 4), "for": timedelta(hours=1)},
            {"on": "2026-01-02", "at": "03:04:00", "for": "P0DT01H00M00S"},
        ),
        ([Decimal("0.10"), uuid.UUID(int=7)], ["0.10", "00000000-0000-0000-0000-000000000007"]),
        ({"label": gettext_lazy("Monday")}, {"label": "Monday"}),
        (LINE, LINE_AS_JSON),
        ({"lines": [LINE]}, {"lines": [LINE_AS_JSON]}),
        (
            Invoice(No=7, due=date(2026, 1, 2), lines=[LINE]),
            {"No": 7, "due": "2026-01-02", "lines": [LINE_AS_JSON]},
        ),
        ((1, (2,)), [1, [2]]),
        ({2: "a", None: "b", True: "c"}, {"2": "a", "null": "b", "true": "c"}),
        ({1: "first", "1": "second"}, {"1": "second"}),
        (Numbered(a=Numbered(b=1)), {"a": {"b": 1}}),
        ([Colour.RED], ["red"]),
    ],
)
def test_payload_of_the_returned_message_is_what_is_stored(payload: Any, back: Any) -> None:
    (bulk,) = publish_many([Event(type="order.created", payload=payload)])
    for message in (publish("order.created", payload), bulk):
        assert message.payload == back
        assert row(message).payload == back


@pytest.mark.parametrize("payload", [Invoice(No=7, due=date(2026, 1, 2), lines=[LINE]), LINE])
@pytest.mark.django_db(transaction=True)
def test_handler_receives_the_object_that_was_published(payload: Any) -> None:
    received = []

    def handle(content: Any) -> None:
        received.append(content)

    handle.__annotations__["content"] = type(payload)
    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    with transaction.atomic():
        publish("order.created", payload)
    pipeline.turn()
    assert received == [payload]


def test_later_changes_of_the_caller_s_objects_change_nothing() -> None:
    payload, headers = {"items": [1]}, {"a": "b"}
    message = publish("order.created", payload, headers=headers)
    payload["items"].append(2)
    headers["a"] = "c"
    assert (message.payload, message.headers) == ({"items": [1]}, {"a": "b"})


@pytest.mark.parametrize("headers", [{}, {"trace-id": "", "Ünï": "ü\n"}, {"c": "e_"}])
def test_headers_come_back_unchanged(headers: dict[str, str]) -> None:
    assert row(publish("order.created", 1, headers=headers)).headers == headers


@examples(60)
@given(payload=json_values)
def test_any_json_comes_back_unchanged(payload: Any) -> None:
    assert payload_in_database(payload) == payload


@examples(60)
@given(text=any_text, where=st.sampled_from(["event_type", "key", "version", "topic", "headers", "payload"]))
def test_any_text_is_stored_as_it_is_or_refused_before_it_does_harm(text: str, where: str) -> None:
    value: Any = {text: text} if where in ("headers", "payload") else text
    refused = None
    with CaptureQueriesContext(connection) as queries:
        try:
            publish_with(where, value)
        except InvalidMessage as error:
            refused = error.field
    if refused:
        assert (refused, queries.captured_queries) == (where, [])
    else:
        name = {"key": "message_key", "version": "event_version"}.get(where, where)
        assert getattr(OutboxMessage.objects.latest("id"), name) == value
