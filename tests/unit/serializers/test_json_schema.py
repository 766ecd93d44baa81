"""JSON by a schema: the value is the JSON as stored, and what does not fit is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import InvalidMessage, SchemaNotFound, UnreadableRecord
from django_outbox.serializers.json_schema import JsonSchemaSerializer
from tests.support.registry import StubRegistry
from tests.support.serializing import deserialize, serialize

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ORDER = {
    "$schema": DRAFT,
    "title": "Order",
    "type": "object",
    "properties": {
        "order_id": {"type": "integer"},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
        "by_mail": {"additionalProperties": {"type": "string"}},
        "tags": {"patternProperties": {"^x-": {"type": "string"}}},
        "gone": False,
        "rate": {"multipleOf": 0.1},
    },
    "required": ["order_id"],
    "additionalProperties": False,
}


def serializer_of(registry: StubRegistry) -> JsonSchemaSerializer:
    return JsonSchemaSerializer(registry={"url": registry.url, "max.retries": 0})


def test_the_value_is_the_json_as_stored(registry: StubRegistry) -> None:
    number = registry.register("orders-value", ORDER, kind="JSON")

    value = serialize(serializer_of(registry), {"order_id": 7})

    assert value == b"\0" + number.to_bytes(4, "big") + b'{"order_id": 7}'
    assert deserialize(serializer_of(registry), value).payload == {"order_id": 7}


@pytest.mark.parametrize(
    ("payload", "field", "reason"),
    [
        ("secret", "payload", 'it does not fit the schema\'s type: "object"'),
        ({"order_id": "secret"}, "payload.order_id", 'it does not fit the schema\'s type: "integer"'),
        (
            {"order_id": 7, "lines": [{"sku": 1}, {"secret": 1}]},
            "payload.lines[1]",
            "it does not fit the schema's required",
        ),
        ({"lines": []}, "payload", 'it does not fit the schema\'s required: ["order_id"]'),
        (
            {"order_id": 7, "by_mail": {"secret@example.com": 1}},
            "payload.by_mail[*]",
            "it does not fit the schema's type",
        ),
        ({"order_id": 7, "tags": {"x-secret": 1}}, "payload.tags[*]", "it does not fit the schema's type"),
        ({"order_id": 7, "gone": "secret"}, "payload", "it does not fit the schema's false"),
        ({"order_id": 7, "rate": 10**400}, "payload", "it cannot be written (OverflowError)"),
    ],
)
def test_what_does_not_fit_is_named_but_not_shown(
    registry: StubRegistry, payload: Any, field: str, reason: str
) -> None:
    registry.register("orders-value", ORDER, kind="JSON")

    with pytest.raises(InvalidMessage) as caught:
        serialize(serializer_of(registry), payload)

    assert caught.value.field == field
    assert caught.value.reason.startswith(reason)
    assert "secret" not in str(caught.value)


def test_a_schema_may_refer_to_another_one(registry: StubRegistry) -> None:
    line = {"$schema": DRAFT, "type": "object", "required": ["sku"]}
    registry.register("line", line, kind="JSON")
    reference = {"name": "line.json", "subject": "line", "version": 1}
    order = {"$schema": DRAFT, "type": "object", "properties": {"line": {"$ref": "line.json"}}}
    registry.register("orders-value", order, kind="JSON", references=[reference])

    serialize(serializer_of(registry), {"line": {"sku": "a"}})
    with pytest.raises(InvalidMessage, match=r"payload\.line: "):
        serialize(serializer_of(registry), {"line": {}})


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"type": "nothing"}', "schema 1 of the registry is not a valid JSON schema: "),
        ("not JSON", "schema 1 of the registry is not a valid JSON schema: "),
        (
            r'{"properties": {"order_id": {"pattern": "\\p{L}"}}}',
            "schema 1 of the registry is not a valid JSON schema: ",
        ),
        (
            '{"$ref": "http://127.0.0.1:1/a.json"}',
            "refers to 'http://127.0.0.1:1/a.json', which is not one of its references",
        ),
    ],
)
def test_a_schema_of_the_registry_that_cannot_be_used_does_not_stop_publish(
    registry: StubRegistry, schema: str, reason: str
) -> None:
    registry.register("orders-value", schema, kind="JSON")
    serializer = serializer_of(registry)

    with pytest.raises(SchemaNotFound, match=reason):
        serialize(serializer, {"order_id": 7})
    serializer.validate({"order_id": 7}, "order.created", "orders")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN"])
def test_data_that_is_not_json(registry: StubRegistry, data: bytes) -> None:
    number = registry.register("orders-value", ORDER, kind="JSON")

    with pytest.raises(UnreadableRecord, match=f"its value cannot be read with schema {number}: it"):
        deserialize(serializer_of(registry), b"\0" + number.to_bytes(4, "big") + data)


def test_what_a_producer_wrote_is_not_checked_again(registry: StubRegistry) -> None:
    """The registry's other clients do not either: the writer decides."""
    number = registry.register("orders-value", ORDER, kind="JSON")
    data = json.dumps({"order_id": "x"}).encode()

    assert deserialize(serializer_of(registry), b"\0" + number.to_bytes(4, "big") + data).payload == {"order_id": "x"}


def test_a_payload_that_is_too_deep_for_the_library_is_refused(registry: StubRegistry) -> None:
    tree = {"$schema": DRAFT, "type": "array", "items": {"$ref": "#"}}
    registry.register("orders-value", tree, kind="JSON")
    serializer = serializer_of(registry)
    serialize(serializer, [])
    payload: Any = []
    for _ in range(900):
        payload = [payload]

    with pytest.raises(InvalidMessage, match="payload: it is nested too deeply"):
        serializer.validate(payload, "order.created", "orders")


def test_a_registered_file_is_found_whatever_the_order_of_its_keys(registry: StubRegistry, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(ORDER, indent=2))
    options: Any = {"registry": {"url": registry.url}, "schema": path}
    serialize(JsonSchemaSerializer(**options, auto_register=True), {"order_id": 7})
    options["registry"]["timeout"] = 6  # of another process

    assert serialize(JsonSchemaSerializer(**options), {"order_id": 7})[1:5] == b"\0\0\0\1"


def test_a_file_that_another_client_registered_normalized_is_found(registry: StubRegistry, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(ORDER, indent=2))
    registry.register("orders-value", json.dumps(ORDER, sort_keys=True), kind="JSON")

    serialize(JsonSchemaSerializer(registry={"url": registry.url}, schema=path), {"order_id": 7})

    assert registry.subjects == {"orders-value": [1]}


def test_a_schema_without_a_title_names_no_subject(registry: StubRegistry, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text('{"type": "object"}')
    serializer = JsonSchemaSerializer(registry={"url": registry.url}, schema=path, subject="{topic}-{record}")

    with pytest.raises(ImproperlyConfigured, match=r"order\.json names no record for {record} in subject"):
        serializer.check()


@pytest.mark.parametrize("data", [b"1" * 5000, b"[" * 100_000, b'"\xff"', b"-Infinity"])
def test_json_that_python_cannot_read(registry: StubRegistry, data: bytes) -> None:
    number = registry.register("orders-value", ORDER, kind="JSON")

    with pytest.raises(UnreadableRecord, match=f"its value cannot be read with schema {number}: it"):
        deserialize(serializer_of(registry), b"\0" + number.to_bytes(4, "big") + data)
