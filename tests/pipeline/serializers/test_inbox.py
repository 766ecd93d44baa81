"""Records of other services in a registry's formats: read, or kept with their bytes until they can be."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any, cast

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox import Event
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.models import InboxMessage
from django_outbox.serializers import registry as registry_module
from django_outbox.serializers.avro import AvroCodec
from django_outbox.serializers.base import Decoded, NotLoaded, Serializer
from django_outbox.state import inbox as inbox_state
from django_outbox.state.retry import retry
from tests.support.inbox import Receiver, plain, received
from tests.support.outbox import Status
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.registry import StubRegistry
from tests.support.serializing import ORDER, avro_settings, avro_value

pytestmark = pytest.mark.django_db

AVRO = [("content-type", b"application/avro")]


@pytest.fixture
def receiver() -> Receiver:
    receiver = Receiver()
    receiver.on("order.created")
    receiver.on("other")
    return receiver


def receive_until_handled(receiver: Receiver, *records: ReceivedRecord, counted: bool = False) -> None:
    """A registry that is back is noticed in the background."""
    wait_until(lambda: "waiting" not in receiver.receive(*records, counted=counted), 30, what="the schema")


def retry_until_handled(receiver: Receiver) -> None:
    """What the registry does not have is not asked for at once."""

    def is_handled() -> bool:
        retry(InboxMessage.objects.filter(status=Status.DEAD), using="default")
        receiver.retry()
        return bool(receiver.handled)

    wait_until(is_handled, 30, what="the event")


def test_the_payload_is_json_and_headers_name_the_schema(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)

    receiver.receive(received(value=avro_value({"order_id": 7}), headers=[("tenant", b"north")]))

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
        "data_base64": base64.b64encode(avro_value({"order_id": 7})).decode(),
    }

    receiver.receive(plain(json.dumps(event).encode(), headers=[("content-type", b"application/cloudevents+json")]))

    assert receiver.payloads == [{"order_id": 7, "note": None}]


def test_a_mapper_returns_the_bytes_of_a_plain_record(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)
    with outbox_settings(
        SERIALIZERS=avro_settings(registry.url),
        INBOX={"elsewhere": lambda record: Event(type="order.created", payload=record.value)},
    ):
        receiver.receive(plain(avro_value({"order_id": 7})))

    (event,) = receiver.handled
    assert event.payload == {"order_id": 7, "note": None}
    assert event.headers["schema_id"] == "1"


@pytest.mark.parametrize("mapped", [False, True])
def test_an_unknown_schema_is_a_dead_letter_with_its_bytes_and_can_be_retried(
    registry: StubRegistry, receiver: Receiver, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "RETRY_SECONDS", 0.05)
    value = avro_value({"order_id": 7})
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
    registry.go_away()
    records = [received(value=avro_value({"order_id": number}), key="a") for number in range(3)]
    records.append(received({"order_id": 3}, key="a"))  # needs no schema, and must not overtake the others
    for counted in (False, True):
        assert receiver.receive(*records[: 3 if counted else 4], counted=counted) == ["waiting"] * (3 if counted else 4)
    assert InboxMessage.objects.count() == 0

    registry.come_back()
    registry.register("orders-value", ORDER)
    receive_until_handled(receiver, *records)

    assert [payload["order_id"] for payload in receiver.payloads] == [0, 1, 2, 3]


def test_a_fresh_record_of_a_mapper_is_read_again_and_not_overtaken(registry: StubRegistry, receiver: Receiver) -> None:
    mapper = lambda record: Event(type="order.created", payload=record.value, key="a")  # noqa: E731
    first, second = (plain(avro_value({"order_id": number}), topic="mapped") for number in (1, 2))
    registry.go_away()
    with outbox_settings(SERIALIZERS=avro_settings(registry.url), INBOX={"mapped": mapper}):
        assert receiver.receive(first, second) == ["waiting", "waiting"]
        for _ in range(10):  # more often than MAX_DELIVERIES, each time in another process
            assert receiver.receive(first, counted=True) == ["waiting"]
            assert InboxMessage.objects.get().delivery_count == 0
            receiver.restart()

        registry.come_back()
        registry.register("orders-value", ORDER)
        receive_until_handled(receiver, first, counted=True)
        receiver.receive(second)

    assert [payload["order_id"] for payload in receiver.payloads] == [1, 2]


class Killed(BaseException):
    """What ends the process."""


def test_a_mapper_that_kills_its_process_is_stopped_as_without_serializers(
    registry: StubRegistry, receiver: Receiver
) -> None:
    calls: list[int] = []

    def mapper(record: ReceivedRecord) -> Event:
        calls.append(1)
        raise Killed

    with outbox_settings(SERIALIZERS=avro_settings(registry.url), INBOX={"mapped": mapper}, MAX_DELIVERIES=3):
        record = plain(b"{}", topic="mapped")
        for _ in range(3):
            with pytest.raises(Killed):
                receiver.receive(record, counted=True)
            receiver.restart()
        assert receiver.receive(record, counted=True) == ["dead"]

    assert len(calls) == 3
    assert InboxMessage.objects.get().last_error.startswith("It took its process down 3 times (MAX_DELIVERIES)")


def test_a_record_that_was_not_read_is_not_forgotten(
    registry: StubRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deliveries were too many to read it, and then another consumer took one of its own back."""
    record = plain(b"{}", topic="mapped")
    lock = inbox_state.lock

    def uncount_and_lock(row_id: int, *, using: str) -> Any:
        inbox_state.uncount_delivery(row_id, using=using)
        return lock(row_id, using=using)

    with outbox_settings(INBOX={"mapped": lambda record: None}, MAX_DELIVERIES=3):
        registry.go_away()
        with outbox_settings(INBOX={"mapped": lambda record: Event(type="order.created", payload=b"\0\0\0\0\1")}):
            receiver.receive(record, counted=True)
        InboxMessage.objects.update(delivery_count=3)
        receiver.restart()
        monkeypatch.setattr(inbox_state, "lock", uncount_and_lock)

        assert receiver.receive(record, counted=True) == ["dead"]


