"""DEAD_LETTER_TOPIC: each message that dies has a copy there, and the two are one transaction."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.db import transaction

from django_outbox import publish
from django_outbox.brokers.base import Refused, SendResult
from django_outbox.events.event import Event
from django_outbox.events.parsing import identify
from django_outbox.exceptions import Reject
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import json_value
from django_outbox.relay.relay import Relay
from django_outbox.state import dead_letters
from django_outbox.state import outbox as state
from django_outbox.state.transitions import mark_dead, mark_failed
from tests.support.inbox import Receiver, make_received, plain
from tests.support.outbox import Pipeline, ScriptedBroker, Status, make_message, memory_broker, row, send

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def topic(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "DEAD_LETTER_TOPIC": "outbox.dead"}


def copies() -> list[OutboxMessage]:
    return list(OutboxMessage.objects.filter(topic="outbox.dead").order_by("id"))


def fail(event: Event) -> None:
    raise ArithmeticError("it does not add up")


def test_a_message_that_failed_for_the_last_time_has_a_copy_with_springs_headers() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    message = make_message(
        max_retry=1, payload={"order": 7}, message_key="k", event_version="3", headers={"tenant": "north"}
    )

    pipeline.turn()

    (copy,) = copies()
    assert row(message).status == Status.DEAD
    copied = (copy.status, copy.event_type, copy.event_version, copy.payload, copy.message_key)
    assert copied == (Status.PENDING, "order.created", "3", {"order": 7}, "k")
    trace = copy.headers.pop("kafka_dlt-exception-stacktrace")
    assert "it does not add up" in trace
    assert "raise ArithmeticError" in trace
    assert copy.headers == {
        "tenant": "north",
        "kafka_dlt-original-topic": "outbox",
        "kafka_dlt-original-partition": "0",
        "kafka_dlt-original-offset": "0",
        "kafka_dlt-original-consumer-group": "tests",
        "kafka_dlt-exception-fqcn": "builtins.ArithmeticError",
        "kafka_dlt-exception-message": "it does not add up",
    }


def test_a_text_without_end_is_cut_in_the_copy_too() -> None:
    def fail(event: Event) -> None:
        raise ArithmeticError("7" * 2**21)

    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    make_message(max_retry=1)

    pipeline.turn()

    (copy,) = copies()
    assert copy.headers["kafka_dlt-exception-message"] == "7" * 2000
    assert len(copy.headers["kafka_dlt-exception-stacktrace"]) == 2000


def test_the_copy_reaches_kafka_and_is_handled_by_nobody_here() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    make_message(max_retry=1)
    pipeline.turn()

    pipeline.run()

    (record,) = pipeline.broker.records("outbox.dead")
    assert identify(record).event_type == "order.created"
    assert dict(record.headers)["kafka_dlt-exception-message"] == b"it does not add up"
    assert [copy.status for copy in copies()] == [Status.PUBLISHED]


def test_a_failure_that_is_not_the_last_has_no_copy() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    make_message()

    pipeline.turn()

    assert not copies()


def test_without_the_setting_there_is_no_copy(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "DEAD_LETTER_TOPIC": None}
    message = make_message(Status.PUBLISHED)

    mark_dead(state.in_delivery(message.id, 1, using="default"), "no")

    assert OutboxMessage.objects.count() == 1


def test_a_rejected_message_has_a_copy() -> None:
    def reject(event: Event) -> None:
        raise Reject("we do not ship there")

    pipeline = Pipeline()
    pipeline.on("order.created", reject)
    make_message()

    pipeline.turn()

    (copy,) = copies()
    assert copy.headers["kafka_dlt-exception-message"] == "we do not ship there"


def test_a_message_that_the_broker_refuses_has_a_copy_and_a_copy_has_none() -> None:
    def refuse(records: Any, outcomes: list[SendResult]) -> list[SendResult]:
        return [Refused("too large")] * len(records)

    relay = Relay(ScriptedBroker(refuse), using="default")
    message = make_message()

    for _ in range(3):
        relay.run_once()

    assert row(message).status == Status.DEAD
    assert [copy.status for copy in copies()] == [Status.DEAD]
    assert "kafka_dlt-original-consumer-group" not in copies()[0].headers


def test_a_message_that_carries_null_has_a_copy_that_does_too() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    message = publish("order.created", None, max_retry=1)

    pipeline.turn()

    assert row(message).status == Status.DEAD
    assert [copy.payload for copy in copies()] == [None]


def test_a_message_that_carries_null_and_is_refused_does_not_end_the_relay() -> None:
    def refuse(records: Any, outcomes: list[SendResult]) -> list[SendResult]:
        return [Refused("no")] * len(records)

    message = publish("order.created", None)

    Relay(ScriptedBroker(refuse), using="default").run_once()

    assert row(message).status == Status.DEAD
    assert [copy.payload for copy in copies()] == [None]


@pytest.mark.parametrize("headers", [["no", "dict"], "text", None, {"tenant": 7}])
def test_headers_that_were_changed_by_hand_do_not_end_the_relay(headers: Any) -> None:
    message = make_message()
    OutboxMessage.objects.filter(id=message.id).update(headers=json_value(headers))
    relay = Pipeline().relay

    for _ in range(2):
        relay.run_once()

    assert row(message).status == (Status.PUBLISHED if headers is None else Status.DEAD)
    assert [copy.status for copy in copies()] == ([] if headers is None else [Status.PUBLISHED])


def test_an_event_without_data_that_is_rejected_keeps_its_reason_and_has_a_copy() -> None:
    def reject(event: Event) -> None:
        raise Reject("nothing in it")

    pipeline = Pipeline()
    pipeline.on("payment.settled", reject)
    pipeline.consumer.run_once()
    names = ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"payments"), ("ce_type", b"payment.settled")
    send(pipeline.broker, value=b"", headers=names)

    pipeline.consumer.run_once()

    received = InboxMessage.objects.get()
    assert (received.status, received.source, received.last_error) == ("dead", "payments", "nothing in it")
    assert [(copy.event_type, copy.payload) for copy in copies()] == [("payment.settled", None)]


def test_copy_and_death_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **kwargs: Any) -> None:
        raise SystemExit("killed")

    first, last = make_message(Status.PUBLISHED), make_message(Status.PUBLISHED, max_retry=1)
    monkeypatch.setattr(dead_letters, "publish_copy", killed)

    for die in (
        lambda: mark_dead(state.in_delivery(first.id, 1, using="default"), "no"),
        lambda: mark_failed(state.in_delivery(last.id, 1, using="default"), "no"),
    ):
        with pytest.raises(SystemExit), transaction.atomic():
            die()

    assert [row(first).status, row(last).status] == ["published", "published"]


def test_a_record_that_cannot_be_read_has_a_copy_with_its_bytes() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fail)
    pipeline.consumer.run_once()
    send(pipeline.broker, value=b"\xff no JSON", headers=(("ce_id", b"forged"), ("tenant", b"north")))

    pipeline.consumer.run_once()

    assert InboxMessage.objects.get().status == "dead"
    (copy,) = copies()
    assert copy.event_type == dead_letters.UNREADABLE
    assert base64.b64decode(copy.payload["value_base64"]) == b"\xff no JSON"
    assert copy.headers["tenant"] == "north"
    assert "ce_id" not in copy.headers
    pipeline.run()
    assert len(pipeline.broker.records("outbox.dead")) == 1


def test_a_record_of_nothing_has_a_copy_of_nothing_and_does_not_end_the_consumer() -> None:
    assert Receiver().receive(plain(None)) == ["dead"]

    assert [(copy.event_type, copy.payload) for copy in copies()] == [(dead_letters.UNREADABLE, None)]


def test_a_record_that_there_is_no_time_for_has_one_copy_in_the_end() -> None:
    """A batch that takes long is cut, and what comes after is read again."""
    now = [0.0]
    pipeline = Pipeline(steady=True, clock=lambda: now[0])
    pipeline.on("slow", lambda event: now.__setitem__(0, now[0] + 5))
    pipeline.consumer.run_once()
    for number in range(2):
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"%d" % number),
            ("ce_source", b"payments"),
            ("ce_type", b"slow"),
        ]
        send(pipeline.broker, headers=tuple(headers))
    send(pipeline.broker, value=b"no JSON")

    for _ in range(3):
        pipeline.consumer.run_once()

    assert sorted(InboxMessage.objects.values_list("status", flat=True)) == ["consumed", "consumed", "dead"]
    assert len(copies()) == 1


def test_an_event_of_another_service_that_dies_has_a_copy() -> None:
    pipeline = Pipeline()
    pipeline.on("payment.settled", fail)
    pipeline.consumer.run_once()
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"payments"),
        ("ce_type", b"payment.settled"),
        ("content-type", b"application/json"),
    )
    send(pipeline.broker, value=b'{"amount": 3}', headers=headers)
    InboxMessage.objects.update(max_retry=1)
    pipeline.consumer.run_once()
    InboxMessage.objects.update(max_retry=2, next_retry_at=state.DatabaseNow())
    pipeline.consumer.inbox_due_at = 0.0

    pipeline.consumer.run_once()

    assert InboxMessage.objects.get().status == "dead"
    (copy,) = copies()
    assert (copy.event_type, copy.payload) == ("payment.settled", {"amount": 3})
    assert copy.headers["kafka_dlt-original-consumer-group"] == "tests"


@pytest.mark.parametrize(
    ("content_type", "key", "copied"), [("text/csv", "", "text/csv"), ("", "k", ""), ("", "", None), (None, "k", None)]
)
def test_the_copy_has_the_content_of_the_message(content_type: str | None, key: str, copied: str | None) -> None:
    """Without key and value a client may refuse the record, so null stands for such a tombstone."""
    raw_value = b"1;2" if content_type else None
    message = make_message(message_key=key, content_type=content_type, raw_value=raw_value, payload=json_value(None))
    dead_letters.publish_copy(message, "no", using="default")
    (copy,) = copies()
    assert (copy.content_type, copy.raw_value and bytes(copy.raw_value), copy.payload) == (copied, raw_value, None)


@pytest.mark.parametrize("size", [dead_letters.LARGEST_RAW_BYTES, dead_letters.LARGEST_RAW_BYTES + 1])
def test_the_copy_of_what_could_not_be_read_has_its_bytes_up_to_a_size(size: int) -> None:
    message = make_received(source="", raw_key=b"k", raw_value=b"x" * size)
    dead_letters.publish_copy(message, "no", using="default")
    (copy,) = copies()
    value = base64.b64encode(b"x" * size).decode() if size == dead_letters.LARGEST_RAW_BYTES else None
    assert copy.payload == {"key_base64": "aw==", "value_base64": value}
    assert "kafka_dlt-exception-fqcn" not in copy.headers


def test_the_relay_creates_the_topic_of_dead_letters_as_well() -> None:
    created: list[str] = []
    pipeline = Pipeline(memory_broker(create_topics=False))
    pipeline.relay = Relay(pipeline.broker, using="default", create_topics=lambda topics: created.extend(topics))

    pipeline.relay.run_once()

    assert sorted(created) == ["outbox", "outbox.dead"]
