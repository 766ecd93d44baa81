"""Payloads become Avro and come back; what does not fit is named by its place and never by its value."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from django_outbox.exceptions import InvalidMessage
from django_outbox.serializers.avro import AvroCodec

LINE = {
    "type": "record",
    "name": "Line",
    "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
}


def codec(*fields: Any, **by_name: Any) -> AvroCodec:
    """A codec for a record with these fields."""
    fields += tuple({"name": name, "type": kind} for name, kind in by_name.items())
    return AvroCodec(json.dumps({"type": "record", "name": "Order", "fields": list(fields)}), ())


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("null", None),
        ("boolean", True),
        ("int", -(2**31)),
        ("long", 2**63 - 1),
        ("double", 1.5),
        ("string", "Zoë \N{GRINNING FACE}"),
        ("bytes", "AAH/"),
        ({"type": "fixed", "name": "F", "size": 2}, "AAE="),
        ({"type": "enum", "name": "E", "symbols": ["NEW", "PAID"]}, "PAID"),
        ({"type": "array", "items": LINE}, [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]),
        ({"type": "map", "values": "long"}, {"a": 1, "b": 2}),
        (["null", "string"], None),
        (["null", "string"], "a"),
        (["null", LINE], {"sku": "a", "count": 1}),
        (["null", LINE, "long", "string"], 7),
        (["null", LINE, "long", "string"], "a"),
        ([LINE, {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "long"}]}], {"x": 1}),
        (["int", "double"], 1.5),
        (["float", "double"], 0.1),
        (["float", "double"], 16777217),
        (["null", "float", "long"], 2**24 + 1),
        (["double", "long"], 2**60 + 1),
        ("double", 2**60),
        (["bytes", "string"], "AAF="),  # not base64 that would be written so
        (logical("bytes", "decimal", precision=12, scale=10), "0.0000000000"),
        (logical("bytes", "decimal", precision=12, scale=10), "-0.0000000001"),
        (logical("bytes", "decimal", precision=9), "-12"),
        (logical("bytes", "decimal", precision=2, scale=2), "0.12"),
        (["null", logical("long", "timestamp-micros"), "string"], "2026-01-31T14:30:00.000001Z"),
        (["null", logical("bytes", "decimal", precision=9, scale=2)], "12.50"),
        (logical("bytes", "decimal", precision=9, scale=2), "-1234567.89"),
        (logical("int", "date"), "2026-01-31"),
        (logical("int", "time-millis"), "14:30:00.001000"),
        (logical("long", "time-micros"), "14:30:00.000001"),
        (logical("long", "timestamp-millis"), "2026-01-31T14:30:00.001000Z"),
        (logical("long", "timestamp-micros"), "1969-12-31T23:59:59.999999Z"),
        (logical("long", "local-timestamp-micros"), "2026-01-31T14:30:00.000001"),
        (logical("bytes", "decimal", precision=38, scale=10), "-1234567890123456789012345678.0123456789"),
        (logical("bytes", "decimal", precision=4, scale=2), "0.00"),
        ({"type": "fixed", "name": "F", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}, "-12.50"),
        (logical("string", "uuid"), "0198b0c4-2f3a-7c11-8a5e-3d1f0c9b7a11"),
    ],
)
def test_a_value_comes_back_as_it_was(kind: Any, value: Any) -> None:
    avro = codec(value=kind)

    data = avro.encode(json.dumps({"value": value}))

    assert avro.decode(data) == {"value": value}


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("null", 1, "expected null, got an integer"),
        ("boolean", 1, "expected a boolean, got an integer"),
        ("int", 2**31, "it is out of range of int"),
        ("long", -(2**63) - 1, "it is out of range of long"),
        ("long", True, "expected long, got a boolean"),
        ("long", "7", "expected long, got text"),
        ("long", 7.0, "expected long, got a number"),
        ("long", None, "expected long, got null"),
        ("double", "1.5", "expected a number, got text"),
        pytest.param("double", 10**400, "it is out of range of double", id="large"),
        ("float", 1e300, "it is out of range of float"),
        ("string", 7, "expected a string, got an integer"),
        ("bytes", "secret!", "expected bytes as base64, got text"),
        ({"type": "fixed", "name": "F", "size": 2}, "AAEC", "expected base64 of 2 bytes, got 3 bytes"),
        ({"type": "enum", "name": "E", "symbols": ["NEW", "PAID"]}, "secret", "expected one of NEW, PAID"),
        ({"type": "array", "items": "long"}, {}, "expected an array, got an object"),
        ({"type": "map", "values": "long"}, [], "expected an object, got an array"),
        (LINE, "secret", "expected an object, got text"),
        (["null", "string"], 7, "expected a string, got an integer"),
        (["null", "long", "string"], 1.5, "expected long or string or null, got a number"),
        ("double", 2**60 + 1, "double cannot represent all digits of this integer"),
        ("float", 2**24 + 1, "float cannot represent all digits of this integer"),
        ("bytes", "AAF=", "expected bytes as base64, got text"),
        (logical("bytes", "decimal", precision=4, scale=2), "Infinity", "expected a decimal with at most 4 digits, 2"),
        (logical("bytes", "decimal", precision=4, scale=2), "sNaN", "expected a decimal with at most 4 digits, 2 of"),
        (logical("bytes", "decimal", precision=4, scale=2), "9" * 5000, "expected a decimal with at most 4 digits, 2"),
        pytest.param(
            logical("bytes", "decimal", precision=4, scale=2),
            10**5000,
            "expected a decimal with at most 4 digits, 2",
            id="long",
        ),
        (
            {"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 2, "scale": 0},
            True,
            "expected a decimal with at most 2 digits, 0 of them after the point, got a boolean",
        ),
        (logical("bytes", "decimal", precision=4, scale=2), "1.234", "expected a decimal with at most 4 digits, 2 of"),
        (logical("bytes", "decimal", precision=4, scale=2), "123.4", "expected a decimal with at most 4 digits, 2 of"),
        (logical("bytes", "decimal", precision=4, scale=2), "NaN", "expected a decimal with at most 4 digits, 2 of"),
        (
            logical("bytes", "decimal", precision=4, scale=2),
            "1e999999999",
            "expected a decimal with at most 4 digits, 2 of",
        ),
        (
            logical("bytes", "decimal", precision=4, scale=2),
            "1e-999999999",
            "expected a decimal with at most 4 digits, 2",
        ),
        (logical("bytes", "decimal", precision=4, scale=2), "secret", "expected a decimal with at most 4 digits, 2 of"),
        (logical("int", "time-millis"), "14:30:00+01:00", "expected a time such as 14:30:00, got text"),
        (logical("int", "date"), "secret", "expected a date such as 2026-01-31, got text"),
        (logical("int", "date"), 20000, "expected a date such as 2026-01-31, got an integer"),
        (logical("long", "timestamp-millis"), "2026-01-31T14:30:00", "expected a time with its zone"),
        (logical("long", "timestamp-millis"), "0001-01-01T00:00:00+01:00", "expected a time with its zone"),
        (logical("long", "timestamp-millis"), "9999-12-31T23:59:59-01:00", "expected a time with its zone"),
        (logical("long", "local-timestamp-millis"), "2026-01-31T14:30:00Z", "expected a time without a zone"),
        (logical("string", "uuid"), "secret", "expected a UUID, got text"),
    ],
)
def test_a_value_that_does_not_fit_is_named_but_not_shown(kind: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec(value=kind).validate({"value": value})

    assert caught.value.field == "payload.value"
    assert caught.value.reason.startswith(reason)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "field", "reason"),
    [
        ([], "payload", "expected an object, got an array"),
        ({"lines": []}, "payload.order_id", "it is missing"),
        ({"order_id": 1, "lines": [], "more": 1}, "payload.more", "the schema does not have it"),
        ({"order_id": 1, "lines": [], "x" * 9999: 1}, f"payload.{'x' * 100}", "the schema does not have it"),
        (
            {"order_id": 1, "lines": [], "best": {"sku": "a", "count": "x"}},
            "payload.best.count",
            "expected int, got text",
        ),
        ({"order_id": 1, "lines": [], "best": {"sku": "a"}}, "payload.best.count", "it is missing"),
        ({"order_id": 1, "lines": [], "best": 1}, "payload.best", "expected string or Line or null, got an integer"),
        ({"order_id": 1, "lines": [{"sku": "a", "count": 1}, {"sku": "b"}]}, "payload.lines[1].count", "it is missing"),
        (
            {"order_id": 1, "lines": [], "by_sku": {"a": {"sku": "a", "count": "x"}}},
            "payload.by_sku[*].count",
            "expected",
        ),
    ],
)
def test_the_place_is_named(payload: Any, field: str, reason: str) -> None:
    avro = codec(
        {"name": "order_id", "type": "long"},
        {"name": "lines", "type": {"type": "array", "items": LINE}},
        {"name": "by_sku", "type": {"type": "map", "values": "Line"}, "default": {}},
        {"name": "best", "type": ["null", "string", "Line"], "default": None},
    )

    with pytest.raises(InvalidMessage) as caught:
        avro.validate(payload)

    assert caught.value.field == field
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        ("string", "NEW", "NEW"),
        (["null", "string"], None, None),
        (["string", "null"], "a", "a"),
        ("bytes", "\u00ff", "/w=="),
        (logical("bytes", "decimal", precision=4, scale=2), "\u0004\u00e2", "12.50"),
        (logical("int", "date"), 1, "1970-01-02"),
        (logical("long", "timestamp-millis"), 1, "1970-01-01T00:00:00.001000Z"),
        ({"type": "array", "items": "bytes"}, ["\u0001"], ["AQ=="]),
        ({"type": "map", "values": "bytes"}, {"a": "\u0001"}, {"a": "AQ=="}),
        (LINE, {"sku": "a", "count": 1}, {"sku": "a", "count": 1}),
        ({"type": "enum", "name": "E", "symbols": ["NEW"]}, "NEW", "NEW"),
        ({"type": "fixed", "name": "F", "size": 1}, "\u0001", "AQ=="),
        ({"type": "error", "name": "E", "fields": [{"name": "b", "type": "bytes"}]}, {"b": "\u0001"}, {"b": "AQ=="}),
        (["int", "string"], "a", "a"),  # not of the first type: valid since Avro 1.12
        (["null", "bytes", LINE], {"sku": "a", "count": 1}, {"sku": "a", "count": 1}),
        (["null", {"type": "array", "items": "bytes"}], ["\u0001"], ["AQ=="]),
    ],
)
def test_a_missing_field_takes_its_default(kind: Any, default: Any, value: Any) -> None:
    avro = codec({"name": "value", "type": kind, "default": default})

    assert avro.decode(avro.encode("{}")) == {"value": value}


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (["int", "long"], "a"),
        ({"type": "array", "items": "int"}, [2**31]),
        (LINE, {"sku": "a"}),
        (LINE, {"sku": "a", "count": "x"}),
        ({"type": "fixed", "name": "F", "size": 2}, "\u0001"),
        ({"type": "enum", "name": "E", "symbols": ["NEW"]}, "PAID"),
        ({"type": "map", "values": "int"}, []),
        ("bytes", "\u0100"),
    ],
)
def test_a_default_that_does_not_fit_is_found_with_the_schema(kind: Any, default: Any) -> None:
    with pytest.raises(Exception, match=r"default|Default|expected|ordinal|out of range"):
        codec({"name": "value", "type": kind, "default": default})


@pytest.mark.parametrize("more", [{}, {"precision": 0}, {"precision": 2, "scale": 3}, {"precision": "a"}])
def test_a_decimal_needs_a_precision(more: Any) -> None:
    with pytest.raises(Exception, match=r"precision"):
        codec(total=logical("bytes", "decimal", **more))


@pytest.mark.parametrize("kind", ["bytes", {"type": "fixed", "name": "F", "size": 4}])
def test_a_decimal_with_too_many_digits_is_not_rounded(kind: Any) -> None:
    """Others may write it, as most libraries check no precision."""
    of_another = {**(kind if isinstance(kind, dict) else {"type": kind}), "logicalType": "decimal", "scale": 2}
    data = codec(total={**of_another, "precision": 9}).encode('{"total": "123456.78"}')

    with pytest.raises(ValueError, match="it is cut short or not Avro"):
        codec(total={**of_another, "precision": 4}).decode(data)


@pytest.mark.parametrize(
    ("kind", "name", "units"),
    [("int", "time-millis", -1000), ("int", "time-millis", 86_400_000), ("long", "time-micros", -1)],
)
def test_a_time_that_is_not_one_is_not_read_as_another(kind: str, name: str, units: int) -> None:
    data = codec(at=kind).encode(json.dumps({"at": units}))

    with pytest.raises(ValueError, match="it is cut short or not Avro"):
        codec(at=logical(kind, name)).decode(data)


def test_decimals_of_any_size_are_refused_at_once() -> None:
    avro = codec(total=logical("bytes", "decimal", precision=4, scale=2))

    for text in ("1e999999", "1e999998", "-1e999997", "1e-999999"):
        with pytest.raises(InvalidMessage):
            avro.validate({"total": text})
    assert avro.decode(avro.encode('{"total": "0e999999"}')) == {"total": "0.00"}


def test_layers_of_types_are_not_walked_again_and_again() -> None:
    layer: Any = "long"
    for number in range(40):
        name = f"L{number}"
        fields: list[Any] = [{"name": "a", "type": layer}]
        fields += [{"name": other, "type": layer if isinstance(layer, str) else layer["name"]} for other in "bcde"]
        layer = {"type": "record", "name": name, "fields": fields}

    assert AvroCodec(json.dumps(layer), ()).name == "L39"  # with 4 ** 40 paths, it would not end


@pytest.mark.parametrize(
    ("value", "stored"), [("12.5", "12.50"), (12.5, "12.50"), (12, "12.00"), ("1.2e1", "12.00"), ("12.500", "12.50")]
)
def test_decimals_are_written_with_the_scale_of_the_schema(value: Any, stored: str) -> None:
    avro = codec(total=logical("bytes", "decimal", precision=9, scale=2))

    assert avro.decode(avro.encode(json.dumps({"total": value}))) == {"total": stored}


def test_times_are_cut_to_the_unit_of_the_schema() -> None:
    avro = codec(at=logical("long", "timestamp-millis"))

    assert avro.decode(avro.encode('{"at": "1969-12-31T23:59:59.9999Z"}')) == {"at": "1969-12-31T23:59:59.999000Z"}


def test_a_type_may_be_used_by_its_name() -> None:
    money = {"type": "fixed", "name": "Money", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}
    avro = codec({"name": "net", "type": money}, {"name": "gross", "type": ["null", "Money"]})

    assert avro.decode(avro.encode('{"net": "1.00", "gross": "1.19"}')) == {"net": "1.00", "gross": "1.19"}


def test_a_type_may_contain_itself() -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"], "default": None}]}
    avro = AvroCodec(json.dumps(node), ())
    payload = {"next": {"next": {"next": None}}}

    assert avro.decode(avro.encode(json.dumps(payload))) == payload


@pytest.mark.parametrize(
    "next_node",
    [
        ["null", "Node"],
        {"type": "array", "items": "Node"},
        {"type": "map", "values": ["null", "Node"]},
        ["null", {"type": "record", "name": "Between", "fields": [{"name": "node", "type": "Node"}]}],
    ],
)
def test_data_of_any_depth_does_not_end_the_process(next_node: Any) -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": next_node}]}
    avro = AvroCodec(json.dumps(node), ())

    with pytest.raises(ValueError, match="it is cut short or not Avro"):
        avro.decode(b"\x02" * 300_000)


def test_other_readers_get_avros_own_types() -> None:
    kinds = {"at": logical("long", "timestamp-millis"), "total": logical("bytes", "decimal", precision=9, scale=2)}
    data = codec(**kinds).encode('{"at": "2026-01-31T14:30:00Z", "total": "12.5"}')

    schema = {
        "type": "record",
        "name": "Order",
        "fields": [{"name": name, "type": kind} for name, kind in kinds.items()],
    }
    assert fastavro.schemaless_reader(io.BytesIO(data), schema, None) == {
        "at": datetime(2026, 1, 31, 14, 30, tzinfo=UTC),
        "total": Decimal("12.50"),
    }


def test_data_that_is_cut_short_cannot_be_read() -> None:
    avro = codec(order_id="long", note="string", lines={"type": "array", "items": LINE})
    data = avro.encode('{"order_id": 1000, "note": "abc", "lines": [{"sku": "a", "count": 1}]}')

    for length in range(len(data)):
        with pytest.raises(ValueError, match="it is cut short or not Avro"):
            avro.decode(data[:length])


def test_data_of_another_schema_leaves_bytes() -> None:
    with pytest.raises(ValueError, match="3 bytes are left after the end of its data"):
        codec(order_id="long").decode(codec(order_id="long", note="string").encode('{"order_id": 1, "note": "ab"}'))


def test_a_number_that_json_does_not_have_cannot_be_read() -> None:
    schema = {"type": "record", "name": "Order", "fields": [{"name": "value", "type": "double"}]}
    file = io.BytesIO()
    fastavro.schemaless_writer(file, schema, {"value": float("nan")})

    with pytest.raises(ValueError, match="JSON cannot represent it"):
        codec(value="double").decode(file.getvalue())


def test_ten_megabytes_come_back() -> None:
    avro = codec(note="string")
    text = json.dumps({"note": "x" * 10_000_000})

    assert avro.decode(avro.encode(text)) == json.loads(text)
