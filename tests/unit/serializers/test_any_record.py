"""Whatever a row or a record holds, a serializer raises only what it documents, and its errors show nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.serializers.avro import AvroSerializer
from django_outbox.serializers.json_schema import JsonSchemaSerializer
from django_outbox.serializers.protobuf import ProtobufSerializer
from django_outbox.serializers.schemas import RegistrySerializer
from tests.support.messages import Parcel
from tests.support.properties import examples
from tests.support.registry import stub_registry
from tests.support.serializing import deserialize, serialize

SECRET = "hunter2"
FIELDS = [field.name for field in Parcel.DESCRIPTOR.fields]  # type: ignore[attr-defined]
AVRO = {
    "type": "record",
    "name": "Parcel",
    "fields": [
        {"name": name, "type": ["null", kind], "default": None}
        for name, kind in zip(
            FIELDS,
            [
                "long",
                {"type": "map", "values": "Parcel"},
                {"type": "map", "values": ["float", "double", "long", "string"]},
                {"type": "array", "items": ["null", "Parcel", "bytes", "int"]},
                {"type": "array", "items": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
                {"type": "int", "logicalType": "time-millis"},
                {"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 3},
                {"type": "long", "logicalType": "timestamp-micros"},
                {"type": "enum", "name": "E", "symbols": ["NEW", "SENT"]},
                {"type": "long", "logicalType": "local-timestamp-millis"},
                "double",
                "bytes",
                {"type": "array", "items": "bytes"},
                "float",
                {"type": "int", "logicalType": "date"},
                {"type": "string", "logicalType": "uuid"},
                "Parcel",
                {"type": "map", "values": {"type": "fixed", "name": "G", "size": 1}},
            ],
            strict=True,
        )
    ],
}
JSON_SCHEMA = {
    "title": "Parcel",
    "properties": {
        "number": {"multipleOf": 0.01},
        "inner": {"$ref": "#"},
        "values": {"items": {"pattern": "^a+$", "minLength": 1}, "uniqueItems": True},
        "free": {"additionalProperties": {"$ref": "#"}, "propertyNames": {"maxLength": 9}},
        "state": {"enum": ["NEW", "SENT"]},
        "prices": {"anyOf": [{"type": "array"}, {"additionalProperties": {"type": "number"}}]},
    },
}
secrets = st.sampled_from([SECRET, f'x" has no field named "{SECRET}" at "', f"Failed to parse {SECRET} field: "])
numbers = (
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([10**400, 2**60 + 1, 1e300])
)
texts = st.sampled_from(
    ["2026-01-31T14:30:00Z", "1.5s", "aB,c", "NEW", "SENT", "AAE=", "AAF=", "\u00e9", "1", "NaN", "1e400"]
)
types = st.sampled_from(
    ["shop.Parcel", "google.protobuf.Any", "google.protobuf.Int64Value", "shop.Gone", "google.protobuf.Struct"]
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts | secrets,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(secrets | st.sampled_from(["1", "01", "value"]), inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
        | st.fixed_dictionaries({"@type": types.map("type.googleapis.com/{}".format), "value": inner})
    ),
    max_leaves=8,
)
payloads = st.fixed_dictionaries({"number": st.just(1) | anything}, optional=dict.fromkeys(FIELDS[1:], anything))


@pytest.fixture(scope="module")
def serializers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RegistrySerializer]]:
    """Their schemas have the ids 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("schemas")
    (folder / "avro").write_text(json.dumps(AVRO))
    (folder / "json").write_text(json.dumps(JSON_SCHEMA))
    with stub_registry() as stub:
        options: Any = {"registry": {"url": stub.url}, "auto_register": True}
        made: list[RegistrySerializer] = [
            AvroSerializer(schema=folder / "avro", subject="avro", **options),
            JsonSchemaSerializer(schema=folder / "json", subject="json", **options),
            ProtobufSerializer(message="tests.support.messages.Parcel", subject="protobuf", **options),
        ]
        for each in made:
            serialize(each, {"number": 1})
        yield made


def refusal(call: Callable[[], object]) -> InvalidMessage | None:
    try:
        call()
    except InvalidMessage as error:
        return error
    return None


@examples(1500)
@given(payload=payloads | anything)
def test_any_payload_is_written_or_invalid(serializers: list[RegistrySerializer], payload: Any) -> None:
    for serializer in serializers:
        text = json.dumps(payload)
        refused = refusal(lambda: serializer.validate(payload, "parcel.sent", "parcels"))  # noqa: B023
        again = refusal(lambda: serializer.serialize(text, "parcel.sent", "parcels"))  # noqa: B023
        assert str(refused) == str(again)
        if refused is None:
            read = deserialize(serializer, serialize(serializer, payload)).payload
            assert deserialize(serializer, serialize(serializer, read)).payload == read  # what comes back fits
        else:
            assert SECRET not in refused.reason
            # The name of a field that the schema does not have is shown, as it is a mistake of the code.
            assert SECRET not in refused.field or refused.reason.endswith("does not have it")


@examples(1500)
@given(data=st.binary(max_size=60), number=st.integers(1, 3))
def test_any_data_is_read_or_unreadable(serializers: list[RegistrySerializer], data: bytes, number: int) -> None:
    assert_read_or_unreadable(serializers[number - 1], number, data)


@examples(1500)
@given(
    payload=payloads,
    number=st.integers(1, 3),
    places=st.lists(st.integers(0, 10**6), max_size=3),
    byte=st.binary(max_size=2),
)
def test_a_value_with_changed_bytes_is_read_or_unreadable(
    serializers: list[RegistrySerializer], payload: Any, number: int, places: list[int], byte: bytes
) -> None:
    serializer = serializers[number - 1]
    fits = refusal(lambda: serializer.validate(payload, "parcel.sent", "parcels")) is None
    data = serialize(serializer, payload if fits else {"number": 1})[5:]
    for each in places:
        place = each % (len(data) + 1)
        data = data[:place] + byte + data[place + 1 :]
    assert_read_or_unreadable(serializer, number, data)


def assert_read_or_unreadable(serializer: RegistrySerializer, number: int, data: bytes) -> None:
    reason = ""
    try:
        payload = deserialize(serializer, b"\0" + number.to_bytes(4, "big") + data).payload
    except UnreadableRecord as error:
        reason = str(error)
    else:
        json.dumps(payload, allow_nan=False)
    assert SECRET not in reason
