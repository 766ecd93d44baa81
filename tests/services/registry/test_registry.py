"""Schemas come from a real registry, and values are those that plain ``confluent_kafka`` serializers write and read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer as TheirDeserializer
from confluent_kafka.schema_registry.avro import AvroSerializer as TheirSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, SchemaNotFound, UnreadableRecord
from django_outbox.serializers.avro import AvroSerializer
from django_outbox.serializers.base import NotLoaded, load_all
from django_outbox.serializers.lookups import ByText
from django_outbox.serializers.schemas import close_registries
from tests.support.serializing import ORDER, deserialize, serialize
from tests.support.servers.apicurio import Apicurio

pytestmark = pytest.mark.xdist_group("apicurio")


@pytest.fixture
def client(apicurio: Apicurio) -> Iterator[SchemaRegistryClient]:
    client = SchemaRegistryClient({"url": apicurio.url})
    yield client
    client.close()


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    yield
    close_registries()


@pytest.fixture
def topic() -> str:
    return f"orders-{uuid.uuid4().hex}"


def context(topic: str) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE)


def registered(client: SchemaRegistryClient, topic: str, schema: Any = ORDER) -> int:
    return int(client.register_schema(f"{topic}-value", Schema(json.dumps(schema), "AVRO")))


def test_their_deserializer_reads_our_value(apicurio: Apicurio, client: SchemaRegistryClient, topic: str) -> None:
    registered(client, topic)

    value = serialize(AvroSerializer(registry={"url": apicurio.url}), {"order_id": 7}, topic)

    assert TheirDeserializer(client)(value, context(topic)) == {"order_id": 7, "note": None}


def test_our_deserializer_reads_their_value(apicurio: Apicurio, client: SchemaRegistryClient, topic: str) -> None:
    schema_id = registered(client, topic)
    conf = {"auto.register.schemas": False}
    value = TheirSerializer(client, json.dumps(ORDER), conf=conf)({"order_id": 7, "note": "a"}, context(topic))

    payload, headers = deserialize(AvroSerializer(registry={"url": apicurio.url}), value, topic)

    assert payload == {"order_id": 7, "note": "a"}
    assert headers == {"schema_id": str(schema_id), "schema_version": "1"}


def test_the_file_needs_not_be_formatted_like_the_registered_schema(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str, tmp_path: Path
) -> None:
    schema_id = registered(client, topic)
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER, indent=2))

    value = serialize(AvroSerializer(registry={"url": apicurio.url}, schema=path), {"order_id": 7}, topic)

    assert value[1:5] == schema_id.to_bytes(4, "big")


def test_a_file_that_is_not_registered_fails_unless_it_may_be_registered(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER, indent=2))
    with pytest.raises(SchemaNotFound, match="outbox_schemas register"):
        serialize(AvroSerializer(registry={"url": apicurio.url}, schema=path), {"order_id": 7}, topic)

    serializer = AvroSerializer(registry={"url": apicurio.url, "timeout": 6}, schema=path, auto_register=True)
    value = serialize(serializer, {"order_id": 7}, topic)

    assert value[1:5] == client.get_latest_version(f"{topic}-value").schema_id.to_bytes(4, "big")


def test_an_incompatible_file_is_not_registered(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str, tmp_path: Path
) -> None:
    registered(client, topic)
    client.set_compatibility(f"{topic}-value", "BACKWARD")
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps({**ORDER, "fields": [{"name": "order_id", "type": "string"}]}))

    serializer = AvroSerializer(registry={"url": apicurio.url}, schema=path, auto_register=True)
    with pytest.raises(SchemaNotFound, match=r"refuses .* incompatible"):
        serialize(serializer, {"order_id": "7"}, topic)


def test_the_registry_names_what_it_does_not_accept(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str
) -> None:
    registered(client, topic)
    client.set_compatibility(f"{topic}-value", "BACKWARD")
    fields = [{"name": "order_id", "type": "long"}, {"name": "total", "type": "long"}]
    registry = AvroSerializer(registry={"url": apicurio.url}).registry

    (reason,) = registry.incompatibilities(ByText("AVRO", f"{topic}-value", json.dumps({**ORDER, "fields": fields})))

    assert "total at /fields/1" in reason
    assert registry.incompatibilities(ByText("AVRO", f"{topic}-value", json.dumps(ORDER))) == []
    assert registry.incompatibilities(ByText("AVRO", f"{topic}-new", json.dumps(ORDER))) == []


def test_a_schema_may_use_schemas_of_other_subjects(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str
) -> None:
    money = {
        "type": "record",
        "name": "Money",
        "namespace": topic.replace("-", "_"),
        "fields": [{"name": "cents", "type": "long"}],
    }
    name = f"{money['namespace']}.Money"
    client.register_schema(f"{topic}-money", Schema(json.dumps(money), "AVRO"))
    order = {"type": "record", "name": "Order", "fields": [{"name": "total", "type": name}]}
    reference = SchemaReference(name, f"{topic}-money", 1)
    client.register_schema(f"{topic}-value", Schema(json.dumps(order), "AVRO", [reference]))
    serializer = AvroSerializer(registry={"url": apicurio.url})

    value = serialize(serializer, {"total": {"cents": 5}}, topic)

    assert deserialize(serializer, value, topic).payload == {"total": {"cents": 5}}


def test_a_subject_that_does_not_exist(apicurio: Apicurio, topic: str) -> None:
    with pytest.raises(SchemaNotFound, match=rf"has no subject \'{topic}-value\'"):
        serialize(AvroSerializer(registry={"url": apicurio.url}), {"order_id": 7}, topic)


def test_an_id_that_does_not_exist(apicurio: Apicurio, topic: str) -> None:
    with pytest.raises(UnreadableRecord, match=r"has no schema 2000000000: it was deleted, or"):
        deserialize(AvroSerializer(registry={"url": apicurio.url}), b"\0" + (2_000_000_000).to_bytes(4, "big"), topic)


def test_a_deleted_schema(apicurio: Apicurio, client: SchemaRegistryClient, topic: str) -> None:
    registered(client, topic, {**ORDER, "name": f"Order{topic[-8:]}"})
    value = serialize(AvroSerializer(registry={"url": apicurio.url}), {"order_id": 7}, topic)
    client.delete_version(f"{topic}-value", 1)
    client.delete_version(f"{topic}-value", 1, permanent=True)

    # Another registry for this process, which has not loaded it.
    with pytest.raises(UnreadableRecord, match="it was deleted"):
        deserialize(AvroSerializer(registry={"url": apicurio.url, "timeout": 7}), value, topic)


def test_a_registry_that_is_away(topic: str) -> None:
    serializer = AvroSerializer(registry={"url": "http://127.0.0.1:1", "max.retries": 0})
    with pytest.raises(RegistryUnavailable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        serialize(serializer, {"order_id": 7}, topic)


def test_two_hundred_schemas_are_loaded_at_once(apicurio: Apicurio, client: SchemaRegistryClient, topic: str) -> None:
    topics = [f"{topic}-{number}" for number in range(200)]
    for number, each in enumerate(topics):
        registered(client, each, {**ORDER, "name": f"Order{number}"})
    serializer = AvroSerializer(registry={"url": apicurio.url, "timeout": 8})
    missing = []
    for each in topics:
        try:
            serializer.serialize('{"order_id": 7}', "order.created", each)
        except NotLoaded as error:
            missing.append(error)
    assert len(missing) == 200
    load_all(missing)

    for each in topics:
        serializer.serialize('{"order_id": 7}', "order.created", each)


def test_publish_refuses_what_does_not_fit_once_the_schema_is_loaded(
    apicurio: Apicurio, client: SchemaRegistryClient, topic: str
) -> None:
    registered(client, topic)
    serializer = AvroSerializer(registry={"url": apicurio.url})
    serialize(serializer, {"order_id": 7}, topic)

    with pytest.raises(InvalidMessage, match=r"payload.order_id: expected long, got text"):
        serializer.validate({"order_id": "7"}, "order.created", topic)
