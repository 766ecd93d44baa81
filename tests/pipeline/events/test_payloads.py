"""Payloads that are not JSON: bytes and tombstones keep what they are, from publish() to the handler, on every way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from django_outbox import TOMBSTONE, Event, InvalidMessage, RawBytes, Reject, publish, publish_many
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state.retry import retry
from tests.support.inbox import Receiver, only, plain, received
from tests.support.inbox import statuses as inbox_statuses
from tests.support.outbox import Pipeline, make_due, memory_broker, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

ALL_BYTES = bytes(range(256))
IMAGE = RawBytes(ALL_BYTES, content_type="image/png")
# What a handler gets as payload, its type, and whether the event is a tombstone.
SEEN = [
    (IMAGE, RawBytes, False),
    (TOMBSTONE, type(None), True),
    (None, type(None), False),
    (RawBytes(b""), RawBytes, False),
    (RawBytes(b'{"signed": 1}', content_type="application/json"), RawBytes, False),
    ({"a": 1}, dict, False),
]
PAYLOADS = [payload for payload, kind, is_tombstone in SEEN]


def seen(events: list[Event]) -> list[tuple[Any, type, bool]]:
    return [
        (TOMBSTONE if each.is_tombstone else each.payload, type(each.payload), each.is_tombstone) for each in events
    ]


def foreign(payload: Any, **attributes: Any) -> ReceivedRecord:
    """A payload as another service sends it."""
    pipeline = Pipeline(memory_broker())
    publish("order.created", payload, key="k")
    pipeline.relay.run_once()
    OutboxMessage.objects.all().delete()
    (record,) = pipeline.broker.records("outbox")
    headers = {**dict(record.headers), "ce_source": b"warehouse", **attributes}
    return replace(record, topic="elsewhere", headers=tuple(headers.items()))


# From publish() to the handler


@pytest.mark.parametrize("wire_format", ["cloudevents", "envelope"])
@pytest.mark.parametrize("many", [False, True])
def test_handlers_get_what_was_published(many: bool, wire_format: str) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    if many:
        publish_many([Event(type="order.created", payload=payload, key="k") for payload in PAYLOADS])
    else:
        for payload in PAYLOADS:
            publish("order.created", payload, key="k")

    with outbox_settings(WIRE_FORMAT=wire_format):
        pipeline.run()

    assert seen(pipeline.handled) == SEEN
    assert pipeline.handled[0].payload.content_type == "image/png"
    assert statuses() == ["consumed"] * len(PAYLOADS)


def test_a_tombstone_has_no_value_and_bytes_are_sent_unchanged_with_their_type() -> None:
    pipeline = Pipeline()
    for payload in PAYLOADS:
        publish("order.created", payload, key="k")

    pipeline.relay.run_once()

    found = [(record.value, dict(record.headers).get("content-type")) for record in pipeline.broker.records("outbox")]
    assert found[:5] == [
        (ALL_BYTES, b"image/png"),
        (None, None),
        (b"null", b"application/json"),
        (b"", b"application/octet-stream"),
        (b'{"signed": 1}', b"application/json"),
    ]
    assert {record.key for record in pipeline.broker.records("outbox")} == {b"k"}
    assert all(dict(record.headers)["ce_type"] == b"order.created" for record in pipeline.broker.records("outbox"))


def test_the_stored_message_is_returned_as_the_database_has_it() -> None:
    messages = publish_many([Event(type="order.created", payload=payload, key="k") for payload in PAYLOADS])
    messages += [publish("order.created", payload, key="k") for payload in PAYLOADS]
    for message in messages:
        stored = row(message)
        for name in ("payload", "content_type", "status", "next_retry_at", "created_at"):
            assert getattr(message, name) == getattr(stored, name)
        assert (message.raw_value is None) == (stored.raw_value is None)
        assert bytes(message.raw_value or b"") == bytes(stored.raw_value or b"")


def test_null_is_stored_as_the_null_of_json() -> None:
    """Not as NULL, whatever Django makes of None, so that all databases agree."""
    publish_many([Event(type="order.created", payload=payload, key="k") for payload in (None, TOMBSTONE, IMAGE)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM django_outbox_outboxmessage")
        assert list(cursor.fetchall()) == [("null",)] * 3


def test_bytes_and_tombstones_keep_the_order_of_their_key() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    payloads = [{"n": 1}, IMAGE, {"n": 2}, TOMBSTONE, {"n": 3}] * 3
    publish_many([Event(type="order.created", payload=payload, key="k") for payload in payloads])
    pipeline.run()
    assert [TOMBSTONE if each.is_tombstone else each.payload for each in pipeline.handled] == payloads


def test_a_received_event_can_be_published_as_it_is() -> None:
    pipeline = Pipeline()
    copies: list[Event] = []
    pipeline.on("copy", copies.append)
    pipeline.on("order.created", lambda event: publish_many([replace(event, type="copy", topic=None, id=None)]))
    publish_many([Event(type="order.created", payload=payload, key="k") for payload in PAYLOADS])
    pipeline.run()
    assert seen(copies) == SEEN


def test_delay_headers_and_version_are_as_of_others() -> None:
    event = Event(
        type="order.created", payload=IMAGE, key="k", headers={"a": "b"}, version="v2", delay=timedelta(hours=1)
    )
    (message,) = publish_many([event])
    pipeline = Pipeline()
    pipeline.on("order.created")
    pipeline.run()
    assert pipeline.handled == []
    make_due(message)
    pipeline.run()
    assert [(each.headers, each.version) for each in pipeline.handled] == [({"a": "b"}, "v2")]


# What cannot be published


def test_a_tombstone_without_a_key_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="key: it is empty; a tombstone deletes earlier records of its key"):
        publish("order.created", TOMBSTONE)
    assert statuses() == []


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_plain_bytes_are_refused_and_the_error_names_what_to_pass(data: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"payload: .*pass RawBytes\(data, content_type=...\)"):
        publish("order.created", data)


@pytest.mark.parametrize("payload", [{"a": IMAGE}, {"a": TOMBSTONE}, [TOMBSTONE]])
def test_they_are_whole_payloads_and_not_parts_of_json(payload: Any) -> None:
    with pytest.raises(InvalidMessage, match="payload: JSON cannot represent it"):
        publish("order.created", payload)


@pytest.mark.parametrize("content_type", ["", "image", "image/", "image/png\n", "imäge/png", "a/" + "b" * 254, 7, None])
def test_a_content_type_that_is_none_is_refused(content_type: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"payload: its content type .* is not valid"):
        publish("order.created", RawBytes(b"x", content_type=content_type))


@pytest.mark.parametrize(
    "content_type", ["text/plain; charset=utf-8", r'a/b; c="d\e, {f}"', "application/vnd.shop+json", "a/" + "b" * 253]
)
def test_other_content_types_are_sent_as_they_are(content_type: str) -> None:
    pipeline = Pipeline()
    publish("order.created", RawBytes(b"x", content_type=content_type))
    pipeline.relay.run_once()
    (record,) = pipeline.broker.records("outbox")
    assert dict(record.headers)["content-type"] == content_type.encode()


def test_bytes_that_are_too_large_are_refused_with_both_sizes() -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=1000):
        publish("order.created", RawBytes(b"\0" * 1000))
        with pytest.raises(
            InvalidMessage, match=r"payload: it has 1001 bytes; the limit is 1000 \(MAX_PAYLOAD_BYTES\)"
        ):
            publish("order.created", RawBytes(b"\0" * 1001))
    assert statuses() == ["pending"]


@pytest.mark.parametrize("data", ["text", 7, None, [1]])
def test_only_bytes_are_bytes(data: Any) -> None:
    with pytest.raises(TypeError, match="RawBytes takes bytes, not"):
        RawBytes(data)


# Failures


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_after_a_failure_the_handler_gets_the_same_again(payload: Any) -> None:
    pipeline = Pipeline()
    tried: list[Event] = []

    def fail_once(event: Event) -> None:
        tried.append(event)
        if len(tried) == 1:
            raise ArithmeticError

    pipeline.on("order.created", fail_once)
    message = publish("order.created", payload, key="k")
    pipeline.run()
    make_due(message)
    pipeline.run()
    assert seen(tried) == [each for each in SEEN if each[0] is payload] * 2
    assert statuses() == ["consumed"]


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_a_dead_message_and_a_consumed_one_can_be_handled_again(payload: Any) -> None:
    pipeline = Pipeline()
    tried: list[Event] = []

    def reject_once(event: Event) -> None:
        tried.append(event)
        if len(tried) == 1:
            raise Reject("no")

    pipeline.on("order.created", reject_once)
    publish("order.created", payload, key="k")
    pipeline.run()
    for status in ("dead", "consumed"):
        assert retry(OutboxMessage.objects.all(), using="default", status=status) == 1
        pipeline.run()
    assert seen(tried) == [each for each in SEEN if each[0] is payload] * 3


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_the_copy_of_a_dead_letter_carries_the_same(payload: Any) -> None:
    def reject(event: Event) -> None:
        raise Reject("no")

    pipeline = Pipeline()
    pipeline.on("order.created", reject)
    record = foreign(payload)
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        publish("order.created", payload, key="k")
        pipeline.run()
        receiver = Receiver()
        receiver.on("order.created", reject)
        assert receiver.receive(record) == ["dead"]
        pipeline.relay.run_once()
    (sent,) = pipeline.broker.records("outbox")
    # As JSON if another service sent it as JSON.
    own, of_inbox = pipeline.broker.records("outbox.dead")
    assert (own.value, own.key) == (sent.value, b"k")
    assert (of_inbox.value, of_inbox.key) == (sent.value, b"k")
    assert dict(own.headers).get("content-type") == dict(sent.headers).get("content-type")
    assert dict(of_inbox.headers).get("content-type") == dict(sent.headers).get("content-type")


def test_the_copy_of_a_tombstone_without_a_key_has_a_value() -> None:
    """A client may refuse a record with neither key nor value."""

    def reject(event: Event) -> None:
        raise Reject("no")

    pipeline = Pipeline(memory_broker())
    receiver = Receiver()
    receiver.on("order.created", reject)
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        assert receiver.receive(replace(foreign(TOMBSTONE), key=None)) == ["dead"]
        pipeline.relay.run_once()
    (copy,) = pipeline.broker.records("outbox.dead")
    assert (copy.key, copy.value) == (None, b"null")
    assert only().content_type == ""


def test_one_that_the_broker_refuses_has_the_same_bytes_in_its_copy() -> None:
    payload = RawBytes(b"\xff" * 2_000_000, "image/png")
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead", MAX_PAYLOAD_BYTES=3_000_000):
        publish("order.created", payload, key="k")
        Pipeline().relay.run_once()
    copy = OutboxMessage.objects.get(topic="outbox.dead")
    assert bytes(copy.raw_value or b"") == payload
    assert copy.content_type == "image/png"


# Batch handlers and typed ones


def test_batches_have_all_kinds_of_payloads() -> None:
    pipeline = Pipeline(steady=True)
    lists: list[list[Event]] = []
    pipeline.on("order.created", lists.append, batch=100)
    publish_many([Event(type="order.created", payload=payload, key="k") for payload in PAYLOADS])
    pipeline.run()
    assert [seen(events) for events in lists] == [SEEN]


def test_a_typed_handler_gets_none_for_a_tombstone_and_bytes_as_they_are() -> None:
    pipeline = Pipeline()
    given: list[Any] = []

    def take(value: dict[str, int] | RawBytes | None) -> None:
        given.append(value)

    pipeline.on("order.created", take)
    for payload in PAYLOADS:
        publish("order.created", payload, key="k")
    pipeline.run()
    assert given == [None if payload is TOMBSTONE else payload for payload in PAYLOADS]
    assert given[0].content_type == "image/png"


def test_a_typed_handler_that_does_not_take_them_fails_and_is_named() -> None:
    def ship(order: dict[str, int]) -> None:
        raise AssertionError("it must not be called")

    pipeline = Pipeline()
    pipeline.on("order.created", ship)
    tombstone, image = publish("order.created", TOMBSTONE, key="k"), publish("order.created", IMAGE)
    pipeline.run()
    errors = [row(tombstone).last_error, row(image).last_error]
    assert "(a tombstone or null; to take both, annotate dict[str, int] | None)" in errors[0]
    assert "The payload is not a valid dict[str, int]: Input should be a valid dictionary, found RawBytes" in errors[1]
    for error in errors:
        assert "Handler: tests.pipeline.events.test_payloads" in error
        assert "ship" in error


# The inbox


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_those_of_other_services_reach_handlers(payload: Any, counted: bool) -> None:
    receiver = Receiver()
    receiver.on("order.created")
    record = foreign(payload)
    assert receiver.receive(record, counted=counted) == ["consumed"]
    # Bytes that another service declares as JSON are JSON.
    expected = {"signed": 1} if isinstance(payload, RawBytes) and payload.content_type.endswith("json") else payload
    (event,) = receiver.handled
    assert (TOMBSTONE if event.is_tombstone else event.payload) == expected
    assert type(event.payload) is type(None if expected is TOMBSTONE else expected)


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_those_that_failed_are_retried_from_their_rows_and_leave_nothing_behind(payload: Any) -> None:
    tried: list[Event] = []

    def fail_twice(event: Event) -> None:
        tried.append(event)
        if len(tried) < 3:
            raise ArithmeticError

    receiver = Receiver()
    receiver.on("order.created", fail_twice)
    record = foreign(payload)
    assert receiver.receive(record) == ["failed"]
    receiver.retry(1)
    assert receiver.retry() == ["consumed"]
    assert len({repr(each) for each in seen(tried)}) == 1
    assert (only().payload, only().raw_value) == (None, None)


def test_those_that_wait_behind_a_failed_one_of_their_key_are_kept_whole() -> None:
    fails = [True]

    def handle(event: Event) -> None:
        if fails[0]:
            raise ArithmeticError
        handled.append(event)

    handled: list[Event] = []
    receiver = Receiver()
    receiver.on("order.created", handle)
    records = [received(0, key="k"), *(foreign(payload) for payload in PAYLOADS)]
    records = [replace(record, offset=number) for number, record in enumerate(records)]
    assert receiver.receive(*records) == ["failed", *["requeued"] * len(PAYLOADS)]
    fails[0] = False
    while "pending" in inbox_statuses():
        receiver.retry()
    signed = SEEN.index(SEEN[4])
    assert seen(handled[1:])[:signed] == SEEN[:signed]
    assert seen(handled[1:])[signed + 1 :] == SEEN[signed + 1 :]


def test_a_mapper_may_make_them_of_any_record() -> None:
    def mapper(record: ReceivedRecord) -> Event:
        payload = TOMBSTONE if record.value is None else RawBytes(record.value, "application/avro")
        return Event(type="order.created", payload=payload, key="k")

    receiver = Receiver()
    receiver.on("order.created")
    with outbox_settings(INBOX={"elsewhere": mapper}):
        assert receiver.receive(plain(None, key=b"k"), plain(b"\0\xff")) == ["consumed"] * 2
        assert receiver.receive(plain(None, key=b"k"), plain(b"\0\xff"), counted=True) == ["consumed"] * 2
    assert seen(receiver.handled) == [(TOMBSTONE, type(None), True), (b"\0\xff", RawBytes, False)] * 2
    assert set(InboxMessage.objects.values_list("raw_value", flat=True)) == {None}


def test_what_a_mapper_makes_of_bytes_is_checked() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    with outbox_settings(INBOX={"elsewhere": lambda record: Event(type="order.created", payload=record.value)}):
        assert receiver.receive(plain(b"x")) == ["dead"]
    assert "pass RawBytes(data, content_type=...)" in only().last_error


def test_a_group_gets_them_from_the_service_itself() -> None:
    pipeline = Pipeline(group="reports")
    pipeline.on("order.created", group="reports")
    publish_many([Event(type="order.created", payload=payload, key="k") for payload in PAYLOADS])
    pipeline.run()
    # Read as those of other services: bytes that are declared as JSON are JSON.
    assert seen(pipeline.handled) == [*SEEN[:4], ({"signed": 1}, dict, False), *SEEN[5:]]
