"""The row stays JSON and only the wire changes; what the registry lacks or refuses loses no message and no order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from django_outbox import TOMBSTONE, Event, RawBytes, publish, publish_many
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.exceptions import InvalidMessage, MessagesLeft, RegistryUnavailable
from django_outbox.models import OutboxMessage
from django_outbox.observability.health import readiness
from django_outbox.serializers.avro import AvroCodec
from django_outbox.serializers.base import Decoded, NotLoaded, Serializer
from django_outbox.serializers.registry import RETRY_SECONDS
from django_outbox.worker.stop import Stop
from tests.support.outbox import Pipeline, Status, make_due, make_message, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.registry import StubRegistry, stopped_clock
from tests.support.serializing import ORDER, avro_settings, drain

pytestmark = pytest.mark.django_db

SUBJECT = "outbox-value"


def read(record: ReceivedRecord) -> Any:
    assert record.value is not None
    return AvroCodec(json.dumps(ORDER), ()).decode(record.value[5:])


def header(record: ReceivedRecord, name: str) -> bytes | None:
    return dict(record.headers).get(name)


def send_all(pipeline: Pipeline) -> None:
    """Let the relay work, without waits, until all messages are sent."""

    def is_sent() -> bool:
        make_due(*OutboxMessage.objects.all())
        drain(pipeline)
        return set(statuses()) == {Status.PUBLISHED}

    wait_until(is_sent, 30, what="all messages to be sent")


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
    wait_until(lambda: bool(registry.requests), 30, what="the request of publish()")


LATER = {**ORDER, "fields": [*ORDER["fields"], {"name": "total", "type": "long", "default": 0}]}  # type: ignore[misc]


def test_a_relay_that_runs_for_long_sends_a_field_of_a_later_version(
    registry: StubRegistry, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped_clock(monkeypatch)
    registry.register(SUBJECT, ORDER)
    publish("order.created", {"order_id": 7})
    send_all(pipeline)
    number = registry.register(SUBJECT, LATER)
    clock.now += RETRY_SECONDS

    message = make_message(payload={"order_id": 8, "total": 9}, message_key="a")
    behind = make_message(payload={"order_id": 9}, message_key="a")
    drain(pipeline)

    assert [row(each).status for each in (message, behind)] == [Status.PUBLISHED] * 2
    record = pipeline.broker.records("outbox")[-2]
    assert record.value is not None
    assert record.value[1:5] == number.to_bytes(4, "big")


def test_a_message_that_does_not_fit_waits_for_a_registry_that_may_have_a_later_version(
    registry: StubRegistry, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped_clock(monkeypatch)
    registry.register(SUBJECT, ORDER)
    publish("order.created", {"order_id": 7})
    send_all(pipeline)
    clock.now += RETRY_SECONDS
    registry.go_away()
    message = make_message(payload={"order_id": "x"}, message_key="a")

    drain(pipeline)
    assert (row(message).status, row(message).retry_count) == (Status.PENDING, 0)

    registry.come_back()
    clock.now += RETRY_SECONDS

    def is_dead() -> bool:
        make_due(message)
        drain(pipeline)
        return row(message).status == Status.DEAD

    wait_until(is_dead, 30, what="the end of the outage")
    assert "payload.order_id: expected long, got text" in row(message).last_error


def test_while_the_registry_is_away_its_messages_wait_uncounted_and_others_are_sent(
    registry: StubRegistry, pipeline: Pipeline
) -> None:
    registry.go_away()
    waiting = [publish("order.created", {"order_id": number}, key="a") for number in range(7)]
    behind = publish("customer.created", {}, key="a")
    others = [publish("customer.created", {}, key="b", topic="customers") for _ in range(3)]
    pipeline.relay.batch_size = 2

    drain(pipeline)

    assert [row(each).status for each in others] == [Status.PUBLISHED] * 3
    for message in (*waiting, behind):
        now = row(message)
        assert (now.status, now.retry_count, now.publish_count, now.last_error) == (Status.PENDING, 0, 0, "")
        assert (now.next_retry_at, now.updated_at) == (message.next_retry_at, message.updated_at)

    registry.come_back()
    registry.register(SUBJECT, ORDER)
    send_all(pipeline)

    assert [header(record, "ce_id") for record in pipeline.broker.records("outbox")] == [
        str(each.event_id).encode() for each in (*waiting, behind)
    ]


def test_a_registry_that_hangs_delays_a_relay_once_and_for_a_moment(registry: StubRegistry, pipeline: Pipeline) -> None:
    """Each request would wait for ten minutes."""
    registry.hang()
    options = {"url": registry.url, "max.retries": 0, "timeout": 600}
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, registry=options)):
        orders = [make_message(topic=f"orders-{number}") for number in range(20)]
        other = make_message(event_type="customer.created", topic="customers")
        pipeline.relay.batch_size = 4

        drain(pipeline)

        assert row(other).status == Status.PUBLISHED
        assert [row(each).status for each in orders] == [Status.PENDING] * 20
        assert {row(each).retry_count for each in orders} == {0}


def test_a_drain_waits_for_the_registry(registry: StubRegistry, pipeline: Pipeline, stop: Stop) -> None:
    registry.register(SUBJECT, ORDER)
    failures = iter(range(3))
    registry.answer = lambda method, path: None if next(failures, None) is None else (503, {"message": "away"})
    make_message(payload={"order_id": 7})

    pipeline.relay.run(stop, drain=True)

    assert statuses() == [Status.PUBLISHED]


def test_a_drain_ends_with_messages_left_if_the_registry_stays_away(
    registry: StubRegistry, pipeline: Pipeline, stop: Stop
) -> None:
    registry.go_away()
    make_message(payload={"order_id": 7}, message_key="a")
    make_message(event_type="customer.created", topic="customers")

    reason = f"cannot be written to. The schema registry {registry.url} answers 503"
    with outbox_settings(PUBLISH_TIMEOUT=1), pytest.raises(MessagesLeft, match=reason):
        pipeline.relay.run(stop, drain=True)

    assert statuses() == [Status.PENDING, Status.PUBLISHED]


def test_the_log_reports_an_outage_once_and_the_workers_page_shows_it(
    registry: StubRegistry, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_outbox")
    registry.go_away()
    make_message(payload={"order_id": 7}, message_key="a")
    make_message(payload={"order_id": 7}, topic="others", message_key="a")
    seen: list[Any] = []

    class Ending(Stop):
        def wait(self, seconds: float | None, *others: Any) -> bool:
            """Between two passes, let waiting messages be due and then the registry come back."""
            make_due(*OutboxMessage.objects.all())
            state = pipeline.relay.worker_state
            seen.append((*state.snapshot(), readiness(state).ok))
            if len(seen) == 8:
                registry.come_back()
                registry.register(SUBJECT, ORDER)
                registry.register("others-value", ORDER)
            if set(statuses()) == {Status.PUBLISHED}:
                self.request()
            return super().wait(0.05)

    with closing(Ending()) as stop:
        pipeline.relay.run(stop)

    began, ended = [text for text in caplog.messages if "registry" in text]
    assert began.endswith("away. Messages whose schema is not loaded wait; loaded schemas stay in use.")
    assert ended.startswith(f"The schema registry {registry.url} is available again after ")
    assert not [text for text in caplog.messages if "broker" in text]
    state, trouble, is_ready = seen[4]
    assert (state, is_ready) == ("trouble", True)
    assert trouble.startswith(f"The schema registry {registry.url} answers 503 for subject '")
    assert trouble.endswith("-value': away. Messages whose schema is not loaded wait.")
    assert seen[-1] == ("working", "", True)


class Odd(Serializer):
    """A serializer of a project with mistakes."""

    content_type = "application/odd"

    def __init__(self, error: Exception, load: Callable[[], object] | None = None) -> None:
        self._error = error
        self._load = load

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        raise self._error

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        if self._load is not None:
            raise NotLoaded("key", self._load)
        raise self._error

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        raise self._error


def odd_settings(error: Exception, load: Callable[[], object] | None = None) -> Any:
    serializer = {"CLASS": f"{__name__}.Odd", "OPTIONS": {"error": error, "load": load}}
    return outbox_settings(SERIALIZERS={"order.*": serializer})


def test_an_unexpected_error_of_a_serializer_is_a_dead_letter(pipeline: Pipeline) -> None:
    message, other = make_message(message_key="a"), make_message(event_type="customer.created", message_key="b")

    with odd_settings(KeyError("currency")):
        drain(pipeline)

    assert row(message).status == Status.DEAD
    assert row(message).last_error == "It cannot be encoded: KeyError: 'currency'"
    assert row(other).status == Status.PUBLISHED


def test_an_unexpected_error_of_a_serializer_is_an_invalid_message_in_publish() -> None:
    with odd_settings(KeyError("currency")), pytest.raises(InvalidMessage, match=r"serializer failed \(KeyError\)"):
        publish("order.created", {})


def raises(error: Exception) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


@pytest.mark.parametrize(
    ("load", "status"),
    [
        (raises(KeyError("currency")), Status.DEAD),
        (raises(RegistryUnavailable("It is away.", 60)), Status.PENDING),
        (lambda: None, Status.PENDING),  # and nothing is loaded
    ],
)
def test_a_load_that_does_not_load_does_not_stop_the_relay(
    pipeline: Pipeline, load: Callable[[], object], status: str
) -> None:
    message, other = make_message(), make_message(event_type="customer.created", topic="customers")
    pipeline.relay.batch_size = 1

    with odd_settings(KeyError(), load):
        drain(pipeline)

    assert (row(message).status, row(message).retry_count) == (status, 0)
    assert row(other).status == Status.PUBLISHED


def test_an_unknown_subject_is_a_counted_failure_that_keeps_the_order_of_its_key(
    registry: StubRegistry, pipeline: Pipeline
) -> None:
    message = publish("order.created", {"order_id": 7}, key="a")
    behind = publish("customer.created", {}, key="a")

    pipeline.relay.run_once()
    pipeline.relay.load_schemas()
    pipeline.relay.run_once()

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
