"""Whatever JSON a payload is: it is written and comes back, or refused by its place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_outbox.exceptions import InvalidMessage
from django_outbox.serializers.avro import AvroCodec
from django_outbox.serializers.json_schema import JsonSchemaCodec
from django_outbox.serializers.protobuf import ProtobufCodec
from tests.support.messages import OrderCreated
from tests.support.properties import examples

TYPES: dict[str, Any] = {
    "order_id": "long",
    "count": "int",
    "rate": "double",
    "small": "float",
    "note": ["null", "string"],
    "raw": "bytes",
    "at": {"type": "long", "logicalType": "timestamp-micros"},
    "day": {"type": "int", "logicalType": "date"},
    "hour": {"type": "int", "logicalType": "time-millis"},
    "total": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 4},
    "id": {"type": "string", "logicalType": "uuid"},
    "lines": {"type": "array", "items": ["null", "long", {"type": "map", "values": "string"}]},
}
EACH = {
    name: AvroCodec(json.dumps({"type": "record", "name": "Order", "fields": [{"name": name, "type": kind}]}), ())
    for name, kind in TYPES.items()
}
JSON_SCHEMA = JsonSchemaCodec(json.dumps({"properties": {name: {"type": "integer"} for name in TYPES}}), ())
texts = st.text(max_size=30).filter(lambda text: text.isprintable())
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
written = st.sampled_from(
    [
        "2026-01-31",
        "2026-01-31T14:30:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "24:00",
        "1e400",
        "-0",
        "AAE=",
    ]
)
any_json = st.recursive(
    st.none() | st.booleans() | numbers | texts | written,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.sampled_from([*TYPES]), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", TYPES)
@examples(60)
@given(value=any_json)
def test_any_value_is_written_or_refused(name: str, value: Any) -> None:
    avro = EACH[name]
    try:
        data = avro.encode(json.dumps({name: value}))
    except InvalidMessage as error:
        place = error.field
    else:
        place = f"payload.{name}"
        avro.encode(json.dumps(avro.decode(data)))  # what comes back fits
    assert place.startswith(f"payload.{name}")


@examples(60)
@given(
    payload=any_json
    | st.dictionaries(st.sampled_from(["order_id", "note", "lines", "at", "raw", "rate", "stock"]), any_json)
)
def test_any_payload_is_written_or_refused(payload: Any) -> None:
    for codec in (*EACH.values(), JSON_SCHEMA, ProtobufCodec(OrderCreated)):
        with suppress(InvalidMessage):
            codec.validate(payload)


@examples(100)
@given(data=st.binary(max_size=40))
def test_any_data_is_read_or_refused(data: bytes) -> None:
    for codec in (*EACH.values(), JSON_SCHEMA, ProtobufCodec(OrderCreated)):
        try:
            payload = codec.decode(data)
        except ValueError:
            continue
        json.dumps(payload, allow_nan=False)
