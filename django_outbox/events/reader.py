"""Reading a record as an event, whoever wrote it: CloudEvents, the envelope, or what a mapper makes of it.

What cannot be read raises ``UnreadableRecord`` with a reason for people, whatever the bytes are.
"""

from __future__ import annotations

import base64
import json
import math
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NoReturn

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.events.event import Event
from django_outbox.events.wire import CONTENT_TYPE, RESERVED_PREFIX
from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.handlers.timeout import call_within
from django_outbox.models import validation as storable
from django_outbox.models.lengths import EVENT_ID_LENGTH, KEY_LENGTH, TYPE_LENGTH, VERSION_LENGTH
from django_outbox.observability.tracing import hooks as tracing

STRUCTURED = "application/cloudevents"
"""How the content type of CloudEvents in structured mode begins.

Source: CloudEvents' Kafka protocol binding 1.0.2, section 3.
"""

_LENGTHS = {"type": TYPE_LENGTH, "source": SOURCE_LENGTH, "id": EVENT_ID_LENGTH, "version": VERSION_LENGTH}
_IN_EVENT = frozenset(
    ("specversion", "id", "source", "type", "time", "datacontenttype", "eventversion", "outboxid", "outboxattempt")
)
_ENVELOPE = ("outbox_id", "event_id", "event_type")


