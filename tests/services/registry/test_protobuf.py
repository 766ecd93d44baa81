from __future__ import annotations

import uuid

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer as Theirs
from confluent_kafka.serialization import MessageField, SerializationContext

from django_outbox.serializers.protobuf import ProtobufSerializer
from django_outbox.serializers.schemas import close_registries
from tests.services.registry.test_registry import deserialize, serialize
from tests.support.schemas import order_pb2
from tests.support.servers.apicurio import Apicurio

PAYLOAD = {"order_id": 2**60, "note": "a", "lines": [{"sku": "x", "count": 2}], "at": "2026-01-31T12:00:00Z", "raw": "AAE=", "d": 1.5, "m": {"k": 3}}


def test_both_ways(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    topic = f"orders-{uuid.uuid4().hex}"
    context = SerializationContext(topic, MessageField.VALUE)
    serializer = ProtobufSerializer(
        registry={"url": apicurio.url}, message="tests.support.schemas.order_pb2.OrderCreated", auto_register=True
    )

    value = serialize(serializer, PAYLOAD, topic)
    theirs = ProtobufDeserializer(order_pb2.OrderCreated, {"use.deprecated.format": False}, client)(value, context)
    assert theirs.order_id == 2**60 and theirs.lines[0].sku == "x"
    conf = {"auto.register.schemas": False, "use.deprecated.format": False}
    value = Theirs(order_pb2.OrderCreated, client, conf)(theirs, context)
    assert deserialize(serializer, value, topic).payload == PAYLOAD
    client.close()
    close_registries()
