"""The wire format: what a row looks like in Kafka, and that no record, however broken, is more than unreadable."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_outbox.brokers.base import ReceivedRecord, Record
from django_outbox.events.parsing import RecordIdentity, identify
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import UnreadableRecord
from tests.support.properties import any_text, examples, json_values, text

EVENT_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
MESSAGE = Outgoing(
    id=17,
    source="shop",
    event_id=EVENT_ID,
    event_type="order.created",
    event_version="v2",
    topic="orders",
    message_key="käufer-4",
    headers_json='{"trace-id": "ünï", "empty": ""}',
    created_at=datetime(2026, 3, 1, 11, 30, 0, 5, tzinfo=timezone(timedelta(hours=2))),
    publish_count=2,
    payload_json='{"b": 1,  "a": "\\u00e4 ä"}',
)
FORMATS = ("cloudevents", "envelope")


def record_of(message: Outgoing, wire_format: Any = "cloudevents") -> Record:
    return encode(message, wire_format=wire_format)


def received(record: Record, **changes: Any) -> ReceivedRecord:
    return replace(ReceivedRecord(record.topic, 0, 0, record.key, record.value, record.headers), **changes)


def with_headers(**changes: bytes | None) -> ReceivedRecord:
    """A readable CloudEvent with some headers changed, or left out where the value is None."""
    record = received(record_of(MESSAGE))
    headers = {**dict(record.headers), **changes}
    return replace(record, headers=tuple((name, value) for name, value in headers.items() if value is not None))


def with_envelope(**changes: Any) -> ReceivedRecord:
    record = received(record_of(MESSAGE, "envelope"))
    assert record.value is not None
    return replace(record, value=json.dumps({**json.loads(record.value), **changes}).encode(), headers=())


# CloudEvents


def test_cloudevent_has_exactly_these_headers() -> None:
    record = record_of(MESSAGE)
    assert sorted(record.headers) == sorted(
        {
            "ce_specversion": b"1.0",
            "ce_id": str(EVENT_ID).encode(),
            "ce_source": b"shop",
            "ce_type": b"order.created",
            "ce_time": b"2026-03-01T09:30:00.000005Z",
            "ce_subject": "käufer-4".encode(),
            "content-type": b"application/json",
            "ce_outboxid": b"17",
            "ce_outboxattempt": b"3",
            "ce_eventversion": b"v2",
            "trace-id": "ünï".encode(),
            "empty": b"",
        }.items()
    )


def test_the_time_always_has_six_digits_of_a_second() -> None:
    record = record_of(MESSAGE._replace(created_at=datetime(2026, 3, 1, 9, 30, tzinfo=UTC)))
    assert dict(record.headers)["ce_time"] == b"2026-03-01T09:30:00.000000Z"


def test_cloudevent_without_a_key_has_no_subject() -> None:
    record = record_of(MESSAGE._replace(message_key=""))
    assert record.key is None
    assert "ce_subject" not in dict(record.headers)


def test_cloudevent_carries_key_topic_and_the_payload_as_it_is() -> None:
    record = record_of(MESSAGE)
    assert (record.topic, record.key) == ("orders", "käufer-4".encode())
    assert record.value == MESSAGE.payload_json.encode()


# The envelope


def test_envelope_has_exactly_these_keys() -> None:
    record = record_of(MESSAGE, "envelope")
    assert json.loads(record.value) == {
        "outbox_id": 17,
        "event_id": str(EVENT_ID),
        "event_type": "order.created",
        "event_version": "v2",
        "aggregate_id": "käufer-4",
        "payload": {"b": 1, "a": "ä ä"},
    }
    assert (record.topic, record.key) == ("orders", "käufer-4".encode())


def test_envelope_has_the_headers_by_which_its_sender_knows_it_and_the_message_s_own() -> None:
    assert sorted(record_of(MESSAGE, "envelope").headers) == sorted(
        {
            "ce_source": b"shop",
            "ce_outboxid": b"17",
            "ce_outboxattempt": b"3",
            "content-type": b"application/json",
            "trace-id": "ünï".encode(),
            "empty": b"",
        }.items()
    )


# Both ways


@pytest.mark.parametrize("wire_format", FORMATS)
def test_what_is_read_is_what_was_written(wire_format: Any) -> None:
    assert identify(received(record_of(MESSAGE, wire_format))) == RecordIdentity(
        source="shop", event_id=str(EVENT_ID), event_type="order.created", outbox_id=17, attempt=3
    )


@examples(100)
@given(
    wire_format=st.sampled_from(FORMATS),
    id=st.integers(1, 2**63 - 1),
    event_id=st.uuids(),
    event_type=text.filter(bool),
    key=text,
    headers=st.dictionaries(text.filter(lambda name: name and not name.lower().startswith("ce_")), text),
    publish_count=st.integers(0, 2**31 - 1),
    payload=json_values,
    time=st.datetimes(timezones=st.just(UTC)),
)
def test_any_message_is_read_as_it_was_written(
    wire_format: Any,
    id: int,
    event_id: uuid.UUID,
    event_type: str,
    key: str,
    headers: dict[str, str],
    publish_count: int,
    payload: Any,
    time: datetime,
) -> None:
    columns = (json.dumps(headers), time, publish_count, json.dumps(payload))
    message = Outgoing(id, "shop", event_id, event_type, "v1", "topic", key, *columns)
    record = record_of(message, wire_format)
    value = json.loads(record.value)
    assert (value["payload"] if wire_format == "envelope" else value) == payload
    assert identify(received(record)) == RecordIdentity("shop", str(event_id), event_type, id, publish_count + 1)


def test_envelope_of_the_original_system_is_read() -> None:
    assert identify(with_envelope()) == RecordIdentity(None, str(EVENT_ID), "order.created", 17, None)


def test_cloudevent_of_another_service_is_read() -> None:
    record = with_headers(ce_outboxid=None, ce_outboxattempt=None, ce_source=b"//billing", ce_id=b"any text")
    assert identify(record) == RecordIdentity("//billing", "any text", "order.created", None, None)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_all_versions_1_of_cloudevents_are_read(version: bytes) -> None:
    assert identify(with_headers(ce_specversion=version)).outbox_id == 17


def test_first_of_several_headers_of_one_name_counts() -> None:
    record = with_headers()
    assert identify(replace(record, headers=(*record.headers, ("ce_outboxid", b"99")))).outbox_id == 17
    assert identify(replace(record, headers=(("ce_outboxid", b"99"), *record.headers))).outbox_id == 99


@pytest.mark.parametrize("headers", [{"a": 1}, {"a": None}, {"a": ["b"]}])
def test_row_that_was_broken_by_hand_is_a_value_error(headers: Any) -> None:
    with pytest.raises(ValueError, match="header 'a' is not text"):
        record_of(MESSAGE._replace(headers_json=json.dumps(headers)))


def test_row_whose_bytes_were_removed_by_hand_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        record_of(MESSAGE._replace(content_type="image/png", raw_value=None))


# Junk

NUMBERS = [
    b"",
    b"0",
    b"-1",
    b"+1",
    b"1.0",
    b"1e3",
    b" 1",
    b"1_0",
    b"0x1",
    b"nan",
    b"\xff",
    "\u0661".encode(),  # an Arabic digit, which int() takes
    "\u00b2".encode(),
    str(2**63).encode(),
    b"9" * 5000,
    b"0" * 19 + b"1" + b"9" * 5000,
    b"0" * 19 + b"1" + b"9" * 30,
]


@pytest.mark.parametrize("name", ["ce_outboxid", "ce_outboxattempt"])
@pytest.mark.parametrize("number", NUMBERS)
def test_broken_number_is_unreadable(name: str, number: bytes) -> None:
    with pytest.raises(UnreadableRecord, match=name):
        identify(with_headers(**{name: number}))


@pytest.mark.parametrize("name", ["ce_source", "ce_id", "ce_type"])
def test_missing_attribute_is_unreadable(name: str) -> None:
    with pytest.raises(UnreadableRecord, match=f"{name} is missing"):
        identify(with_headers(**{name: None}))


@pytest.mark.parametrize("name", ["ce_specversion", "ce_source", "ce_id", "ce_type", "ce_outboxid"])
@pytest.mark.parametrize("value", [None, b"\xff\xfe", b"\xed\xa0\x80"])
def test_header_that_is_no_text_is_unreadable(name: str, value: bytes | None) -> None:
    record = with_headers()
    headers: Any = ((name, value), *record.headers)
    with pytest.raises(UnreadableRecord, match=name):
        identify(replace(record, headers=headers))


@pytest.mark.parametrize("version", [b"", b"0.3", b"2.0", b"10.0", b"v1.0"])
def test_unknown_version_of_cloudevents_is_unreadable(version: bytes) -> None:
    with pytest.raises(UnreadableRecord, match="version"):
        identify(with_headers(ce_specversion=version))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff\xfe\xfd",
        b"{",
        b'{"outbox_id": 17',
        b"null",
        b"17",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"outbox_id": ' + b"9" * 5000 + b"}",
        b"NaN",
        "{}".encode("utf-16"),
    ],
)
def test_value_that_is_no_envelope_is_unreadable(value: bytes | None) -> None:
    with pytest.raises(UnreadableRecord):
        identify(ReceivedRecord("orders", 0, 0, None, value))


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_record_that_was_not_read_in_full_is_unreadable(wire_format: Any) -> None:
    with pytest.raises(UnreadableRecord, match="a header is no text"):
        identify(received(record_of(MESSAGE, wire_format), fault="a header is no text"))


@pytest.mark.parametrize(
    "changes",
    [
        {"outbox_id": None},
        {"outbox_id": "17"},
        {"outbox_id": 17.0},
        {"outbox_id": True},
        {"outbox_id": 0},
        {"outbox_id": -17},
        {"outbox_id": 2**63},
        {"event_id": None},
        {"event_id": 17},
        {"event_type": None},
        {"event_type": ["order.created"]},
    ],
)
def test_envelope_with_a_wrong_value_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRecord):
        identify(with_envelope(**changes))


def test_error_is_short_however_large_the_junk_is() -> None:
    for record in (with_headers(ce_outboxid=b"9" * 100_000), with_headers(ce_specversion=b"x" * 100_000)):
        with pytest.raises(UnreadableRecord) as error:
            identify(record)
        assert len(str(error.value)) < 200


def decoded(record: ReceivedRecord) -> RecordIdentity | None:
    try:
        return identify(record)
    except UnreadableRecord:
        return None


def is_sound(incoming: RecordIdentity | None) -> bool:
    """True if whoever reads on can rely on the types and ranges."""
    if incoming is None:
        return True
    numbers = [number for number in (incoming.outbox_id, incoming.attempt) if number is not None]
    return isinstance(incoming.event_type, str) and all(0 < number < 2**63 for number in numbers)


NAMES = st.sampled_from([name for name, _ in record_of(MESSAGE).headers]) | any_text
DIGITS = st.text("0123456789-+ _.\u0661\u00b2", max_size=40).map(str.encode)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=30) | DIGITS), max_size=8)


@examples(400)
@given(headers=HEADERS, value=st.none() | st.binary(max_size=60), whole=st.booleans())
@example(headers=[("ce_outboxid", b"0" * 19 + b"1" + b"9" * 5000)], value=b"", whole=True)
def test_junk_is_unreadable_and_nothing_else(headers: Any, value: bytes | None, whole: bool) -> None:
    rest = record_of(MESSAGE).headers if whole else ()
    assert is_sound(decoded(ReceivedRecord("orders", 0, 0, None, value, (*headers, *rest))))


@examples(200)
@given(
    fields=st.dictionaries(
        st.sampled_from(["outbox_id", "event_id", "event_type", "payload"]),
        json_values | st.integers(1, 2**70) | any_text,
    ),
    headers=HEADERS,
)
def test_junk_in_an_envelope_is_unreadable_and_nothing_else(fields: dict[str, Any], headers: Any) -> None:
    envelope = {"outbox_id": 17, "event_id": "1", "event_type": "t", **fields}
    assert is_sound(decoded(ReceivedRecord("orders", 0, 0, None, json.dumps(envelope).encode(), tuple(headers))))


@examples(100)
@given(wire_format=st.sampled_from(FORMATS), cut=st.integers(0, 200), noise=st.binary(max_size=5))
def test_truncated_record_is_read_or_unreadable(wire_format: Any, cut: int, noise: bytes) -> None:
    record = record_of(MESSAGE, wire_format)
    assert is_sound(decoded(received(record, value=record.value[:cut] + noise)))
    assert is_sound(decoded(received(record, headers=record.headers[: cut % 12], value=record.value[:cut])))
