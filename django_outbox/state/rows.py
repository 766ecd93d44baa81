"""The consumer's view of an outbox row, lighter than a model instance."""

from __future__ import annotations

import json
from dataclasses import dataclass
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

    COLUMNS = (
        "id",
        "source",
        "event_id",
        "event_type",
        "event_version",
        "topic",
        "message_key",
        "created_at",
        "status",
        "publish_count",
        "delivery_count",
        "retry_count",
        "max_retry",
        "partition",
        "offset",
    )

    @property
    def headers(self) -> dict[str, str]:
        """A new object at each access, because handlers may change theirs."""
        headers: dict[str, str] = {} if self.headers_json == "{}" else json.loads(self.headers_json)
        return headers

    @property
    def payload(self) -> Any:
        """A new object at each access, because handlers may change theirs."""
        return json.loads(self.payload_json)
