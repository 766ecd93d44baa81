"""JSON Schema, both ways with plain ``confluent_kafka`` serializers and a real registry."""

from __future__ import annotations

import json
import uuid

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from django_outbox.serializers.json_schema import JsonSchemaSerializer
from django_outbox.serializers.schemas import close_registries
from tests.support.serializing import deserialize, serialize
from tests.support.servers.apicurio import Apicurio

pytestmark = pytest.mark.xdist_group("apicurio")

ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Order",
    "type": "object",
    "properties": {"order_id": {"type": "integer"}},
    "required": ["order_id"],
}


def test_both_ways(apicurio: Apicurio) -> None:
    client = SchemaRegistryClient({"url": apicurio.url})
    topic = f"orders-{uuid.uuid4().hex}"
    client.register_schema(f"{topic}-value", Schema(json.dumps(ORDER), "JSON"))
    serializer = JsonSchemaSerializer(registry={"url": apicurio.url})
    context = SerializationContext(topic, MessageField.VALUE)

    value = serialize(serializer, {"order_id": 7}, topic)
    assert JSONDeserializer(json.dumps(ORDER), schema_registry_client=client)(value, context) == {"order_id": 7}
    theirs = JSONSerializer(json.dumps(ORDER), client, conf={"auto.register.schemas": False})({"order_id": 7}, context)
    assert deserialize(serializer, theirs, topic).payload == {"order_id": 7}
    client.close()
    close_registries()
