"""Protobuf by a generated class: its fields are the payload, with numbers as numbers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from google.protobuf import any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.serializers.protobuf import ProtobufSerializer
from tests.support.messages import Line, OrderCreated, Parcel
from tests.support.registry import StubRegistry
from tests.support.serializing import deserialize, serialize

ORDER = "tests.support.messages.OrderCreated"
PARCEL = "tests.support.messages.Parcel"
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
        (b"", "it does not begin with the indexes of a message"),
        (b"\xff", "it does not begin with the indexes of a message"),
        (b"\x80" * 11, "it does not begin with the indexes of a message"),
        (b"\x01", "it does not begin with the indexes of a message"),
        (b"\x04\x02", "it does not begin with the indexes of a message"),
        (b"\xfe\xff\xff\xff\x0f" + b"\0" * 1000, "it does not begin with the indexes of a message"),
        (b"\0\x08\x01", "it is not a shop.OrderCreated, but shop.Line"),
        (b"\x04\x02\x02", r"it is not a shop.OrderCreated, but shop.OrderCreated.Inner"),
        (b"\x02\x01", "it is not a shop.OrderCreated, but another message of its file"),
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


# Where the message is in the writer's file


def file_of(*messages: str, package: str = "shop") -> str:
    """A file with these messages, as the registry returns it. ``A.B`` is a message within the last one, ``A``."""
    file = FileDescriptorProto(name="other.proto", package=package, syntax="proto3")
    for name in messages:
        outer, _, inner = name.rpartition(".")
        added = file.message_type[-1].nested_type.add() if outer else file.message_type.add()
        added.name = inner
    return base64.b64encode(file.SerializeToString()).decode()


SOURCE = """
syntax = "proto3";  // message A {}
package   shop ;
import "google/protobuf/timestamp.proto";
option java_package = "message B {";
enum State { NEW = 0; }
message Header { /* message C {
  } */ oneof one { string a = 1; } }
