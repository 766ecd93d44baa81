"""Reads the wire format: CloudEvents 1.0 in both modes of its Kafka protocol binding, and the JSON envelope.

A record of this service's own outbox is only identified, as its content comes from the row. Other records are
read as events. What cannot be read raises ``UnreadableRecord`` with a reason for people, whatever the bytes are.

Source: CloudEvents 1.0.2, and its Kafka protocol binding, section 3.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NoReturn

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.events.event import Event
from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.models import validation
from django_outbox.models.lengths import EVENT_ID_LENGTH, KEY_LENGTH, TYPE_LENGTH, VERSION_LENGTH

RESERVED_PREFIX = "ce_"
CONTENT_TYPE = "content-type"
STRUCTURED = "application/cloudevents"
"""How the content type of CloudEvents in structured mode begins."""

_MAX_ID = 2**63 - 1
_LENGTHS = {"type": TYPE_LENGTH, "source": SOURCE_LENGTH, "id": EVENT_ID_LENGTH, "version": VERSION_LENGTH}
_IN_EVENT = frozenset(
    ("specversion", "id", "source", "type", "time", "datacontenttype", "eventversion", "outboxid", "outboxattempt")
)
_ENVELOPE = ("outbox_id", "event_id", "event_type")

Headers = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a record says of itself. None of it is trusted: the row decides.

    Attributes:
        source: who wrote it; None where the format does not say.
        event_id: identity of the event.
        event_type: what happened.
        outbox_id: the row's id, for records of an outbox.
        attempt: which publication of the row this is; None where the format does not say.
    """

    source: str | None
    event_id: str
    event_type: str
    outbox_id: int | None
    attempt: int | None


# Identity


def decode(record: ReceivedRecord) -> Incoming:
    """Identify a record, if it may be one of this service's own outbox.

    Raises:
        UnreadableRecord: it is neither a CloudEvent in binary mode nor an envelope, or not whole.
    """
    if record.fault:
        raise UnreadableRecord(record.fault)
    headers = headers_of(record)
    if "ce_specversion" in headers:
        _require_version(_text(headers, "ce_specversion"))
        return Incoming(
            source=_text(headers, "ce_source"),
            event_id=_text(headers, "ce_id"),
            event_type=_text(headers, "ce_type"),
            outbox_id=_number(headers, "ce_outboxid"),
            attempt=_number(headers, "ce_outboxattempt"),
        )
    envelope, _ = _envelope(record)
    outbox_id = envelope["outbox_id"]
    if not _is_id(outbox_id):
        raise UnreadableRecord("'outbox_id' of the envelope is not a whole number in range")
    return Incoming(
        source=_text(headers, "ce_source") if "ce_source" in headers else None,
        event_id=_filled(envelope, "event_id"),
        event_type=_filled(envelope, "event_type"),
        outbox_id=outbox_id,
        attempt=_number(headers, "ce_outboxattempt"),
    )


def record_reference(record: ReceivedRecord) -> str:
    """``topic/partition/offset``: the identity of a record that has no other."""
    place = f"{record.topic}/{record.partition}/{record.offset}"
    if len(place) <= EVENT_ID_LENGTH:
        return place
    digest = sha256(record.topic.encode()).hexdigest()
    return f"{digest}/{record.partition}/{record.offset}"


# Events


