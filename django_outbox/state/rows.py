"""Rows of the outbox as they are written and locked, lighter than model instances."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from django_outbox.events.payloads import raw_bytes


@dataclass(slots=True)
class NewMessage:
    """An outbox message to insert.

    Attributes:
        payload_json: its payload as JSON text.
        content_type, raw_value: see ``events.payloads``.
        by_debezium: Debezium sends it, so it is inserted as published.
    """

    event_id: uuid.UUID
    event_type: str
    event_version: str
    topic: str
    message_key: str
    headers: dict[str, str]
    payload_json: str
    max_retry: int
    delay: timedelta
    payload: Any
    content_type: str | None = None
    raw_value: bytes | None = None
    by_debezium: bool = False


@dataclass(slots=True)
class LockedMessage:
    """An outbox message that this transaction has locked; ``headers_json`` and ``payload_json`` are JSON text."""

    id: int
    source: str
    event_id: str
    event_type: str
    event_version: str
    topic: str
    message_key: str
    created_at: datetime
    status: str
    publish_count: int
    delivery_count: int
    retry_count: int
    max_retry: int
    partition: int | None
    offset: int | None
    content_type: str | None
    raw_value: bytes | memoryview | None
    headers_json: str
    payload_json: str

    @property
    def headers(self) -> dict[str, str]:
        """A new object at each access, because handlers may change theirs."""
        headers: dict[str, str] = {} if self.headers_json == "{}" else _read(self.headers_json)
        return headers

    @property
    def payload(self) -> Any:
        """A new object at each access, because handlers may change theirs."""
        return raw_bytes(self) if self.content_type else _read(self.payload_json)

    @property
    def is_tombstone(self) -> bool:
        return self.content_type == ""


def _read(text: str) -> Any:
    """As ``json.loads``, which looks for whitespace around the value; that takes longer than a small payload."""
    value, _ = _decoder.raw_decode(text.lstrip())
    return value


_decoder = json.JSONDecoder()
LOCKED_COLUMNS = tuple(field.name for field in fields(LockedMessage) if not field.name.endswith("_json"))