message message {
}
message OrderCreated {
  option (some) = { a: "}" };
  message Other { int64 message = 1; message Deeper {} }
  reserved 2, 3;
  map<string, Other> others = 4;
  message Inner
  { uint64 number = 1; }
}
"""


@pytest.mark.parametrize(
    ("message", "text", "indexes"),
    [
        ("Line", file_of("Line", "OrderCreated"), b"\x02\0"),  # the long form of the first message
        ("Line", file_of("Header", "Line"), b"\x02\x02"),
        ("OrderCreated", file_of("OrderCreated", "Line"), b"\0"),
        ("Inner", file_of("OrderCreated", "OrderCreated.Other", "OrderCreated.Inner"), b"\x04\0\x02"),
        ("OrderCreated", SOURCE, b"\x02\x04"),
        ("Inner", SOURCE, b"\x04\x04\x02"),
        ("OrderCreated", "unknown", b"\x02\x02"),  # read as by our own file
    ],
)
def test_the_message_is_found_in_the_file_of_its_writer(
    registry: StubRegistry, message: str, text: str, indexes: bytes
) -> None:
    number = registry.register("others", text, kind="PROTOBUF")
    serializer = serializer_of(registry, f"tests.support.messages.{message}")

    payload = deserialize(serializer, b"\0" + number.to_bytes(4, "big") + indexes).payload

    assert payload.keys() <= {"sku", "count", "number", *WHOLE}
    assert "format=serialized" in registry.queries["GET /schemas/ids/1"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (file_of("Line", "Header"), "shop.Header"),
        (file_of("Line", "OrderCreated", package=""), "OrderCreated"),
        (file_of("Line"), "another message of its file"),
        (SOURCE, "shop.message"),
    ],
)
def test_another_message_with_equal_indexes_is_not_read_as_ours(registry: StubRegistry, text: str, name: str) -> None:
    number = registry.register("others", text, kind="PROTOBUF")

    with pytest.raises(UnreadableRecord, match=f"it is not a shop.OrderCreated, but {name}$"):
        deserialize(serializer_of(registry), b"\0" + number.to_bytes(4, "big") + b"\x02\x02")


# Types with a JSON of their own


def parcel(**payload: Any) -> dict[str, Any]:
    return {"number": 1, **payload}


ANY = "type.googleapis.com"


@pytest.mark.parametrize(
    "payload",
    [
        parcel(long=2**60, longs=[2**64 - 1, 0]),
        parcel(any={"@type": f"{ANY}/shop.OrderCreated.Inner", "number": 2**60}),
        parcel(any={"@type": f"{ANY}/google.protobuf.Int64Value", "value": 2**60}),
        parcel(any={"@type": f"{ANY}/google.protobuf.Duration", "value": "1.500s"}),
        parcel(
            any={"@type": f"{ANY}/google.protobuf.Any", "value": {"@type": f"{ANY}/shop.Line", "sku": "", "count": 1}}
        ),
        parcel(any={}),
        {**parcel(), "[shop.code]": 2**60},
        parcel(free={"a": [1.0, {"b": None}], "number": "2"}, value=[1.0, "2"], values=["3"]),
        parcel(real=1.5, blob="AAE=", raw_data=["AAE=", ""], weight=1.5, size=2.0**60),
        parcel(state="SENT", mask="aB,c", took="1s", at="2026-01-31T14:30:00Z"),
        parcel(inner=parcel(prices={"-1": 1.5})),
    ],
)
def test_googles_types_come_back(registry: StubRegistry, payload: Any) -> None:
    serializer = serializer_of(registry, PARCEL)

    read = deserialize(serializer, serialize(serializer, payload)).payload

    if "inner" in payload:
        payload = {**payload, "inner": {**read["inner"], **payload["inner"]}}
    assert json.dumps({name: read[name] for name in payload}, sort_keys=True) == json.dumps(payload, sort_keys=True)


@pytest.mark.parametrize(
    ("payload", "field", "reason"),
    [
        ({}, "payload", "it does not fit shop.Parcel"),  # a required field
        (parcel(inner={}), "payload", "it does not fit shop.Parcel"),
        (parcel(size=10**400), "payload.size", "a floating-point number cannot represent all digits of this integer"),
        (parcel(size=2**60 + 1), "payload.size", "a floating-point number cannot represent all digits of this integer"),
        (parcel(weight=2**24 + 1), "payload.weight", "a floating-point number cannot represent all digits of this"),
        (parcel(real=2**60 + 1), "payload.real", "a floating-point number cannot represent all digits of this integer"),
        (parcel(prices={"1": 2**60 + 1}), "payload.prices[*]", "a floating-point number cannot represent all digits"),
        (parcel(free={"a": [2**60 + 1]}), "payload.free[*][0]", "a floating-point number cannot represent all digits"),
        (parcel(value=[2**60 + 1]), "payload.value[0]", "a floating-point number cannot represent all digits"),
        (parcel(prices={"1": 1, "01": 2}), "payload.prices", "its keys must be integers without leading zeros"),
        (parcel(raw_data=["\u00e9"]), "payload.raw_data[0]", "expected bytes as base64, got text"),
        (parcel(rawData=["secret!"]), "payload.rawData[0]", "expected bytes as base64, got text"),
        (parcel(raw_data=["AAF="]), "payload.raw_data[0]", "expected bytes as base64, got text"),
        (parcel(blob="secret!"), "payload.blob", "expected bytes as base64, got text"),
        (
            parcel(any={"@type": f"{ANY}/shop.OrderCreated", "raw": "secret!"}),
            "payload.any.raw",
            "expected bytes as base64, got text",
        ),
        (
            parcel(any={"@type": f"{ANY}/google.protobuf.BytesValue", "value": "secret!"}),
            "payload.any",
            "expected bytes as base64, got text",
        ),
        (parcel(any={"@type": f"{ANY}/shop.Secret"}), "payload.any", "it does not fit shop.Parcel"),
        (parcel(any={"secret": 1}), "payload.any", "it does not fit shop.Parcel"),
        (parcel(state="SECRET"), "payload.state", "it does not fit shop.Parcel"),
        ({"number": 'x" no field named "secret"'}, "payload.number", "it does not fit shop.Parcel"),
        ({"number": "Failed to parse secret field: "}, "payload.number", "it does not fit shop.Parcel"),
        (
            {"number": 1, 'x" has no field named "secret" at "': 1},
            "payload",
            "it does not fit shop.Parcel",
        ),
        (parcel(inner={"more": 1}), "payload.inner.more", "shop.Parcel does not have it"),
    ],
)
def test_nothing_is_changed_silently(registry: StubRegistry, payload: Any, field: str, reason: str) -> None:
    serializer = serializer_of(registry, PARCEL)
    serialize(serializer, parcel())

    for write in (
        lambda: serializer.validate(payload, "order.created", "orders"),
        lambda: serializer.serialize(json.dumps(payload), "order.created", "orders"),
    ):
        with pytest.raises(InvalidMessage) as caught:
            write()
        assert caught.value.field == field
        assert caught.value.reason.startswith(reason)
        assert "secret" not in str(caught.value).lower()


@pytest.mark.parametrize("text", ["-_8=", "+/8", "-_8", "+/8="])
def test_both_alphabets_of_base64_are_accepted(registry: StubRegistry, text: str) -> None:
    serializer = serializer_of(registry, PARCEL)

    assert deserialize(serializer, serialize(serializer, parcel(blob=text))).payload["blob"] == "+/8="


def any_within(depth: int) -> Any:
    message: Any = Line(sku="a")
    for _ in range(depth):
        outer = any_pb2.Any()
        outer.Pack(message)
        message = outer
    return message


@pytest.mark.parametrize(
    "fields",
    [
        {"at": timestamp_pb2.Timestamp(seconds=2**60)},
        {"took": duration_pb2.Duration(seconds=2**60)},
        {"value": struct_pb2.Value(number_value=float("nan"))},
        {"mask": field_mask_pb2.FieldMask(paths=["secretWord"])},
        {"any": any_pb2.Any(type_url=f"{ANY}/shop.Secret")},
        {"any": any_pb2.Any(type_url=f"{ANY}/shop.OrderCreated", value=b"\x0asecret")},
        {"any": any_within(1000)},
    ],
)
def test_a_message_without_json_cannot_be_read(registry: StubRegistry, fields: Any) -> None:
    serializer = serializer_of(registry, PARCEL)
    value = serialize(serializer, parcel())
    message: Any = Parcel(number=1, **fields)

    with pytest.raises(UnreadableRecord, match=r"cannot be read with schema 1: it has no JSON \(\w+\)$") as caught:
        deserialize(serializer, value[:6] + message.SerializeToString())

    assert "secret" not in str(caught.value).lower()


@pytest.mark.parametrize("message", [ORDER, PARCEL])
@pytest.mark.parametrize("before", ["", file_of("Line")])
def test_a_registered_file_is_found_with_the_text_of_the_class(
    registry: StubRegistry, message: str, before: str
) -> None:
    if before:
        registry.register("orders-value", before, kind="PROTOBUF")
    serialize(serializer_of(registry, message), WHOLE if message == ORDER else parcel())
    lookup = ProtobufSerializer(registry={"url": registry.url, "timeout": 6}, message=message)  # of another process

    serialize(lookup, WHOLE if message == ORDER else parcel())