def test_a_mapper_is_called_once_for_a_record(registry: StubRegistry, receiver: Receiver) -> None:
    calls: list[int] = []

    def mapper(record: ReceivedRecord) -> Event:
        calls.append(1)
        return Event(type="order.created", payload={"order_id": 7})

    with outbox_settings(SERIALIZERS=avro_settings(registry.url), INBOX={"mapped": mapper}):
        receiver.receive(plain(b"{}", topic="mapped"), counted=True)

    assert receiver.payloads == [{"order_id": 7}]
    assert len(calls) == 1


def test_an_event_that_was_read_is_not_decoded_again(
    registry: StubRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("orders-value", ORDER)
    decoded: list[bytes] = []
    decode = AvroCodec.decode
    monkeypatch.setattr(AvroCodec, "decode", lambda codec, data: decoded.append(data) or decode(codec, data))

    receiver.receive(received(value=avro_value({"order_id": 7})), counted=True)

    assert receiver.payloads == [{"order_id": 7, "note": None}]
    assert len(decoded) == 1


def test_a_retry_waits_uncounted_while_the_registry_is_away(
    registry: StubRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "RETRY_SECONDS", 0.05)
    receiver.receive(received(value=avro_value({"order_id": 7})))
    registry.go_away()

    def waits() -> bool:
        retry(InboxMessage.objects.all(), using="default")
        receiver.retry(limit=1)
        return InboxMessage.objects.get().status == Status.PENDING

    wait_until(waits, 30, what="a request")  # before, the registry is known not to have the schema
    for _ in range(10):  # more often than MAX_DELIVERIES
        receiver.retry(limit=1)
    waiting = InboxMessage.objects.get()
    assert (waiting.status, waiting.retry_count) == (Status.PENDING, 0)
    assert waiting.delivery_count == 0
    receiver.receive(received({"order_id": 8}, type="other"))
    assert receiver.payloads == [{"order_id": 8}]
    receiver.handled.clear()

    registry.come_back()
    registry.register("orders-value", ORDER)
    retry_until_handled(receiver)

    assert receiver.payloads == [{"order_id": 7, "note": None}]


def test_a_schema_is_loaded_before_the_transaction_of_the_handlers(
    registry: StubRegistry, receiver: Receiver, django_assert_num_queries: Any
) -> None:
    """Without queries, there is no transaction that could wait for the registry."""
    registry.go_away()
    with django_assert_num_queries(0):
        assert receiver.receive(received(value=avro_value({"order_id": 7}))) == ["waiting"]


def test_a_login_that_may_not_read_a_schema_stops_nothing(registry: StubRegistry, receiver: Receiver) -> None:
    registry.register("orders-value", ORDER)
    registry.answer = lambda method, path: (403, {"message": "no"}) if path == "/schemas/ids/2" else None
    forbidden = received(value=avro_value({"order_id": 6}, number=2), key="a")

    assert receiver.receive(forbidden, received(value=avro_value({"order_id": 7}), key="a")) == ["dead", "consumed"]

    assert "refuses this login for schema 2: no" in InboxMessage.objects.get(status=Status.DEAD).last_error
    assert bytes(InboxMessage.objects.get(status=Status.DEAD).raw_value or b"") == forbidden.value


class Odd(Serializer):
    """A serializer of a project with mistakes."""

    content_type = "application/odd"

    def __init__(self, result: Any) -> None:
        self._result = result

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        pass

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        return b"\0"

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        if isinstance(self._result, Exception):
            raise self._result
        return cast(Decoded, self._result)


def failing_load() -> None:
    raise KeyError("currency")


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (KeyError("currency"), "the serializer of order.created failed.\n\n"),
        (ImproperlyConfigured("odd"), "the serializer of order.created failed.\n\n"),
        (NotLoaded("key", failing_load), "its schema cannot be loaded.\n\n"),
        (None, "the serializer of order.created failed.\n\n"),
        (Decoded({1, 2}, {}), "payload: JSON cannot represent it"),
        (Decoded({}, {"schema_id": 7}), "headers: names and values must be text"),
    ],
)
def test_an_unexpected_error_of_a_serializer_is_a_dead_letter(
    receiver: Receiver, result: Any, reason: str, counted: bool, mapped: bool
) -> None:
    serializers = {"order.*": {"CLASS": f"{__name__}.Odd", "OPTIONS": {"result": result}}}
    mapper = lambda record: Event(type="order.created", payload=record.value)  # noqa: E731
    record = plain(b"\0", topic="mapped") if mapped else received(value=b"\0")
    with outbox_settings(SERIALIZERS=serializers, INBOX={"mapped": mapper}):
        assert receiver.receive(record, counted=counted) == ["dead"]
        assert receiver.receive(received({"order_id": 7}, type="other"), counted=counted) == ["consumed"]

    assert InboxMessage.objects.get(status=Status.DEAD).last_error.startswith(f"It cannot be read: {reason}")
