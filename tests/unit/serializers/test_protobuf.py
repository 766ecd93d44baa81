"""Protobuf by a generated class: its fields are the payload, with numbers as numbers."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.serializers.protobuf import ProtobufSerializer
from tests.support.messages import OrderCreated
from tests.support.registry import StubRegistry
from tests.support.serializing import deserialize, serialize

ORDER = "tests.support.messages.OrderCreated"
WHOLE = {
    "order_id": 2**60,
    "note": "Zoë",
    "lines": [{"sku": "a", "count": 2}],
    "at": "2026-01-31T14:30:00.000001Z",
    "raw": "AAE=",
    "rate": 1.5,
    "stock": {"a": 2**60},
}


def serializer_of(registry: StubRegistry, message: str = ORDER, **options: Any) -> ProtobufSerializer:
    return ProtobufSerializer(registry={"url": registry.url}, message=message, auto_register=True, **options)


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (ORDER, WHOLE),
        ("tests.support.messages.Line", {"sku": "a", "count": -1}),
        ("tests.support.messages.Inner", {"number": 2**64 - 1}),
    ],
)
def test_a_payload_comes_back(registry: StubRegistry, message: str, payload: Any) -> None:
    serializer = serializer_of(registry, message)

    assert deserialize(serializer, serialize(serializer, payload)).payload == payload


@pytest.mark.parametrize(
    ("message", "indexes"),
    [("Line", b"\0"), ("OrderCreated", b"\x02\x02"), ("Inner", b"\x04\x02\x02")],
)
def test_the_value_says_which_message_of_the_file_it_is(registry: StubRegistry, message: str, indexes: bytes) -> None:
    value = serialize(serializer_of(registry, f"tests.support.messages.{message}"), {})

    assert value == b"\0\0\0\0\1" + indexes


def test_fields_that_are_not_set_have_their_defaults(registry: StubRegistry) -> None:
    serializer = serializer_of(registry)

    payload = deserialize(serializer, serialize(serializer, {"order_id": 7})).payload

    assert payload == {"order_id": 7, "note": "", "lines": [], "raw": "", "rate": 0.0, "stock": {}}


@pytest.mark.parametrize(
    ("payload", "field", "reason"),
    [
        ({"order_id": "secret"}, "payload.order_id", "it does not fit shop.OrderCreated"),
        ({"order_id": 2**63}, "payload.order_id", "it does not fit shop.OrderCreated"),
        ({"lines": [{"count": "secret"}]}, "payload.lines.count", "it does not fit shop.OrderCreated"),
        ({"more": "secret"}, "payload.more", "shop.OrderCreated does not have it"),
        ({"at": "secret"}, "payload.at", "it does not fit shop.OrderCreated"),
        (["secret"], "payload", "expected an object, got an array"),
        ("secret", "payload", "expected an object, got text"),
        (None, "payload", "expected an object, got null"),
    ],
)
def test_what_does_not_fit_is_named_but_not_shown(
    registry: StubRegistry, payload: Any, field: str, reason: str
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        serializer_of(registry).validate(payload, "order.created", "orders")

    assert (caught.value.field, caught.value.reason) == (field, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "but another message of its file"),
        (b"\0\x08\x01", "it is not a shop.OrderCreated, but another message of its file"),
        (b"\x02\x02\x08", "it is cut short or not Protobuf"),
    ],
)
def test_data_that_cannot_be_read(registry: StubRegistry, data: bytes, reason: str) -> None:
    serializer = serializer_of(registry)
    serialize(serializer, {})

    with pytest.raises(UnreadableRecord, match=reason):
        deserialize(serializer, b"\0\0\0\0\1" + data)


def test_a_field_of_a_later_version_is_left_out(registry: StubRegistry) -> None:
    serializer = serializer_of(registry)
    value = serialize(serializer, {"order_id": 7})

    assert deserialize(serializer, value + b"\xa0\x06\x01").payload["order_id"] == 7


@pytest.mark.parametrize("message", ["tests.support.messages.nothing", "decimal.Decimal", "math.pi"])
def test_a_class_that_is_not_a_message(registry: StubRegistry, message: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        serializer_of(registry, message)


def test_other_readers_read_it(registry: StubRegistry) -> None:
    value = serialize(serializer_of(registry), WHOLE)

    message: Any = OrderCreated()
    message.ParseFromString(value[7:])
    assert (message.order_id, message.note, message.stock["a"]) == (2**60, "Zoë", 2**60)
