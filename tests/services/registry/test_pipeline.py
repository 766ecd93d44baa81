"""Messages on their way through relay and consumer with a real registry."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer as TheirDeserializer
from confluent_kafka.schema_registry.avro import AvroSerializer as TheirSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from django_outbox import publish
from django_outbox.events.event import Event
from django_outbox.exceptions import InvalidMessage
from django_outbox.models import InboxMessage
from django_outbox.serializers.schemas import close_registries
from tests.support.inbox import Receiver, plain, received
from tests.support.outbox import Pipeline, Status, make_due, put, row
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.serializing import drain
from tests.support.servers.apicurio import Apicurio

pytestmark = [pytest.mark.django_db, pytest.mark.xdist_group("apicurio")]

ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "order_id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}


class Scene:
    """A registry with a subject, and settings that name it."""

    def __init__(self, service: Apicurio) -> None:
        self.service = service
        self.topic = f"orders-{uuid.uuid4().hex}"
        self.client = SchemaRegistryClient({"url": service.url})

    def register(self, schema: Any = ORDER) -> int:
        return int(self.client.register_schema(f"{self.topic}-value", Schema(json.dumps(schema), "AVRO")))

    @property
    def context(self) -> SerializationContext:
        return SerializationContext(self.topic, MessageField.VALUE)

    def settings(self, **options: Any) -> dict[str, Any]:
        registry = {"url": self.service.url, "max.retries": 0, "timeout": 5}
        serializer = {
            "CLASS": "django_outbox.serializers.avro.AvroSerializer",
            "OPTIONS": {"registry": registry, **options},
        }
        return {"SERIALIZERS": {"order.*": serializer}, "TOPIC": self.topic}


@pytest.fixture
def scene(apicurio: Apicurio) -> Iterator[Scene]:
    scene = Scene(apicurio)
    with outbox_settings(**scene.settings()):
        yield scene
    scene.client.close()
    close_registries()


def test_the_record_is_avro_and_the_row_and_the_handler_have_json(scene: Scene) -> None:
    scene.register()
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = publish("order.created", {"order_id": 7})

    drain(pipeline)

    (record,) = pipeline.broker.records(scene.topic)
    assert TheirDeserializer(scene.client)(record.value, scene.context) == {"order_id": 7, "note": None}
    assert ("content-type", b"application/avro") in record.headers
    assert row(message).payload == {"order_id": 7}
    pipeline.run()
    assert [event.payload for event in pipeline.handled] == [{"order_id": 7}]


def test_a_record_of_a_plain_avro_producer_is_handled(scene: Scene) -> None:
    schema_id = scene.register()
    their = TheirSerializer(scene.client, json.dumps(ORDER), conf={"auto.register.schemas": False})
    value = their({"order_id": 7, "note": "a"}, scene.context)
    receiver = Receiver()
    receiver.on("order.created")

    receiver.receive(received(value=value, topic=scene.topic))

    (event,) = receiver.handled
    assert event.payload == {"order_id": 7, "note": "a"}
    assert (event.headers["schema_id"], event.headers["schema_version"]) == (str(schema_id), "1")


def test_a_mapper_names_the_event_of_a_plain_record(scene: Scene) -> None:
    scene.register()
    their = TheirSerializer(scene.client, json.dumps(ORDER), conf={"auto.register.schemas": False})
    value = their({"order_id": 7, "note": "a"}, scene.context)
    receiver = Receiver()
    receiver.on("order.created")

    with outbox_settings(
        **scene.settings(), INBOX={scene.topic: lambda record: Event(type="order.created", payload=record.value)}
    ):
        receiver.receive(plain(value, topic=scene.topic))

    assert receiver.payloads == [{"order_id": 7, "note": "a"}]


def test_a_record_with_an_unknown_schema_is_dead_with_its_bytes_and_can_be_retried(scene: Scene) -> None:
    scene.register()
    value = TheirSerializer(scene.client, json.dumps(ORDER), conf={"auto.register.schemas": False})(
        {"order_id": 7, "note": "a"}, scene.context
    )
    scene.register({**ORDER, "name": f"A{scene.topic[-8:]}"})
    missing = b"\0" + (int.from_bytes(value[1:5], "big") + 1000).to_bytes(4, "big") + value[5:]
    receiver = Receiver()
    receiver.on("order.created")

    receiver.receive(received(value=missing, topic=scene.topic))

    dead = InboxMessage.objects.get()
    assert dead.status == Status.DEAD
    assert "has no schema" in dead.last_error
    assert bytes(dead.raw_value) == missing


def test_messages_wait_while_the_registry_is_away(
    scene: Scene, apicurio: Apicurio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_outbox")
    pipeline = Pipeline()
    pipeline.relay.batch_size = 2
    apicurio.stop()
    try:
        messages = [publish("order.created", {"order_id": 7}) for _ in range(5)]
        other = publish("other", {"order_id": 7}, topic="others")
        drain(pipeline)
    finally:
        apicurio.start()
    for message in messages:
        waiting = row(message)
        assert (waiting.status, waiting.retry_count, waiting.last_error) == (Status.PENDING, 0, "")
    assert row(other).status == Status.PUBLISHED
    (began,) = [each for each in caplog.messages if "registry" in each]
    assert began.startswith(f"The schema registry {apicurio.url} cannot be reached: ")

    scene.register()

    def are_sent() -> bool:
        make_due(*messages)
        drain(pipeline)
        return {row(message).status for message in messages} == {Status.PUBLISHED}

    wait_until(are_sent, 90, what="the messages")
    _, ended = [each for each in caplog.messages if "registry" in each]
    assert ended.startswith(f"The schema registry {apicurio.url} is available again after ")


def test_records_wait_while_the_registry_is_away(scene: Scene, apicurio: Apicurio) -> None:
    scene.register()
    their = TheirSerializer(scene.client, json.dumps(ORDER), conf={"auto.register.schemas": False})
    values = [their({"order_id": number, "note": None}, scene.context) for number in range(2)]
    pipeline = Pipeline(topics=[scene.topic])
    pipeline.on("order.created")
    put(pipeline.broker, *[received(value=value, topic=scene.topic, key="a") for value in values])
    put(pipeline.broker, received({"order_id": 7}, topic=scene.topic, key="b"))
    close_registries()  # nothing is loaded
    apicurio.stop()
    try:
        for _ in range(5):
            pipeline.consumer.run_once()
        assert [event.payload["order_id"] for event in pipeline.handled] == [7]
        subscription = pipeline.consumer.subscription
    finally:
        apicurio.start()
    scene.client.clear_caches()  # it would not register again what it knows
    scene.register()

    def are_handled() -> bool:
        pipeline.consumer.run_once(0.1)
        return len(pipeline.handled) == 3

    wait_until(are_handled, 90, what="the records")
    assert pipeline.consumer.subscription is subscription


def test_a_payload_that_does_not_fit_is_refused_or_dead(scene: Scene) -> None:
    scene.register()
    pipeline = Pipeline()
    unchecked = publish("order.created", {"order_id": "7"}, key="a")  # nothing is loaded yet

    drain(pipeline)

    assert row(unchecked).status == Status.DEAD
    assert row(unchecked).last_error == "It cannot be encoded: payload.order_id: expected long, got text"
    with pytest.raises(InvalidMessage, match=r"payload.order_id: expected long, got text"):
        publish("order.created", {"order_id": "7"})


def test_an_unknown_subject_is_counted_and_retried(scene: Scene) -> None:
    pipeline = Pipeline()
    message = publish("order.created", {"order_id": 7})

    pipeline.relay.run_once()
    pipeline.relay.load_schemas()
    pipeline.relay.run_once()

    failed = row(message)
    assert (failed.status, failed.retry_count) == (Status.PENDING, 1)
    assert f"has no subject '{scene.topic}-value'" in failed.last_error
