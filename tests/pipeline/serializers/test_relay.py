"""The row stays JSON and only the wire changes; what the registry lacks or refuses loses no message and no order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from django_outbox import TOMBSTONE, Event, RawBytes, publish, publish_many
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.exceptions import InvalidMessage, RegistryUnavailable
from django_outbox.serializers.avro import AvroCodec
from tests.support.outbox import Pipeline, Status, make_message, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.registry import StubRegistry
from tests.support.serializing import ORDER, avro_settings, drain

pytestmark = pytest.mark.django_db

SUBJECT = "outbox-value"


def read(record: ReceivedRecord) -> Any:
    assert record.value is not None
    return AvroCodec(json.dumps(ORDER), ()).decode(record.value[5:])


def header(record: ReceivedRecord, name: str) -> bytes | None:
    return dict(record.headers).get(name)


def away(method: str, path: str) -> Any:
    return 503, {"message": "away"}


@pytest.fixture
def pipeline() -> Pipeline:
    pipeline = Pipeline()
    pipeline.on("order.created")
    return pipeline


def test_the_record_is_avro_and_row_and_handler_have_json(registry: StubRegistry, pipeline: Pipeline) -> None:
    registry.register(SUBJECT, ORDER)
    message = publish("order.created", {"order_id": 7}, key="a")

    drain(pipeline)

    (record,) = pipeline.broker.records("outbox")
    assert read(record) == {"order_id": 7, "note": None}
    assert header(record, "content-type") == b"application/avro"
    assert record.key == b"a"
    assert row(message).payload == {"order_id": 7}
    pipeline.run()
    assert [event.payload for event in pipeline.handled] == [{"order_id": 7}]
    assert row(message).status == Status.CONSUMED


def test_events_without_a_match_stay_json(registry: StubRegistry, pipeline: Pipeline) -> None:
    publish("customer.created", {"order_id": 7})

    drain(pipeline)

    assert [record.value for record in pipeline.broker.records("outbox")] == [b'{"order_id": 7}']
    assert registry.requests == []


def test_tombstones_and_bytes_are_not_serialized(registry: StubRegistry, pipeline: Pipeline) -> None:
    publish("order.created", TOMBSTONE, key="a")
    publish("order.created", RawBytes(b"\0png", "image/png"))

    drain(pipeline)

    assert [record.value for record in pipeline.broker.records("outbox")] == [None, b"\0png"]


def test_an_envelope_cannot_carry_avro(registry: StubRegistry, pipeline: Pipeline) -> None:
    registry.register(SUBJECT, ORDER)
    with outbox_settings(SERIALIZERS=avro_settings(registry.url), WIRE_FORMAT="envelope"):
        publish("order.created", {"order_id": 7})
        drain(pipeline)

    (record,) = pipeline.broker.records("outbox")
    assert header(record, "ce_type") == b"order.created"
    assert read(record)["order_id"] == 7


def test_the_registry_is_not_called_in_the_transaction_of_the_pass(registry: StubRegistry, pipeline: Pipeline) -> None:
    registry.register(SUBJECT, ORDER)
    message = publish("order.created", {"order_id": 7})
    _wait_for_background(registry)
    before = list(registry.requests)

    with outbox_settings(SERIALIZERS=avro_settings(f"{registry.url}/")):  # another registry, of which nothing is loaded
        pipeline.relay.run_once()
        assert registry.requests == before
        assert row(message).status == Status.PENDING
        pipeline.relay.load_schemas()
        pipeline.relay.run_once()

    assert row(message).status == Status.PUBLISHED


def _wait_for_background(registry: StubRegistry) -> None:
    from tests.support.processes import wait_until

    wait_until(lambda: bool(registry.requests), 30, what="the request of publish()")


def test_while_the_registry_is_away_its_messages_wait_uncounted_and_others_are_sent(
    registry: StubRegistry, pipeline: Pipeline
) -> None:
    registry.answer = away
    first = publish("order.created", {"order_id": 7}, key="a")
    behind = publish("customer.created", {}, key="a")
    other = publish("customer.created", {}, key="b")

    for _ in range(3):
        pipeline.relay.run_once()
        with pytest.raises(RegistryUnavailable, match="answers 503"):
            pipeline.relay.load_schemas()

    assert [row(each).status for each in (first, behind, other)] == [Status.PENDING, Status.PENDING, Status.PUBLISHED]
    assert (row(first).retry_count, row(first).last_error) == (0, "")

    registry.answer = lambda method, path: None
    registry.register(SUBJECT, ORDER)
    drain(pipeline)

    assert statuses() == [Status.PUBLISHED] * 3
    assert [header(record, "ce_id") for record in pipeline.broker.records("outbox")] == [
        str(each.event_id).encode() for each in (other, first, behind)
    ]


def test_an_unknown_subject_is_a_counted_failure_that_keeps_the_order_of_its_key(
    registry: StubRegistry, pipeline: Pipeline
) -> None:
    message = publish("order.created", {"order_id": 7}, key="a")
    behind = publish("customer.created", {}, key="a")

    drain(pipeline)

    failed = row(message)
    assert (failed.status, failed.retry_count) == (Status.PENDING, 1)
    assert f"has no subject '{SUBJECT}': register its schema" in failed.last_error
    assert row(behind).status == Status.PENDING
    assert pipeline.broker.records("outbox") == []


def test_a_row_that_does_not_fit_is_dead_with_the_place(registry: StubRegistry, pipeline: Pipeline) -> None:
    registry.register(SUBJECT, ORDER)
    message = make_message(payload={"order_id": "secret"})

    drain(pipeline)

    assert row(message).status == Status.DEAD
    assert row(message).last_error == "It cannot be encoded: payload.order_id: expected long, got text"


def test_a_copy_of_a_dead_letter_stays_json(registry: StubRegistry, pipeline: Pipeline) -> None:
    registry.register(SUBJECT, ORDER)
    with outbox_settings(SERIALIZERS=avro_settings(registry.url), DEAD_LETTER_TOPIC="dead"):
        make_message(payload={"order_id": "7"})
        drain(pipeline)

    (record,) = pipeline.broker.records("dead")
    assert record.value == b'{"order_id": "7"}'


def test_publish_refuses_what_does_not_fit_and_the_transaction_goes_on(registry: StubRegistry, tmp_path: Path) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, schema=path)), transaction.atomic():
        with pytest.raises(InvalidMessage, match=r"payload.note: expected a string, got an integer") as caught:
            publish("order.created", {"order_id": 7, "note": 1})
        with pytest.raises(InvalidMessage, match=r"payload.order_id: it is missing \(event number 2\)"):
            publish_many(
                [Event(type="order.created", payload={"order_id": 7}), Event(type="order.created", payload={})]
            )
        publish("order.created", {"order_id": 7})

    assert caught.value.field == "payload.note"
    assert statuses() == [Status.PENDING]
    assert registry.requests == []


def test_another_group_reads_this_services_own_avro(registry: StubRegistry) -> None:
    registry.register(SUBJECT, ORDER)
    pipeline = Pipeline(group="audit")
    pipeline.on("order.created", group="audit")
    publish("order.created", {"order_id": 7})

    drain(pipeline)
    pipeline.run()

    assert [event.payload for event in pipeline.handled] == [{"order_id": 7, "note": None}]
    assert pipeline.handled[0].headers["schema_id"] == "1"