class Reader:
    """Reads records for one consumer group."""

    def __init__(self, *, using: str, wants: Callable[[str, str], bool], takes_own: bool) -> None:
        """
        Args:
            using: alias of the database that has to be able to store the events.
            wants: called with event type and topic; no more is read of what is not wanted.
            takes_own: whether events of this service's own ``SOURCE`` are read.

        Raises:
            ImproperlyConfigured: if ``INBOX`` is wrong.
        """
        self._using = using
        self._wants = wants
        self._takes_own = takes_own
        self._mappers = settings.inbox

    def asks_a_mapper(self, record: ReceivedRecord) -> bool:
        """True if code of the project's own is to read a record, which may do anything."""
        if self._mappers.get(record.topic) is None:
            return False
        headers = dict(reversed(record.headers))
        return "ce_specversion" not in headers and not _content_type(headers).startswith(STRUCTURED)

    def read(self, record: ReceivedRecord) -> Event | None:
        """The event that a record carries; None if it is not wanted or to be left alone.

        Raises:
            UnreadableRecord: with the reason.
        """
        try:
            return self._read(record)
        except InvalidMessage as error:
            raise UnreadableRecord(str(error)) from None

    def _read(self, record: ReceivedRecord) -> Event | None:
        if record.fault:
            raise UnreadableRecord(record.fault)
        headers = dict(reversed(record.headers))  # of several headers of one name the first counts
        content_type = _content_type(headers)
        if "ce_specversion" in headers:
            return self._binary(record, headers, content_type)
        if content_type.startswith(STRUCTURED):
            return self._structured(record, headers, content_type)
        if record.topic in self._mappers:
            mapper = self._mappers[record.topic]
            return None if mapper is None else self._mapped(record, mapper)
        return self._envelope(record, headers)

    def _binary(self, record: ReceivedRecord, headers: Mapping[str, bytes], content_type: str) -> Event | None:
        attributes = {
            name.removeprefix(RESERVED_PREFIX): _header(name, value)
            for name, value in headers.items()
            if name.startswith(RESERVED_PREFIX)
        }

        def payload() -> Any:
            _require_json(content_type)
            return self._payload(*_json("value", record.value)) if record.value else None

        return self._cloudevent(record, headers, attributes, payload)

    def _structured(self, record: ReceivedRecord, headers: Mapping[str, bytes], content_type: str) -> Event | None:
        if content_type != f"{STRUCTURED}+json":
            raise UnreadableRecord(f"CloudEvents as {content_type[:60]!r} cannot be read, only {STRUCTURED}+json")
        members, text = _json("value", record.value)
        if not isinstance(members, dict):
            raise UnreadableRecord("its value is no JSON object")
        data, data_base64 = members.pop("data", None), members.pop("data_base64", None)
        attributes = {name: _member(name, value) for name, value in members.items() if value is not None}

        def payload() -> Any:
            if data_base64 is None:
                return self._payload(data, text)
            _require_json(_media_type(attributes.get("datacontenttype", "")))
            try:
                decoded = base64.b64decode(data_base64, validate=True)
            except (ValueError, TypeError):
                raise UnreadableRecord("its data_base64 is not base64") from None
            return self._payload(*_json("data_base64", decoded))

        return self._cloudevent(record, headers, attributes, payload)

    def _cloudevent(
        self,
        record: ReceivedRecord,
        headers: Mapping[str, bytes],
        attributes: Mapping[str, str],
        payload: Callable[[], Any],
    ) -> Event | None:
        version = attributes.get("specversion", "")
        if not version.startswith("1."):
            raise UnreadableRecord(f"CloudEvents version {version[:20]!r} is not known")
        for name in ("type", "source", "id"):
            if not attributes.get(name):
                raise UnreadableRecord(f"the attribute {name!r} of the CloudEvent is missing or empty")
        if not self._is_wanted(attributes["type"], attributes["source"], record, "outboxid" in attributes):
            return None
        key = _key(record)
        extensions = {
            name: value
            for name, value in attributes.items()
            if name not in _IN_EVENT and (name, value) != ("subject", key)
        }
        event = Event(
            type=attributes["type"],
            key=key,
            headers={**extensions, **_plain(headers)},
            version=attributes.get("eventversion") or "v1",
            id=attributes["id"],
            source=attributes["source"],
            time=_time(attributes["time"]) if "time" in attributes else None,
        )
        return _placed(_checked(event), record, payload())

    def _envelope(self, record: ReceivedRecord, headers: Mapping[str, bytes]) -> Event | None:
        try:
            envelope, text = _json("value", record.value)
        except UnreadableRecord as error:
            raise UnreadableRecord(f"it is no CloudEvent, and {error}; {_no_mapper(record)}") from None
        if not (isinstance(envelope, dict) and all(name in envelope for name in _ENVELOPE)):
            raise UnreadableRecord(f"it is neither a CloudEvent nor an envelope, and {_no_mapper(record)}")
        source = _header("ce_source", headers["ce_source"]) if "ce_source" in headers else settings.source
        event_type = _filled("event_type", envelope["event_type"])
        if not self._is_wanted(event_type, source, record, True):
            return None
        key = _key(record)
        event = Event(
            type=event_type,
            key=key,
            headers=_plain(headers),
            version=envelope.get("event_version") or "v1",
            id=_filled("event_id", envelope["event_id"]),
            source=source,
        )
        return _placed(_checked(event), record, self._payload(envelope.get("payload"), text))

    def _mapped(self, record: ReceivedRecord, mapper: Callable[[ReceivedRecord], Any]) -> Event | None:
        """What a mapper of the project's own makes of a record."""
        place = f"the mapper of INBOX for {record.topic}"  # without quotes: a fingerprint leaves out what is within
        try:
            event = _within_deadline(mapper, record)
        except (Exception, CancelledError) as error:
            raise UnreadableRecord(f"{place} failed") from error
        if event is None:
            return None
        if not isinstance(event, Event):
            raise UnreadableRecord(f"{place} made {type(event).__name__} of it, which is no Event")
        event = replace(
            event,
            id=place_of(record) if event.id is None else event.id,
            source=record.topic if event.source is None else event.source,
            time=None if event.time is None else _in_utc(event.time),
        )
        event = _checked(event)
        if not self._wants(event.type, record.topic):
            return None
        event = replace(event, headers={**tracing.carried(record.headers), **event.headers})
        return _placed(event, record, storable.json_payload(event.payload, using=self._using))

    def _is_wanted(self, event_type: str, source: str, record: ReceivedRecord, names_a_row: bool) -> bool:
        if source == settings.source and not (self._takes_own and names_a_row):
            raise UnreadableRecord(
                f"it says that it comes from this very service ({source!r}), but names no message of its outbox"
            )
        return self._wants(event_type, record.topic)

    def _payload(self, payload: Any, text: str) -> Any:
        """The payload, which is or is in the JSON ``text``, if it can be stored."""
        storable.require_depth(payload, text, using=self._using)
        if "\\u" in text:  # an escape, which may be a character that no database takes
            storable.require_json(payload, json.dumps(payload, ensure_ascii=False))
        return payload


