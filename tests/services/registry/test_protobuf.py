"""Protobuf, both ways with plain ``confluent_kafka`` serializers and a real registry."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer as Theirs
from confluent_kafka.serialization import MessageField, SerializationContext

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
