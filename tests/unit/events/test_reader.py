"""Reading records as events: what is understood, and why the rest is not."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.events.event import Event
from django_outbox.events.parsing import record_reference
from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import UnreadableRecord
from tests.support.inbox import plain, received
from tests.support.overrides import outbox_settings
from tests.support.properties import any_text, examples, json_values

STRUCTURED = ("content-type", b"application/cloudevents+json; charset=utf-8")


def read(record: ReceivedRecord, *, accepts_own: bool = False, accepts: Any = lambda *args: True) -> Event | None:
    return Reader(using="default", accepts=accepts, accepts_own=accepts_own).read(record)


def event(record: ReceivedRecord, **options: Any) -> Event:
    found = read(record, **options)
    assert found is not None
    return found


def why_not(record: ReceivedRecord, **options: Any) -> str:
    """Why a record cannot be read."""
    with pytest.raises(UnreadableRecord) as raised:
        read(record, **options)
    return str(raised.value)


def structured(**members: Any) -> ReceivedRecord:
    given = {"specversion": "1.0", "id": "e1", "source": "warehouse", "type": "t", **members}
    return plain(json.dumps(given).encode(), key=b"k", headers=[STRUCTURED, ("trace", b"7")])


# CloudEvents in binary mode


def test_a_binary_cloudevent_is_read_whole() -> None:
    record = received(
        {"a": ["Zoë", 1.5, None]},
        key="Zoë",
        partition=3,
        id="e1",
        source="https://warehouse/Zoë",
        subject="order 7",
        time="2026-01-02T03:04:05.123456+02:00",
        dataschema="https://schema",
        eventversion="v7",
        outboxid="12",
        outboxattempt="3",
        headers=[("trace", b"7"), ("trace", b"8"), ("binary", b"\xff\0"), ("empty", b"")],
    )

    assert event(record) == Event(
        type="order.created",
        payload={"a": ["Zoë", 1.5, None]},
        key="Zoë",
        headers={
            "trace": "7",
            "binary": "\N{REPLACEMENT CHARACTER}" * 2,
            "empty": "",
            "subject": "order 7",
            "dataschema": "https://schema",
        },
        topic="elsewhere",
        version="v7",
        id="e1",
        source="https://warehouse/Zoë",
        time=datetime(2026, 1, 2, 1, 4, 5, 123456, tzinfo=UTC),
        attempt=1,
        partition=3,
        offset=record.offset,
    )


def test_a_subject_that_is_the_key_is_not_repeated() -> None:
    assert event(received(1, key="k", subject="k")).headers == {}


@pytest.mark.parametrize("value", [None, b""])
def test_a_cloudevent_without_data_has_no_payload(value: bytes | None) -> None:
    found = event(ReceivedRecord(**{**_fields(received(1)), "value": value}))
    assert (found.payload, found.is_tombstone) == (None, value is None)


def test_a_null_of_json_is_not_a_tombstone() -> None:
    found = event(received(None))
    assert (found.payload, found.is_tombstone) == (None, False)


def test_data_of_another_type_is_bytes() -> None:
    headers = [header for header in received(1).headers if header[0] != "content-type"]
    for value in (b"", b"<a/>", b"\0\xff"):
        payload = event(plain(value, headers=[*headers, ("content-type", b"text/XML; charset=latin-1")])).payload
        assert (type(payload), payload, payload.content_type) == (RawBytes, value, "text/XML; charset=latin-1")
    odd = event(plain(b"x", headers=[*headers, ("content-type", b"image\0\xff")])).payload
    assert odd.content_type == "image" + "\N{REPLACEMENT CHARACTER}" * 2
    long = plain(b"x", headers=[*headers, ("content-type", b"a/" + b"b" * 254)])
    assert why_not(long) == "its content type has more than 255 characters"


@pytest.mark.parametrize("time", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05"])
def test_times_are_in_utc(time: str) -> None:
    found = event(received(1, time=time)).time
    assert found is not None
    assert found.replace(microsecond=0) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("content_type", [b"application/json; charset=utf-8", b"application/vnd.shop+json", b""])
def test_json_goes_by_several_names(content_type: bytes) -> None:
    record = received({"a": 1})
    headers = tuple(header for header in record.headers if header[0] != "content-type")
    changed = ReceivedRecord(**{**_fields(record), "headers": (*headers, ("content-type", content_type))})
    assert event(changed).payload == {"a": 1}


# CloudEvents in structured mode


def test_a_structured_cloudevent_is_read_whole() -> None:
    record = structured(
        data={"a": ["Zoë"]}, time="2026-01-02T03:04:05Z", subject="s", eventversion="v2", sampled=True, count=3, no=None
    )

    assert event(record) == Event(
        type="t",
        payload={"a": ["Zoë"]},
        key="k",
        headers={"trace": "7", "subject": "s", "sampled": "true", "count": "3"},
        topic="elsewhere",
        version="v2",
        id="e1",
        source="warehouse",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        attempt=1,
        partition=0,
        offset=record.offset,
    )


def test_structured_data_may_be_base64() -> None:
    assert event(structured(data_base64="eyJhIjoxfQ==")).payload == {"a": 1}
    payload = event(structured(data_base64="AP8=", datacontenttype="image/png")).payload
    assert (payload, payload.content_type) == (b"\0\xff", "image/png")
    assert why_not(structured(data_base64="AP8=", datacontenttype="image/\0")).startswith(
        "content type: it contains a NUL"
    )


def test_structured_data_of_another_type_is_bytes() -> None:
    payload = event(structured(data="<a>ë\0</a>", datacontenttype="text/xml")).payload
    assert (type(payload), payload, payload.content_type) == (RawBytes, "<a>ë\0</a>".encode(), "text/xml")
    for content_type in ({}, {"datacontenttype": "application/vnd.shop+json; charset=utf-8"}):
        assert event(structured(data="<a/>", **content_type)).payload == "<a/>"
    # JSON in the place of text is JSON, whatever its type.
    assert event(structured(data={"a": 1}, datacontenttype="text/xml")).payload == {"a": 1}
    assert event(structured(data=None, datacontenttype="text/xml")).payload is None


# The envelope


def test_an_envelope_is_read_whole() -> None:
    value = {"outbox_id": 7, "event_id": "e1", "event_type": "t", "event_version": "v2", "payload": {"a": 1}}
    record = plain(json.dumps(value).encode(), key=b"k", headers=[("ce_source", b"warehouse"), ("trace", b"7")])

    found = event(record)

    assert (found.type, found.id, found.version, found.source) == ("t", "e1", "v2", "warehouse")
    assert (found.payload, found.key, found.headers) == ({"a": 1}, "k", {"trace": "7"})


def test_an_envelope_without_source_is_of_this_service() -> None:
    record = plain(b'{"outbox_id": 7, "event_id": "e1", "event_type": "t"}')
    assert event(record, accepts_own=True).source == "tests"
    assert "this very service ('tests')" in why_not(record)


# This service's own


def test_own_events_are_read_only_by_groups_that_take_them() -> None:
    own = received(1, source="tests", outboxid="7")
    assert event(own, accepts_own=True).source == "tests"
    assert "this very service ('tests'), but it does not name a message of its outbox" in why_not(own)
    assert "does not name a message of its outbox" in why_not(received(1, source="tests"), accepts_own=True)


# What is not wanted


def test_no_more_is_read_of_what_is_not_wanted() -> None:
    asked: list[Any] = []

    def accepts(*about: str) -> bool:
        asked.append(about)
        return False

    assert read(received(1, value=b"{", id="x" * 999), accepts=accepts) is None
    assert asked == [("order.created", "elsewhere")]


# Mappers


def mapped(record: ReceivedRecord) -> Event | None:
    if record.value == b"leave me":
        return None
    return Event(type="legacy", payload={"value": (record.value or b"").decode()})


def test_a_mapper_makes_events_of_plain_records() -> None:
    record = plain(b"7")
    with outbox_settings(INBOX={"elsewhere": mapped}):
        assert event(record) == Event(
            type="legacy",
            payload={"value": "7"},
            topic="elsewhere",
            id=f"elsewhere/0/{record.offset}",
            source="elsewhere",
            attempt=1,
            partition=0,
            offset=record.offset,
        )
        assert event(received(1)).type == "order.created"
        assert read(plain(b"leave me")) is None


def test_a_mapper_may_say_all_itself() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001

    def mapper(record: ReceivedRecord) -> Event:
        return Event(type="t", id="e", source="s", key="k", headers={"h": "v"}, version="v2", time=time, topic="lie")

    with outbox_settings(INBOX={"elsewhere": mapper}):
        found = event(plain(b""))
    assert (found.id, found.source, found.key, found.headers) == ("e", "s", "k", {"h": "v"})
    assert (found.topic, found.time) == ("elsewhere", time.replace(tzinfo=UTC))


def test_a_mapper_may_be_a_dotted_path() -> None:
    with outbox_settings(INBOX={"elsewhere": "tests.unit.events.test_reader.mapped"}):
        assert event(plain(b"7")).type == "legacy"


def test_no_mapper_leaves_records_of_a_topic_alone() -> None:
    with outbox_settings(INBOX={"elsewhere": None}):
        assert read(plain(b"7")) is None
        assert event(received(1)).type == "order.created"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"type": "t"}, "returned dict, which is not an Event"),
        (Event(type=""), "type: it is empty"),
        (Event(type=7), "type: it must be text, not int"),  # type: ignore[arg-type]
        (Event(type="t", id=7), "id: it must be text, not int"),  # type: ignore[arg-type]
        (Event(type="t", key="k" * 256), "key: it has 256 characters; 255 are allowed"),
        (Event(type="t", headers=[1]), "headers: they must be a dict, not list"),  # type: ignore[arg-type]
        (Event(type="t", headers={"a": 1}), "headers: names and values must be text"),  # type: ignore[dict-item]
        (Event(type="t", payload={1, 2}), "payload: JSON cannot represent it"),
        (Event(type="t", payload=float("nan")), "payload: JSON cannot represent it"),
        (Event(type="t", payload="\0"), "payload: it contains a NUL character"),
        (Event(type="t", time="now"), "its time cannot be stored: 'now'"),  # type: ignore[arg-type]
    ],
)
def test_what_a_mapper_makes_is_checked(result: Any, reason: str) -> None:
    with outbox_settings(INBOX={"elsewhere": lambda record: result}):
        assert reason in why_not(plain(b"7"))


def test_a_mapper_that_fails_is_named_with_its_error() -> None:
    def mapper(record: ReceivedRecord) -> Event:
        raise KeyError("sku")

    with outbox_settings(INBOX={"elsewhere": mapper}), pytest.raises(UnreadableRecord) as raised:
        read(plain(b"7"))
    assert str(raised.value) == "the mapper of INBOX for elsewhere failed"
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_mapper_that_awaits_what_was_cancelled_has_failed() -> None:
    async def fetch() -> Event:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        return await task  # type: ignore[return-value]

    with outbox_settings(INBOX={"elsewhere": lambda record: asyncio.run(fetch())}):
        assert "the mapper of INBOX for elsewhere failed" in why_not(plain(b"7"))


def test_a_mapper_has_as_long_as_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Any] = []

    def watch(seconds: float, subject: str, function: Any, *arguments: Any, about: Any) -> Any:
        watched.append((seconds, subject, about))
        return function(*arguments)

    def mapper(record: ReceivedRecord) -> Event:
        return Event(type="t")

    monkeypatch.setattr("django_outbox.consumer.inbox.reader.call_within", watch)

    record = plain(b"7")
    with outbox_settings(INBOX={"elsewhere": mapper}, HANDLER_TIMEOUT=60):
        read(record)
    with outbox_settings(INBOX={"elsewhere": mapper}):
        read(record)

    place = f"elsewhere/0/{record.offset}"
    about = {"event_id": place, "topic": "elsewhere", "attempt": 1}
    assert watched == [(60, f"mapper OUTBOX[\"INBOX\"]['elsewhere'] with record {place}", about)]


# What cannot be read

NESTED = b"[" * 200 + b"]" * 200

BAD = {
    "not read in full": (replace(received(), fault="a header is no text"), "a header is no text"),
    "truncated JSON": (received(value=b'{"a": '), "its value is not JSON that can be read: Expecting value"),
    "no UTF-8": (received(value=b'"\xff"'), "its value is not UTF-8 text"),
    "UTF-8 of half a pair": (received(value=b'"\xed\xa0\x80"'), "its value is not UTF-8 text"),
    "half a pair": (received(value=rb'{"a": "\ud800"}'), "payload: it contains a lone surrogate"),
    "NUL": (received(value=rb'["\u0000"]'), "payload: it contains a NUL character"),
    "NUL in a name": (received(value=rb'{"\u0000": 1}'), "payload: it contains a NUL character"),
    "NaN": (received(value=b'{"a": NaN}'), "NaN is not a number in JSON"),
    "Infinity": (received(value=b"[-Infinity]"), "-Infinity is not a number in JSON"),
    "1e999": (received(value=b"1e999"), "1e999 is too large a number"),
    "digits": (received(value=b"9" * 10_000), "its value is not JSON that can be read"),
    "too deep": (received(value=NESTED), "payload: it is nested more than"),
    "far too deep": (received(value=b"[" * 500_000), "its value is not JSON that can be read"),
    "not JSON": (received(headers=[], value=b"x"), "its value is not JSON that can be read"),
    "spec version": (received(specversion="2.0"), "CloudEvents version '2.0' is not supported"),
    "no id": (received(id=None), "the attribute 'id' of the CloudEvent is missing or empty"),
    "empty id": (received(id=""), "the attribute 'id' of the CloudEvent is missing or empty"),
    "no type": (received(type=None), "the attribute 'type' of the CloudEvent is missing or empty"),
    "empty source": (received(source=""), "the attribute 'source' of the CloudEvent is missing or empty"),
    "type": (received(type="t" * 256), "type: it has 256 characters; 255 are allowed"),
    "id": (received(id="i" * 256), "id: it has 256 characters; 255 are allowed"),
    "source": (received(source="s" * 256), "source: it has 256 characters; 255 are allowed"),
    "version": (received(eventversion="v" * 33), "version: it has 33 characters; 32 are allowed"),
    "key": (received(key="k" * 256), "key: it has 256 characters; 255 are allowed"),
    "binary key": (received(key=b"\xff\xfe"), "its key is not UTF-8 text"),
    "NUL in the key": (received(key="\0"), "key: it contains a NUL character"),
    "NUL in the id": (received(id="a\0"), "id: it contains a NUL character"),
    "binary id": (received(id=b"\xff"), "its header ce_id is not UTF-8 text"),
    "time": (received(time="yesterday"), "the attribute 'time' of the CloudEvent is not a time: 'yesterday'"),
    "time out of range": (received(time="0001-01-01T00:00:00+14:00"), "its time cannot be stored"),
    "Avro": (plain(b"", headers=[("content-type", b"application/cloudevents+avro")]), "+avro' can"),
    "structured, no object": (plain(b"[]", headers=[STRUCTURED]), "its value is not a JSON object"),
    "structured, empty": (plain(None, headers=[STRUCTURED]), "its value is not JSON that can be read"),
    "structured, no id": (structured(id=None), "the attribute 'id' of the CloudEvent is missing or empty"),
    "structured, id": (structured(id={"a": 1}), "the attribute 'id' of the CloudEvent is not text"),
    "structured, pair": (structured(id="\ud800"), "id: it contains a lone surrogate"),
    "structured, data": (structured(data="\0"), "payload: it contains a NUL character"),
    "structured, data of another type": (
        structured(data="\ud800", datacontenttype="text/xml"),
        "its data contains a lone surrogate, which is not valid Unicode",
    ),
    "structured, base64": (structured(data_base64="?"), "its data_base64 is not base64"),
    "structured, base64 of no text": (structured(data_base64=7), "its data_base64 is not base64"),
    "plain": (plain(b'{"a": 1}'), "it is neither a CloudEvent nor an envelope, and no mapper is set for its topic"),
    "plain bytes": (plain(b"\xff"), "it is not a CloudEvent, and its value is not UTF-8 text; no mapper is set"),
    "nothing": (
        plain(None),
        "it is a tombstone without the headers of a CloudEvent, and no mapper is set for its topic",
    ),
    "envelope, type": (
        plain(b'{"outbox_id": 1, "event_id": "e", "event_type": 7}'),
        "'event_type' of the envelope must be text",
    ),
}


@pytest.mark.parametrize(("record", "reason"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_says_why(record: ReceivedRecord, reason: str) -> None:
    assert reason in why_not(record)


def test_data_that_is_declared_as_json_and_is_not_says_so() -> None:
    record = plain(b"<a/>", headers=[*received(1).headers[:-1], ("content-type", b"application/json")])
    assert why_not(record).startswith("its value is not JSON that can be read")
    assert why_not(structured(data_base64="PGEvPg==")).startswith("its data_base64 is not JSON that can be read")


@examples(300)
@given(
    st.none() | st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()),
    st.none() | st.binary(max_size=10),
    st.lists(
        st.tuples(
            st.sampled_from(["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"]) | any_text,
            st.none() | st.binary(max_size=10) | st.sampled_from([b"1.0", b"application/cloudevents+json"]),
        ),
        max_size=8,
    ),
)
def test_no_record_whatever_its_bytes_raises_anything_else(value: Any, key: Any, headers: Any) -> None:
    record = ReceivedRecord("elsewhere", 0, 0, key, value, tuple(headers))
    with suppress(UnreadableRecord):
        read(record)


# Its place


def test_a_place_fits_and_is_of_one_record_alone() -> None:
    assert record_reference(plain(b"", topic="t")).startswith("t/0/")
    long = [ReceivedRecord(topic, 2**31 - 1, 2**63 - 1, None, None) for topic in ("x" * 249, "x" * 248 + "y")]
    places = {record_reference(record) for record in long}
    assert len(places) == 2
    assert all(len(place) <= 255 and place.endswith(f"/{2**31 - 1}/{2**63 - 1}") for place in places)


def _fields(record: ReceivedRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ReceivedRecord.__slots__}