def _within_deadline(mapper: Callable[[ReceivedRecord], Any], record: ReceivedRecord) -> Any:
    """What a mapper returns, within ``HANDLER_TIMEOUT``: a process in which it runs longer is ended."""
    timeout = settings.handler_timeout
    if timeout is None:
        return mapper(record)
    place = place_of(record)
    subject = f'mapper OUTBOX["INBOX"][{record.topic!r}] with record {place}'
    return call_within(timeout, subject, mapper, record, about={"event_id": place, "topic": record.topic, "attempt": 1})


def place_of(record: ReceivedRecord) -> str:
    """``topic/partition/offset``: what tells a record from all others where nothing else does."""
    place = f"{record.topic}/{record.partition}/{record.offset}"
    if len(place) <= EVENT_ID_LENGTH:
        return place
    digest = sha256(record.topic.encode()).hexdigest()
    return f"{digest}/{record.partition}/{record.offset}"


def _json(place: str, data: bytes | None) -> tuple[Any, str]:
    """The value of some JSON, and its text."""
    try:
        text = (data or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord(f"its {place} is not UTF-8 text") from None
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite), text
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"its {place} is not JSON that can be read: {str(error)[:200]}") from None


def _plain(headers: Mapping[str, bytes]) -> dict[str, str]:
    """The headers that are no attributes of a CloudEvent."""
    others = {name: value for name, value in headers.items() if not name.startswith(RESERVED_PREFIX)}
    others.pop(CONTENT_TYPE, None)
    return storable.headers_as_text(others)


def _key(record: ReceivedRecord) -> str:
    try:
        return (record.key or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord("its key is not UTF-8 text") from None


def _header(name: str, value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord(f"its header {name} is not UTF-8 text") from None


def _member(name: str, value: Any) -> str:
    """An attribute of a CloudEvent in structured mode, as its header in binary mode would be."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise UnreadableRecord(f"the attribute {name[:60]!r} of the CloudEvent is no text")


def _filled(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UnreadableRecord(f"{name!r} of the envelope is no text, or empty")
    return value


def _content_type(headers: Mapping[str, bytes | None]) -> str:
    return _media_type(storable.as_text(headers.get(CONTENT_TYPE) or b""))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _require_json(media_type: str) -> None:
    if media_type and not media_type.endswith(("/json", "+json")):
        raise UnreadableRecord(f"its data is {media_type[:60]!r}; only JSON can be read")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number that JSON knows")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _time(text: str) -> datetime:
    try:
        return _in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise UnreadableRecord(f"the attribute 'time' of the CloudEvent is no time: {text[:60]!r}") from None


def _in_utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (OverflowError, AttributeError, TypeError):
        raise UnreadableRecord(f"its time cannot be stored: {str(time)[:60]!r}") from None


def _checked(event: Event) -> Event:
    """The event, if it fits into the columns of the inbox.

    Raises:
        InvalidMessage: naming the field.
    """
    for field, length in {**_LENGTHS, "key": KEY_LENGTH}.items():
        text = getattr(event, field)
        if not isinstance(text, str):
            raise InvalidMessage(field, f"it must be text, not {type(text).__name__}")
        if not text and field != "key":
            raise InvalidMessage(field, "it is empty")
        if len(text) > length:
            raise InvalidMessage(field, f"it has {len(text)} characters; {length} are allowed")
        storable.require_text(field, text)
    if not isinstance(event.headers, Mapping):
        raise InvalidMessage("headers", f"they must be a dict, not {type(event.headers).__name__}")
    for name, text in event.headers.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidMessage("headers", "names and values must be text")
        storable.require_text("headers", name)
        storable.require_text("headers", text)
    return event


def _placed(event: Event, record: ReceivedRecord, payload: Any) -> Event:
    return replace(
        event,
        payload=payload,
        headers=dict(event.headers),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        attempt=1,
    )


def _no_mapper(record: ReceivedRecord) -> str:
    return f'no mapper is set for its topic, as in OUTBOX["INBOX"] = {{{record.topic!r}: ...}}'