class EventReader:
    """Reads records of other services as events."""

    def __init__(self, *, using: str, wants: Callable[[str, str], bool], takes_own: bool) -> None:
        """
        Args:
            using: alias of the database that has to be able to store the events.
            wants: called with event type and topic; of an event that is not wanted nothing more is read.
            takes_own: whether events of this service's own ``SOURCE`` are read.
        """
        self._using = using
        self._wants = wants
        self._takes_own = takes_own

    def read(self, record: ReceivedRecord) -> Event | None:
        """The event that a record carries; None if it is not wanted.

        Raises:
            UnreadableRecord: with the reason.
        """
        if record.fault:
            raise UnreadableRecord(record.fault)
        try:
            headers = headers_of(record)
            if "ce_specversion" in headers:
                return self._binary(record, headers)
            if content_type_of(headers).startswith(STRUCTURED):
                return self._structured(record, headers)
            return self._from_envelope(record, headers)
        except InvalidMessage as error:
            raise UnreadableRecord(str(error)) from None

    def _binary(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        attributes = {
            name.removeprefix(RESERVED_PREFIX): _text(headers, name) if value else ""
            for name, value in headers.items()
            if name.startswith(RESERVED_PREFIX)
        }

        def payload() -> Any:
            _require_json(content_type_of(headers))
            return self._payload(*_json("value", record.value)) if record.value else None

        return self._cloudevent(record, headers, attributes, payload)

    def _structured(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        content_type = content_type_of(headers)
        if content_type != f"{STRUCTURED}+json":
            raise UnreadableRecord(f"CloudEvents as {content_type[:60]!r} cannot be read, only {STRUCTURED}+json")
        members, text = _json("value", record.value)
        if not isinstance(members, dict):
            raise UnreadableRecord("its value is not a JSON object")
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
        headers: Headers,
        attributes: Mapping[str, str],
        payload: Callable[[], Any],
    ) -> Event | None:
        _require_version(attributes.get("specversion", ""))
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
        return placed(storable(event), record, payload())

    def _from_envelope(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        envelope, text = _envelope(record)
        source = _text(headers, "ce_source") if "ce_source" in headers else settings.source
        event_type = _filled(envelope, "event_type")
        if not self._is_wanted(event_type, source, record, True):
            return None
        event = Event(
            type=event_type,
            key=_key(record),
            headers=_plain(headers),
            version=envelope.get("event_version") or "v1",
            id=_filled(envelope, "event_id"),
            source=source,
        )
        return placed(storable(event), record, self._payload(envelope.get("payload"), text))

    def _is_wanted(self, event_type: str, source: str, record: ReceivedRecord, names_a_row: bool) -> bool:
        if source == settings.source and not (self._takes_own and names_a_row):
            raise UnreadableRecord(
                f"it says that it comes from this very service ({source!r}), but names no message of its outbox"
            )
        return self._wants(event_type, record.topic)

    def _payload(self, payload: Any, text: str) -> Any:
        """The payload, which is or is in the JSON ``text``, if it can be stored."""
        validation.require_depth(payload, text, using=self._using)
        if "\\u" in text:  # an escape, which may be a character that no database takes
            validation.require_json(payload, json.dumps(payload, ensure_ascii=False))
        return payload


def storable(event: Event) -> Event:
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
        validation.require_text(field, text)
    if not isinstance(event.headers, Mapping):
        raise InvalidMessage("headers", f"they must be a dict, not {type(event.headers).__name__}")
    for name, text in event.headers.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidMessage("headers", "names and values must be text")
        validation.require_text("headers", name)
        validation.require_text("headers", text)
    return event


def placed(event: Event, record: ReceivedRecord, payload: Any) -> Event:
    """The event with its payload, and where its record was found."""
    return replace(
        event,
        payload=payload,
        headers=dict(event.headers),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        attempt=1,
    )


def in_utc(time: datetime) -> datetime:
    """A time in UTC; without a zone it is taken for that.

    Raises:
        UnreadableRecord: it is too early or too late, or not a time.
    """
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (OverflowError, AttributeError, TypeError):
        raise UnreadableRecord(f"its time cannot be stored: {str(time)[:60]!r}") from None


# Parts of records


def headers_of(record: ReceivedRecord) -> Headers:
    """By name; of several headers of one name the first counts."""
    return dict(reversed(record.headers))


def content_type_of(headers: Mapping[str, bytes | None]) -> str:
    """The media type, without parameters."""
    return _media_type(validation.as_text(headers.get(CONTENT_TYPE) or b""))


def _envelope(record: ReceivedRecord) -> tuple[dict[str, Any], str]:
    """The members of an envelope, and its text."""
    hint = f'no mapper is set for its topic, as in OUTBOX["INBOX"] = {{{record.topic!r}: ...}}'
    try:
        envelope, text = _json("value", record.value)
    except UnreadableRecord as error:
        raise UnreadableRecord(f"it is not a CloudEvent, and {error}; {hint}") from None
    if not (isinstance(envelope, dict) and all(name in envelope for name in _ENVELOPE)):
        raise UnreadableRecord(f"it is neither a CloudEvent nor an envelope, and {hint}")
    return envelope, text


def _filled(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope[name]
    if not isinstance(value, str) or not value:
        raise UnreadableRecord(f"{name!r} of the envelope is not text, or is empty")
    return value


def _text(headers: Headers, name: str) -> str:
    try:
        return headers[name].decode()
    except KeyError:
        raise UnreadableRecord(f"header {name} is missing") from None
    except (UnicodeDecodeError, AttributeError):
        raise UnreadableRecord(f"its header {name} is not UTF-8 text") from None


def _number(headers: Headers, name: str) -> int | None:
    if name not in headers:
        return None
    text = _text(headers, name)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_ID)) and _is_id(int(text))):
        raise UnreadableRecord(f"header {name} is not a whole number in range")
    return int(text)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_ID


def _require_version(version: str) -> None:
    if not version.startswith("1."):
        raise UnreadableRecord(f"CloudEvents version {version[:20]!r} is not known")


def _plain(headers: Headers) -> dict[str, str]:
    """The headers that are not attributes of a CloudEvent."""
    others = {name: value for name, value in headers.items() if not name.startswith(RESERVED_PREFIX)}
    others.pop(CONTENT_TYPE, None)
    return validation.headers_as_text(others)


def _key(record: ReceivedRecord) -> str:
    try:
        return (record.key or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord("its key is not UTF-8 text") from None


def _member(name: str, value: Any) -> str:
    """An attribute of a CloudEvent in structured mode, as its header in binary mode would be."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise UnreadableRecord(f"the attribute {name[:60]!r} of the CloudEvent is not text")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _require_json(media_type: str) -> None:
    if media_type and not media_type.endswith(("/json", "+json")):
        raise UnreadableRecord(f"its data is {media_type[:60]!r}; only JSON can be read")


def _json(place: str, data: bytes | None) -> tuple[Any, str]:
    """The value of some JSON, and its text."""
    try:
        text = (data or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord(f"its {place} is not UTF-8 text") from None
    try:
        return json.loads(text, parse_constant=_not_a_number, parse_float=_finite), text
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"its {place} is not JSON that can be read: {str(error)[:200]}") from None


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _time(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise UnreadableRecord(f"the attribute 'time' of the CloudEvent is not a time: {text[:60]!r}") from None
