"""Reads records of other services as events: CloudEvents 1.0 in binary and structured mode, and the JSON envelope.

Source: CloudEvents 1.0.2, and its Kafka protocol binding, section 3.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.events.event import Event
from django_outbox.events.parsing import (
    CONTENT_TYPE,
    RESERVED_PREFIX,
    Headers,
    application_headers,
    content_type_of,
    envelope_of,
    envelope_text,
    headers_of,
    is_json_type,
    key_of,
    media_type,
    parse_json,
    parse_time,
    require_version,
    text_header,
)
from django_outbox.events.payloads import TOMBSTONE, RawBytes
from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, UnreadableRecord
from django_outbox.models import validation
from django_outbox.models.lengths import CONTENT_TYPE_LENGTH, EVENT_ID_LENGTH, KEY_LENGTH, TYPE_LENGTH, VERSION_LENGTH
from django_outbox.serializers.base import NotLoaded
from django_outbox.serializers.configured import current_serializers

STRUCTURED = "application/cloudevents"
"""Prefix of the content type of CloudEvents in structured mode."""

_LENGTHS = {"type": TYPE_LENGTH, "source": SOURCE_LENGTH, "id": EVENT_ID_LENGTH, "version": VERSION_LENGTH}
_IN_EVENT = frozenset(
    ("specversion", "id", "source", "type", "time", "datacontenttype", "eventversion", "outboxid", "outboxattempt")
)


class EventReader:
    """Reads records of other services as events."""

    def __init__(self, *, using: str, accepts: Callable[[str, str], bool], accepts_own: bool) -> None:
        """
        Args:
            accepts: called with event type and topic; if False, the rest of the record is not read.
            accepts_own: whether to read events of this service's own ``SOURCE``.
        """
        self._using = using
        self._accepts = accepts
        self._accepts_own = accepts_own

    def read(self, record: ReceivedRecord) -> Event | None:
        """Return the event that a record carries; None if it is not accepted.

        Raises:
            UnreadableRecord: with the reason.
            NotLoaded: it needs a schema of a registry.
            RegistryUnavailable: it needs one of a registry that is away.
        """
        if record.fault:
            raise UnreadableRecord(record.fault)
        try:
            headers = headers_of(record)
            if "ce_specversion" in headers:
                return self._read_binary(record, headers)
            if content_type_of(headers).startswith(STRUCTURED):
                return self._read_structured(record, headers)
            return self._read_envelope(record, headers)
        except InvalidMessage as error:
            raise UnreadableRecord(str(error)) from None

    def _read_binary(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        attributes = {
            name.removeprefix(RESERVED_PREFIX): text_header(headers, name) if value else ""
            for name, value in headers.items()
            if name.startswith(RESERVED_PREFIX)
        }
        event = self._cloudevent(record, headers, attributes)
        if event is None:
            return None
        content_type = validation.as_text(headers.get(CONTENT_TYPE) or b"")
        return self._with_data(event, record, "value", record.value, content_type)

    def _read_structured(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        content_type = content_type_of(headers)
        if content_type != f"{STRUCTURED}+json":
            raise UnreadableRecord(f"CloudEvents as {content_type[:60]!r} cannot be read, only {STRUCTURED}+json")
        members, text = parse_json("value", record.value)
        if not isinstance(members, dict):
            raise UnreadableRecord("its value is not a JSON object")
        data, data_base64 = members.pop("data", None), members.pop("data_base64", None)
        attributes = {name: _attribute(name, value) for name, value in members.items() if value is not None}
        event = self._cloudevent(record, headers, attributes)
        if event is None:
            return None
        if data_base64 is not None:
            try:
                decoded = base64.b64decode(data_base64, validate=True)
            except (ValueError, TypeError):
                raise UnreadableRecord("its data_base64 is not base64") from None
            return self._with_data(event, record, "data_base64", decoded, attributes.get("datacontenttype", ""))
        return with_position(event, record, self._structured_payload(data, text, attributes.get("datacontenttype", "")))

    def _cloudevent(self, record: ReceivedRecord, headers: Headers, attributes: Mapping[str, str]) -> Event | None:
        """Return the event without its payload; None if it is not accepted."""
        require_version(attributes.get("specversion", ""))
        for name in ("type", "source", "id"):
            if not attributes.get(name):
                raise UnreadableRecord(f"the attribute {name!r} of the CloudEvent is missing or empty")
        if not self._is_accepted(attributes["type"], attributes["source"], record, "outboxid" in attributes):
            return None
        key = key_of(record)
        others = ((name, value) for name, value in attributes.items() if name not in _IN_EVENT)
        extensions = {name: value for name, value in others if (name, value) != ("subject", key)}
        event = Event(
            type=attributes["type"],
            key=key,
            headers={**extensions, **application_headers(headers)},
            version=attributes.get("eventversion") or "v1",
            id=attributes["id"],
            source=attributes["source"],
            time=parse_time(attributes["time"]) if "time" in attributes else None,
        )
        require_storable(event)
        return event

    def _read_envelope(self, record: ReceivedRecord, headers: Headers) -> Event | None:
        envelope, text = envelope_of(record)
        source = text_header(headers, "ce_source") if "ce_source" in headers else settings.source
        event_type = envelope_text(envelope, "event_type")
        if not self._is_accepted(event_type, source, record, True):
            return None
        event = Event(
            type=event_type,
            key=key_of(record),
            headers=application_headers(headers),
            version=envelope.get("event_version") or "v1",
            id=envelope_text(envelope, "event_id"),
            source=source,
        )
        require_storable(event)
        return with_position(event, record, self._storable_payload(envelope.get("payload"), text))

    def _is_accepted(self, event_type: str, source: str, record: ReceivedRecord, has_outbox_id: bool) -> bool:
        if source == settings.source and not (self._accepts_own and has_outbox_id):
            raise UnreadableRecord(
                f"its source is this very service ({source!r}), but it does not name a message of its outbox"
            )
        return self._accepts(event_type, record.topic)

    def _with_data(
        self, event: Event, record: ReceivedRecord, part: str, data: bytes | None, content_type: str
    ) -> Event:
        decoded = None if data is None else deserialized(event, data, content_type, record.topic)
        if decoded is not None:
            return with_position(decoded, record, validation.json_payload(decoded.payload, using=self._using))
        return with_position(event, record, self._payload(part, data, content_type))

    def _payload(self, part: str, data: bytes | None, content_type: str) -> Any:
        """Return the payload for the data of a CloudEvent. ``part`` names it in errors."""
        if data is None:
            return TOMBSTONE
        if not is_json_type(media_type(content_type)):
            if len(content_type) > CONTENT_TYPE_LENGTH:
                raise UnreadableRecord(f"its content type has more than {CONTENT_TYPE_LENGTH} characters")
            validation.require_text("content type", content_type)
            return RawBytes(data, content_type)
        return self._storable_payload(*parse_json(part, data)) if data else None

    def _structured_payload(self, data: Any, text: str, content_type: str) -> Any:
        """Return the payload for the member ``data``: text of another type than JSON is bytes, as in binary mode."""
        if not isinstance(data, str) or is_json_type(media_type(content_type)):
            return self._storable_payload(data, text)
        try:
            return self._payload("data", data.encode(), content_type)
        except UnicodeEncodeError:
            raise UnreadableRecord("its data contains a lone surrogate, which is not valid Unicode") from None

    def _storable_payload(self, payload: Any, text: str) -> Any:
        """Return the payload if it can be stored. ``text`` is JSON that contains it."""
        validation.require_depth(payload, text, using=self._using)
        if "\\u" in text:  # may escape a character that a database does not accept
            validation.require_json(json.dumps(payload, ensure_ascii=False))
        return payload


def deserialized(event: Event, data: bytes, content_type: str, topic: str) -> Event | None:
    """Return the event with the payload that its serializer reads, and with headers that name the schema.

    Returns:
        None if there is no serializer for it, or the data is something else.

    Raises:
        UnreadableRecord, InvalidMessage: with the reason.
        NotLoaded: its schema must be loaded first.
        RegistryUnavailable: that is not possible now.
    """
    serializer = current_serializers().find(event.type, topic)
    if serializer is None:
        return None
    kind = media_type(content_type)
    # No JSON begins with a byte 0. Plain clients of a registry set no content type.
    if kind != serializer.content_type and not (is_json_type(kind) and data.startswith(b"\0")):
        return None
    try:
        payload, headers = serializer.deserialize(data, event.type, topic)
        read = replace(event, payload=payload, headers={**event.headers, **headers})
    except (UnreadableRecord, NotLoaded, RegistryUnavailable):
        raise
    except Exception as error:  # a serializer may be the project's own
        raise UnreadableRecord(f"the serializer of {event.type} failed") from error
    require_storable(read)
    return read


def require_storable(event: Event) -> None:
    """Check that an event fits into the columns of the inbox.

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


def with_position(event: Event, record: ReceivedRecord, payload: Any) -> Event:
    """Return the event with its payload, which may be ``TOMBSTONE``, and the position of its record."""
    return replace(
        event,
        payload=None if payload is TOMBSTONE else payload,
        is_tombstone=payload is TOMBSTONE,
        headers=dict(event.headers),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        attempt=1,
    )


def _attribute(name: str, value: Any) -> str:
    """Return an attribute of structured mode as the text that its header in binary mode would have."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise UnreadableRecord(f"the attribute {name[:60]!r} of the CloudEvent is not text")
