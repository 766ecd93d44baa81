"""Records: what is encoded is read as the same, by its sender and by others; of the rest, all is unreadable at worst."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from hypothesis import example, given
from hypothesis import strategies as st

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.events.event import Event
from django_outbox.events.parsing import identify
from django_outbox.events.payloads import TOMBSTONE, Content, RawBytes, content_of
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.models import validation
from django_outbox.models.lengths import CONTENT_TYPE_LENGTH
from django_outbox.state.inbox_rows import event_of, pending_row, poison_row, record_of
from tests.support.overrides import outbox_settings
from tests.support.properties import any_text, any_values, examples, json_values, text

FORMATS = ("cloudevents", "envelope")
filled = text.filter(bool)
own_headers = st.dictionaries(
    filled.filter(lambda name: not name.lower().startswith("ce_") and name.lower() != "content-type"), text, max_size=4
)
header_names = st.sampled_from(
    [
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "ce_subject",
        "ce_outboxid",
        "ce_outboxattempt",
        "ce_eventversion",
        "ce_datacontenttype",
        "content-type",
        "traceparent",
    ]
)
header_values = (
    st.none()
    | st.binary(max_size=30)
    | any_text.map(lambda value: value.encode(errors="replace"))
    | st.sampled_from([b"1.0", b"0.3", b"7", b"-1", b"9" * 400, b"2026-01-01T00:00:00Z", b"9999-12-31T23:59:59-23:59"])
    | st.sampled_from([b"application/json", b"application/cloudevents+json", b"application/cloudevents", b"text/xml"])
)
records = st.builds(
    ReceivedRecord,
    topic=st.sampled_from(["orders", "mapped", "quiet"]),
    partition=st.integers(0, 5),
    offset=st.integers(0, 2**63 - 1),
    key=st.none() | st.binary(max_size=20) | st.just(b"k" * 300),
    value=st.none()
    | st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(
            ["id", "source", "type", "specversion", "time", "data", "data_base64", "event_id", "event_type"]
        )
        | st.sampled_from(["outbox_id", "event_version", "aggregate_id", "payload", "datacontenttype"]),
        json_values | any_text | st.sampled_from(["1.0", "2026-01-01", "e30=", "\x00"]),
        max_size=8,
    ).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"']),
    headers=st.lists(st.tuples(header_names | any_text, header_values), max_size=10).map(tuple),
)


def reader(**options: Any) -> Reader:
    return Reader(using="default", accepts=lambda *args: True, **{"accepts_own": True, **options})


def read(record: ReceivedRecord, mapper: Callable[[Any], Any] = lambda record: None) -> Event | None:
    """What a record is read as, None if it is unreadable or left alone; the reason must be fit for people."""
    with outbox_settings(INBOX={"mapped": mapper, "quiet": None}):
        try:
            return reader().read(record)
        except UnreadableRecord as error:
            assert 0 < len(str(error)) < 1000
            return None


def assert_storable(event: Event) -> None:
    """Whatever is read fits into the tables of every database."""
    for value in (event.type, event.id, event.source, event.version, event.key):
        assert isinstance(value, str)
        validation.require_text("text", value)
    assert event.type and event.id and event.source and event.version  # noqa: PT018
    assert event.time is None or event.time.tzinfo is UTC
    for name, value in event.headers.items():
        validation.require_text("headers", name + value)
    if isinstance(event.payload, RawBytes):
        assert 0 < len(event.payload.content_type) <= CONTENT_TYPE_LENGTH
        validation.require_text("content type", event.payload.content_type)
    else:
        assert validation.json_payload(event.payload, using="default") == event.payload


@examples(150)
@given(
    wire_format=st.sampled_from(FORMATS),
    id=st.integers(1, 2**63 - 1),
    event_id=st.uuids(),
    event_type=filled,
    version=filled,
    key=text,
    headers=own_headers,
    publish_count=st.integers(0, 2**31 - 1),
    payload=json_values | st.binary(max_size=30).map(lambda data: RawBytes(data, "image/png")) | st.just(TOMBSTONE),
    time=st.datetimes(timezones=st.just(UTC)),
)
def test_what_one_service_sends_another_reads(
    wire_format: Any,
    id: int,
    event_id: uuid.UUID,
    event_type: str,
    version: str,
    key: str,
    headers: dict[str, str],
    publish_count: int,
    payload: Any,
    time: datetime,
) -> None:
    content = content_of(Event(type=event_type, payload=payload)) or Content(payload)
    columns = (json.dumps(headers), time, publish_count, json.dumps(content.payload), *content[1:])
    message = Outgoing(id, "another", event_id, event_type, version, "orders", key, *columns)
    sent = encode(message, wire_format=wire_format)
    event = reader().read(ReceivedRecord("orders", 1, 2, sent.key, sent.value, sent.headers))
    assert event is not None
    assert (event.type, event.version, event.key) == (event_type, version, key)
    assert (event.id, event.source) == (str(event_id), "another")
    assert (TOMBSTONE if event.is_tombstone else event.payload, event.headers) == (payload, headers)
    assert type(event.payload) is type(content.payload if content.raw_value is None else payload)
    assert event.time == (time if wire_format == "cloudevents" or content.content_type is not None else None)
    assert_storable(event)


@examples(400)
@given(record=records)
def test_any_record_is_an_event_that_can_be_stored_or_unreadable(record: ReceivedRecord) -> None:
    event = read(record)
    if event is not None:
        assert_storable(event)
    try:
        identify(record)
    except UnreadableRecord as error:
        assert len(str(error)) < 300


made_events = st.builds(
    Event,
    type=any_text | any_values,
    payload=any_values,
    key=any_text | any_values,
    headers=st.dictionaries(any_text, any_text, max_size=3) | any_values,
    id=any_text | any_values,
    source=any_text | any_values,
    version=any_text | any_values,
    time=st.datetimes(timezones=st.none() | st.timezones()) | any_values,
)


@examples(200)
@given(made=made_events | any_values, raises=st.booleans())
def test_whatever_a_mapper_makes_is_an_event_that_can_be_stored_or_unreadable(made: Any, raises: bool) -> None:
    def mapper(record: ReceivedRecord) -> Any:
        if raises:
            raise ValueError(made)
        return made

    event = read(ReceivedRecord("mapped", 0, 0, b"k", b"v"), mapper)
    if event is not None:
        assert_storable(event)


@examples(200)
@given(payload=any_values)
def test_any_payload_is_carried_as_json_says_or_refused(payload: Any) -> None:
    try:
        carried = validation.json_payload(payload, using="default")
    except InvalidMessage as error:
        assert error.field == "payload"
        assert len(str(error)) < 500
    else:
        assert carried == json.loads(json.dumps(payload, cls=DjangoJSONEncoder))


@pytest.mark.parametrize("payload", [10**5000, {"a": [10**5000]}, {10**5000: 1}], ids=["alone", "within", "as a name"])
def test_a_number_of_more_digits_than_python_writes_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidMessage):
        validation.json_payload(payload, using="default")


@examples(40)
@given(depth=st.integers(1, 300), inner=json_values, as_dict=st.booleans())
@example(depth=100_000, inner=None, as_dict=False)
def test_a_payload_is_as_deep_as_all_databases_take_or_refused(depth: int, inner: Any, as_dict: bool) -> None:
    payload = inner
    for _ in range(depth):
        payload = {"a": payload} if as_dict else [payload]
    if depth > 99:
        with pytest.raises(InvalidMessage):
            validation.json_payload(payload, using="default")
    elif depth <= 20:
        assert validation.json_payload(payload, using="default") == payload


@examples(200)
@given(headers=st.dictionaries(any_text, st.none() | st.binary(max_size=20), max_size=5))
def test_any_headers_become_text_that_can_be_stored(headers: Any) -> None:
    for name, value in validation.headers_as_text(headers).items():
        validation.require_text("headers", name + value)


@pytest.mark.django_db
@examples(60)
@given(record=records, made=made_events)
def test_what_is_read_is_stored_and_comes_back_the_same(record: ReceivedRecord, made: Event) -> None:
    event = read(record, lambda record: made)
    if event is None:
        return
    with transaction.atomic():
        row = pending_row(event, "group", timedelta(0))
        row.save()
        row.refresh_from_db()
        assert event_of(row) == replace(event, attempt=event_of(row).attempt)
        row.delete()


@pytest.mark.django_db
@examples(60)
@given(record=records, reason=any_text)
def test_what_cannot_be_read_is_kept_and_comes_back_the_same(record: ReceivedRecord, reason: str) -> None:
    with transaction.atomic():
        row = poison_row(record, "group", reason)
        row.save()
        row.refresh_from_db()
        again = record_of(row)
        assert (again.key, again.value) == (record.key, record.value)
        row.delete()
