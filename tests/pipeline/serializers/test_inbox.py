"""Records of other services in a registry's formats: read, or kept with their bytes until they can be."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from django_outbox import Event
from django_outbox.exceptions import RegistryUnavailable
from django_outbox.models import InboxMessage
from django_outbox.serializers import registry as registry_module
from django_outbox.serializers.avro import AvroCodec
from django_outbox.state.retry import retry
from tests.support.inbox import Receiver, plain, received
from tests.support.outbox import Pipeline, Status, send
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.registry import StubRegistry
from tests.support.serializing import ORDER, avro_settings

pytestmark = pytest.mark.django_db

AVRO = [("content-type", b"application/avro")]


def value_of(payload: Any, number: int = 1) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + AvroCodec(json.dumps(ORDER), ()).encode(json.dumps(payload))


@pytest.fixture
def receiver() -> Receiver:
    receiver = Receiver()
    receiver.on("order.created")
    receiver.on("other")
    return receiver


def retry_until_handled(receiver: Receiver) -> None:
    """What the registry does not have is not asked for at once."""

    def is_handled() -> bool:
        retry(InboxMessage.objects.filter(status=Status.DEAD), using="default")
        receiver.retry()
        return bool(receiver.handled)

    wait_until(is_handled, 30, what="the event")


def test_the_payload_is_json_and_headers_name_the_schema(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)

    receiver.receive(received(value=value_of({"order_id": 7}), headers=[("tenant", b"north")]))

    (event,) = receiver.handled
    assert event.payload == {"order_id": 7, "note": None}
    assert event.headers == {"tenant": "north", "schema_id": "1", "schema_version": "1"}


def test_json_of_before_the_switch_is_still_read(registry: StubRegistry, receiver: Receiver) -> None:
    receiver.receive(received({"order_id": 7}))

    assert receiver.payloads == [{"order_id": 7}]
    assert registry.requests == []


def test_avro_without_a_serializer_stays_bytes(registry: StubRegistry, receiver: Receiver) -> None:
    record = received(value=b"\0\0\0\0\1\2", type="other")
    receiver.receive(replace(record, headers=(*record.headers[:-1], *AVRO)))

    assert receiver.payloads == [b"\0\0\0\0\1\2"]


def test_structured_cloudevents_with_avro_are_read(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "warehouse",
        "type": "order.created",
        "datacontenttype": "application/avro",
        "data_base64": base64.b64encode(value_of({"order_id": 7})).decode(),
    }

    receiver.receive(plain(json.dumps(event).encode(), headers=[("content-type", b"application/cloudevents+json")]))

    assert receiver.payloads == [{"order_id": 7, "note": None}]


def test_a_mapper_returns_the_bytes_of_a_plain_record(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)
    with outbox_settings(
        SERIALIZERS=avro_settings(registry.url),
        INBOX={"elsewhere": lambda record: Event(type="order.created", payload=record.value)},
    ):
        receiver.receive(plain(value_of({"order_id": 7})))

    (event,) = receiver.handled
    assert event.payload == {"order_id": 7, "note": None}
    assert event.headers["schema_id"] == "1"


@pytest.mark.parametrize("mapped", [False, True])
def test_an_unknown_schema_is_a_dead_letter_with_its_bytes_and_can_be_retried(
    registry: StubRegistry, receiver: Receiver, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "RETRY_SECONDS", 0.05)
    value = value_of({"order_id": 7})
    mapper = lambda record: Event(type="order.created", payload=record.value)  # noqa: E731
    with outbox_settings(SERIALIZERS=avro_settings(registry.url), INBOX={"mapped": mapper}):
        receiver.receive(plain(value, topic="mapped") if mapped else received(value=value))
        dead = InboxMessage.objects.get()
        assert dead.status == Status.DEAD
        assert "has no schema 1: it was deleted, or the record was written with another registry" in dead.last_error
        assert bytes(dead.raw_value or b"") == value
        assert receiver.handled == []

        registry.register("orders-value", ORDER)
        retry_until_handled(receiver)

    assert receiver.payloads == [{"order_id": 7, "note": None}]
    assert InboxMessage.objects.get().status == Status.CONSUMED


def test_while_the_registry_is_away_nothing_is_stored_or_counted(registry: StubRegistry, receiver: Receiver) -> None:
    registry.answer = lambda method, path: (503, {"message": "away"})
    records = [received(value=value_of({"order_id": number}), key="a") for number in range(3)]
    for counted in (False, True):
        with pytest.raises(RegistryUnavailable, match="answers 503 for schema 1"):
            receiver.receive(*records, counted=counted)
    assert InboxMessage.objects.count() == 0

    registry.answer = lambda method, path: None
    registry.register("orders-value", ORDER)
    receiver.receive(*records)

    assert [payload["order_id"] for payload in receiver.payloads] == [0, 1, 2]


def test_a_fresh_record_of_a_mapper_is_read_again_and_not_overtaken(registry: StubRegistry, receiver: Receiver) -> None:
    mapper = lambda record: Event(type="order.created", payload=record.value, key="a")  # noqa: E731
    first, second = (plain(value_of({"order_id": number}), topic="mapped") for number in (1, 2))
    registry.answer = lambda method, path: (503, {"message": "away"})
    with outbox_settings(SERIALIZERS=avro_settings(registry.url), INBOX={"mapped": mapper}):
        for _ in range(10):  # more often than MAX_DELIVERIES
            with pytest.raises(RegistryUnavailable):
                receiver.receive(first, counted=True)

        registry.answer = lambda method, path: None
        registry.register("orders-value", ORDER)
        receiver.receive(first, counted=True)
        receiver.receive(second)

    assert [payload["order_id"] for payload in receiver.payloads] == [1, 2]


def test_a_retry_waits_uncounted_while_the_registry_is_away(
    registry: StubRegistry,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry_module, "RETRY_SECONDS", 0.05)
    receiver.receive(received(value=value_of({"order_id": 7})))
    registry.answer = lambda method, path: (503, {"message": "away"})

    def waits() -> bool:
        retry(InboxMessage.objects.all(), using="default")
        receiver.retry(limit=1)
        return InboxMessage.objects.get().status == Status.PENDING

    wait_until(waits, 30, what="a request")  # before, the registry is known not to have the schema
    for _ in range(10):  # more often than MAX_DELIVERIES
        receiver.retry(limit=1)
    waiting = InboxMessage.objects.get()
    assert (waiting.status, waiting.retry_count) == (Status.PENDING, 0)
    assert [text for text in caplog.messages if "Stored records" in text] == [
        f"The schema registry {registry.url} answers 503 for schema 1: away. Stored records that need it wait."
    ]
    receiver.receive(received({"order_id": 8}, type="other"))
    assert receiver.payloads == [{"order_id": 8}]
    receiver.handled.clear()

    registry.answer = lambda method, path: None
    registry.register("orders-value", ORDER)
    retry_until_handled(receiver)

    assert receiver.payloads == [{"order_id": 7, "note": None}]


def test_a_schema_is_loaded_before_the_transaction_of_the_handlers(
    registry: StubRegistry, receiver: Receiver, django_assert_num_queries: Any
) -> None:
    """Without queries, there is no transaction that could wait for the registry."""
    registry.answer = lambda method, path: (503, {"message": "away"})
    with django_assert_num_queries(0), pytest.raises(RegistryUnavailable):
        receiver.receive(received(value=value_of({"order_id": 7})))


def test_a_consumer_reads_the_record_again_when_the_registry_is_back(registry: StubRegistry) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    registry.answer = lambda method, path: (503, {"message": "away"})
    record = received(value=value_of({"order_id": 7}), topic="outbox")
    send(pipeline.broker, value=record.value or b"", headers=record.headers)
    with pytest.raises(RegistryUnavailable):
        pipeline.run()

    registry.answer = lambda method, path: None
    registry.register("orders-value", ORDER)
    pipeline.run()

    assert [event.payload for event in pipeline.handled] == [{"order_id": 7, "note": None}]
