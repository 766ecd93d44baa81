"""Protobuf, both ways with plain ``confluent_kafka`` serializers and a real registry."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer as Theirs
from confluent_kafka.serialization import MessageField, SerializationContext

from django_outbox.exceptions import UnreadableRecord
from django_outbox.serializers.lookups import Latest
from django_outbox.serializers.protobuf import ProtobufSerializer
from django_outbox.serializers.schemas import close_registries
from tests.support.messages import OrderCreated
from tests.support.serializing import deserialize, serialize
from tests.support.servers.apicurio import Apicurio

pytestmark = pytest.mark.xdist_group("apicurio")

PAYLOAD = {
    "order_id": 2**60,
    "note": "a",
    "lines": [{"sku": "x", "count": 2}],
    "at": "2026-01-31T12:00:00Z",
    "raw": "AAE=",
    "rate": 1.5,
    "stock": {"k": 3},
}


def test_both_ways(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    topic = f"orders-{uuid.uuid4().hex}"
    context = SerializationContext(topic, MessageField.VALUE)
    serializer = ProtobufSerializer(
        registry={"url": apicurio.url}, message="tests.support.messages.OrderCreated", auto_register=True
    )

    value = serialize(serializer, PAYLOAD, topic)
    theirs = ProtobufDeserializer(OrderCreated, {"use.deprecated.format": False}, client)(value, context)
    assert (theirs.order_id, theirs.lines[0].sku) == (2**60, "x")
    conf = {"auto.register.schemas": False, "use.deprecated.format": False}
    value = Theirs(OrderCreated, client, conf)(theirs, context)
    assert deserialize(serializer, value, topic).payload == PAYLOAD
    client.close()
    close_registries()


def test_a_file_is_found_by_another_process_and_compared(apicurio: Apicurio) -> None:
    topic = f"orders-{uuid.uuid4().hex}"
    options = {"url": apicurio.url, "timeout": 6}
    message = "tests.support.messages.OrderCreated"
    serialize(ProtobufSerializer(registry=options, message=message, auto_register=True), PAYLOAD, topic)
    close_registries()  # as in another process
    serializer = ProtobufSerializer(registry=options, message=message)

    assert deserialize(serializer, serialize(serializer, PAYLOAD, topic), topic).payload == PAYLOAD
    latest = Latest("PROTOBUF", f"{topic}-value")
    serializer.registry.load(latest)
    found = serializer.registry.get(latest)
    assert found is not None
    assert serializer.readable(found.text) == serializer.readable(serializer.local_text("", ""))
    close_registries()


def test_a_file_that_another_client_registered_as_text(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    text = 'syntax = "proto3"; package shop; message Header {} message Line { string sku = 1; int32 count = 2; }'
    number = client.register_schema(f"lines-{uuid.uuid4().hex}", Schema(text, "PROTOBUF"))
    serializer = ProtobufSerializer(registry={"url": apicurio.url}, message="tests.support.messages.Line")

    for indexes in (b"\x02\x02", b"\x02\0", b"\0"):
        value = b"\0" + number.to_bytes(4, "big") + indexes + b"\x10\x07"
        if indexes == b"\x02\x02":
            assert deserialize(serializer, value).payload == {"sku": "", "count": 7}
        else:
            with pytest.raises(UnreadableRecord, match=r"it is not a shop\.Line, but shop\.Header"):
                deserialize(serializer, value)
    client.close()
    close_registries()
