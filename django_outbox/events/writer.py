"""Writes the wire format: a row of the outbox as a Kafka record.

CloudEvents 1.0 in the binary mode of its Kafka protocol binding (attributes in ``ce_`` headers, the payload as value), or
the JSON envelope of the system this package began as.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from django_outbox.brokers.base import Headers, Record
from django_outbox.events.reader import CONTENT_TYPE


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
