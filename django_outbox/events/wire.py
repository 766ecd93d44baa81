"""The wire format: a row of the outbox as a Kafka record, and back.

CloudEvents 1.0 in the binary mode of its Kafka protocol binding (attributes in ``ce_`` headers,
the payload as value), or the JSON envelope of the system that this package began as.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from django_outbox.brokers.base import Headers, ReceivedRecord, Record
from django_outbox.exceptions import UnreadableRecord

RESERVED_PREFIX = "ce_"
CONTENT_TYPE = "content-type"
_MAX_ID = 2**63 - 1


@dataclass(slots=True)
class Outgoing:
    """What the relay reads of a row: its identity, its content and its counts.

    ``created_at`` may also be the text that CloudEvents want: RFC 3339, in UTC.
    """

    id: int
    source: str
    event_id: uuid.UUID | str
    event_type: str
    event_version: str
    topic: str
    message_key: str
    headers: dict[str, str]
    created_at: datetime | str
    publish_count: int
    payload_json: str

    COLUMNS = (
        "id",
        "source",
        "event_id",
        "event_type",
        "event_version",
        "topic",
        "message_key",
        "headers",
        "created_at",
        "publish_count",
    )

    @property
    def attempt(self) -> int:
        """The number of the publication that is about to be made, counted from 1."""
        return self.publish_count + 1


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a record says of itself. None of it is trusted: the row has the last word.

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


def encode(message: Outgoing, *, wire_format: Literal["cloudevents", "envelope"]) -> Record:
    """The record that carries a message.

    Raises:
        ValueError: if the row cannot be put into a record, as after a change by hand.
    """
    key = message.message_key.encode()
    if wire_format == "envelope":
        value = _envelope(message)
        headers = [*_constant_of_envelopes(message.source), *_own(message)]
    else:
        value = message.payload_json.encode()
        headers = [
            *_constant_of_cloudevents(message.source, message.event_type, message.event_version),
            *_own(message),
            ("ce_id", str(message.event_id).encode()),
            ("ce_time", _time(message.created_at)),
        ]
        if key:
            headers.append(("ce_subject", key))
    if message.headers:
        headers += _users(message.headers)
    return Record(message.topic, key or None, value, tuple(headers))


@lru_cache(maxsize=1000)
def _constant_of_cloudevents(source: str, event_type: str, event_version: str) -> Headers:
    """The headers that all messages of a type and version share."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_eventversion", event_version.encode()),
        (CONTENT_TYPE, b"application/json"),
    )


@lru_cache(maxsize=10)
def _constant_of_envelopes(source: str) -> Headers:
    return (("ce_source", source.encode()), (CONTENT_TYPE, b"application/json"))


def _own(message: Outgoing) -> Headers:
    """The headers by which the consumer knows its own records and their stale duplicates, beside the source."""
    return (("ce_outboxid", b"%d" % message.id), ("ce_outboxattempt", b"%d" % message.attempt))


def _users(headers: dict[str, str]) -> list[tuple[str, bytes]]:
    for name, text in headers.items():
        if not isinstance(text, str):
            raise ValueError(f"header {name!r} is not text")
    return [(name, text.encode()) for name, text in headers.items()]


def _time(created_at: datetime | str) -> bytes:
    if isinstance(created_at, datetime):
        created_at = created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return created_at.encode()


def _envelope(message: Outgoing) -> bytes:
    head = json.dumps(
        {
            "outbox_id": message.id,
            "event_id": str(message.event_id),
            "event_type": message.event_type,
            "event_version": message.event_version,
            "aggregate_id": message.message_key,
        }
    )
    # The payload goes in as the text that the database has, never decoded.
    return f'{head[:-1]}, "payload": {message.payload_json}}}'.encode()


def decode(record: ReceivedRecord) -> Incoming:
    """Read what a record says of itself.

    Raises:
        UnreadableRecord: if it is neither a CloudEvent in binary mode nor an envelope, or not whole.
    """
    if record.fault:
        raise UnreadableRecord(record.fault)
    headers = dict(reversed(record.headers))  # of several headers of one name the first counts
    if "ce_specversion" in headers:
        return _decode_cloudevent(headers)
    return _decode_envelope(record, headers)


def _decode_cloudevent(headers: dict[str, bytes]) -> Incoming:
    version = _text(headers, "ce_specversion")
    if not version.startswith("1."):
        raise UnreadableRecord(f"CloudEvents version {version[:20]!r} is not known")
    return Incoming(
        source=_text(headers, "ce_source"),
        event_id=_text(headers, "ce_id"),
        event_type=_text(headers, "ce_type"),
        outbox_id=_number(headers, "ce_outboxid"),
        attempt=_number(headers, "ce_outboxattempt"),
    )


def _decode_envelope(record: ReceivedRecord, headers: dict[str, bytes]) -> Incoming:
    try:
        envelope: Any = json.loads(record.value or b"")
    except (ValueError, RecursionError):
        raise UnreadableRecord("no CloudEvents headers and no JSON value") from None
    if not isinstance(envelope, dict):
        raise UnreadableRecord("no CloudEvents headers and no JSON object as value")
    outbox_id, event_id = envelope.get("outbox_id"), envelope.get("event_id")
    event_type = envelope.get("event_type")
    if not (_is_id(outbox_id) and isinstance(event_id, str) and isinstance(event_type, str)):
        raise UnreadableRecord("no CloudEvents headers and no envelope as value")
    return Incoming(
        source=_text(headers, "ce_source") if "ce_source" in headers else None,
        event_id=event_id,
        event_type=event_type,
        outbox_id=outbox_id,
        attempt=_number(headers, "ce_outboxattempt"),
    )


def _text(headers: dict[str, bytes], name: str) -> str:
    try:
        return headers[name].decode()
    except KeyError:
        raise UnreadableRecord(f"header {name} is missing") from None
    except (UnicodeDecodeError, AttributeError):
        raise UnreadableRecord(f"header {name} is not UTF-8 text") from None


def _number(headers: dict[str, bytes], name: str) -> int | None:
    if name not in headers:
        return None
    text = _text(headers, name)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_ID)) and _is_id(int(text))):
        raise UnreadableRecord(f"header {name} is not a whole number in range")
    return int(text)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_ID
