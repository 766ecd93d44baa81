"""The consumer's view of an outbox row, lighter than a model instance."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any


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
    headers_json: str
    payload_json: str

    @property
    def headers(self) -> dict[str, str]:
        """A new object at each access, because handlers may change theirs."""
        headers: dict[str, str] = {} if self.headers_json == "{}" else json.loads(self.headers_json)
        return headers

    @property
    def payload(self) -> Any:
        """A new object at each access, because handlers may change theirs."""
        return json.loads(self.payload_json)


COLUMNS = tuple(field.name for field in fields(LockedMessage) if not field.name.endswith("_json"))
