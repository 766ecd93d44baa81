"""Changes of an Avro schema: what readers with the other version cannot read is named, and nothing else."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest

from django_outbox.serializers.avro import AvroCodec
from django_outbox.serializers.avro_changes import unreadable

LINE = {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}
LINE_WITH_COUNT = {"type": "record", "name": "Line", "fields": [*LINE["fields"], {"name": "count", "type": "int"}]}  # type: ignore[misc]
NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


def schema(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Order", "fields": list(fields)}


def field(kind: Any, name: str = "value", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "Status", "symbols": list(symbols), **more}


def problems(reader: Any, writer: Any) -> list[str]:
    return unreadable(AvroCodec(json.dumps(reader), ()).side, AvroCodec(json.dumps(writer), ()).side)


@pytest.mark.parametrize(
    ("reader", "writer", "problem"),
    [
        (schema(field("long")), schema(field("string")), "value: it is written as string and read as long"),
        (schema(field("int")), schema(field("long")), "value: it is written as long and read as int"),
        (schema(field("long")), schema(), "value: it is not written, and the reader has no default for it"),
        (schema(field("long")), schema(field(["null", "long"])), "value: it is written as null and read as long"),
        (
            schema(field(["null", "string"])),
            schema(field(["null", "long"])),
            "value: long is not one of its types any more",
        ),
        (schema(field(enum("NEW"))), schema(field(enum("NEW", "PAID"))), "value: PAID is not one of its symbols"),
        (
            schema(field({"type": "array", "items": LINE_WITH_COUNT})),
            schema(field({"type": "array", "items": LINE})),
            "value[].count: it is not written, and the reader has no default for it",
        ),
        (
            schema(field(["null", LINE_WITH_COUNT])),
            schema(field(["null", LINE])),
            "value.count: it is not written, and the reader has no default for it",
        ),
        (
            schema(field({"type": "fixed", "name": "F", "size": 2})),
            schema(field({"type": "fixed", "name": "F", "size": 4})),
            "value: it is written with 4 bytes and read with 2",
        ),
        ("string", "long", "the whole payload: it is written as long and read as string"),
        (schema(), {**schema(), "name": "Other"}, "the whole payload: it is written as Other and read as Order"),
    ],
)
def test_what_a_reader_cannot_read_is_named(reader: Any, writer: Any, problem: str) -> None:
    assert problems(reader, writer) == [problem]


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (schema(field("long", default=0)), schema()),
        (schema(), schema(field("long"))),
        (schema(field("double")), schema(field("int"))),
        (schema(field(["null", "long"])), schema(field("long"))),
        (schema(field("long", name="new", aliases=["value"])), schema(field("long"))),
        (schema(field(enum("NEW", "OTHER", default="OTHER"))), schema(field(enum("NEW", "PAID")))),
        ({**schema(), "name": "New", "aliases": ["Order"]}, schema()),
        ({**schema(), "namespace": "a"}, {**schema(), "namespace": "b"}),
        (NODE, NODE),
        (schema(field({"type": "map", "values": "long"})), schema(field({"type": "map", "values": "int"}))),
        (schema(field({"type": "long", "logicalType": "timestamp-millis"})), schema(field("long"))),
    ],
)
def test_what_a_reader_can_read_is_not_named(reader: Any, writer: Any) -> None:
    assert problems(reader, writer) == []


VALUES = [
    ("int", 1),
    ("long", 2),
    ("double", 1.5),
    ("string", "a"),
    (["null", "long"], 3),
    (["null", "string"], "a"),
    (LINE, {"sku": "a"}),
    (LINE_WITH_COUNT, {"sku": "a", "count": 1}),
    (["null", LINE], {"sku": "a"}),
    (enum("NEW", "PAID"), "PAID"),
    ({"type": "array", "items": LINE}, [{"sku": "a"}]),
    ({"type": "array", "items": "long"}, [1]),
]


@pytest.mark.parametrize(("writer", "value"), VALUES)
@pytest.mark.parametrize("reader", [kind for kind, _ in VALUES])
def test_fastavro_can_read_what_is_not_named(writer: Any, value: Any, reader: Any) -> None:
    if problems(schema(field(reader)), schema(field(writer))):
        return
    file = io.BytesIO()
    fastavro.schemaless_writer(file, schema(field(writer)), {"value": value})
    file.seek(0)

    fastavro.schemaless_reader(file, schema(field(writer)), schema(field(reader)))
