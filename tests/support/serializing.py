"""Serializing outside of relay and consumer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django_outbox.serializers.avro import AvroCodec
from django_outbox.serializers.base import Decoded, NotLoaded, Serializer, load_all
from tests.support.outbox import Pipeline

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


def serialize(serializer: Serializer, payload: Any, topic: str = "orders", event_type: str = "order.created") -> bytes:
    """The value for a payload, whose schema is loaded if necessary."""
    text = json.dumps(payload)
    try:
        return serializer.serialize(text, event_type, topic)
    except NotLoaded as error:
        load_all([error])
        return serializer.serialize(text, event_type, topic)


def deserialize(
    serializer: Serializer, data: bytes, topic: str = "orders", event_type: str = "order.created"
) -> Decoded:
    """What a value says, whose schema is loaded if necessary."""
    try:
        return serializer.deserialize(data, event_type, topic)
    except NotLoaded as error:
        load_all([error])
        return serializer.deserialize(data, event_type, topic)


def avro_settings(url: str, **options: Any) -> dict[str, Any]:
    """A value of ``SERIALIZERS`` that serializes all events ``order.*``."""
    serializer = {
        "CLASS": "django_outbox.serializers.avro.AvroSerializer",
        "OPTIONS": {"registry": {"url": url, "max.retries": 0}, **options},
    }
    return {"order.*": serializer}


def json_schema_settings(path: str | Path) -> dict[str, Any]:
    """One of ``SERIALIZERS`` that checks JSON by the schema in a file."""
    options = {"registry": {"url": "http://127.0.0.1:1"}, "schema": str(path)}
    return {"CLASS": "django_outbox.serializers.json_schema.JsonSchemaSerializer", "OPTIONS": options}


def avro_value(payload: Any, number: int = 1) -> bytes:
    """The value of an order, written with the schema that has this id in the registry."""
    return b"\0" + number.to_bytes(4, "big") + AvroCodec(json.dumps(ORDER), ()).encode(json.dumps(payload))


def drain(pipeline: Pipeline) -> None:
    """Send all that can be sent, as a relay does that loads schemas between its passes."""
    while pipeline.relay.run_once().moved or pipeline.relay.load_schemas():
        pass
