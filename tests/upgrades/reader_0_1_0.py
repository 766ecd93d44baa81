"""What consumers of 0.1.0 need of a record, written without the package: later releases must keep to it.

Not to be changed. A release whose consumers need something else gets a module of its own beside this one.
"""

from __future__ import annotations

import json
from typing import Any

from django_outbox.brokers.base import ReceivedRecord


def identity(record: ReceivedRecord) -> tuple[str | None, str, str, int, int | None]:
    """How a service recognises a record of its own outbox: source, event id, event type, id of the row, attempt."""
    headers = _headers(record)
    attempt = int(headers["ce_outboxattempt"]) if "ce_outboxattempt" in headers else None
    if "ce_specversion" in headers:
        _require_version(headers)
        return headers["ce_source"], headers["ce_id"], headers["ce_type"], int(headers["ce_outboxid"]), attempt
    envelope = _envelope(record)
    return headers.get("ce_source"), envelope["event_id"], envelope["event_type"], envelope["outbox_id"], attempt


def event(record: ReceivedRecord) -> dict[str, Any]:
    """What a handler in another service gets. Bytes are text in Latin-1."""
    headers = _headers(record)
    about: dict[str, Any] = {
        "key": (record.key or b"").decode(),
        "headers": {name: text for name, text in headers.items() if not name.startswith("ce_")},
        "is_tombstone": record.value is None,
    }
    content_type = about["headers"].pop("content-type", "")
    if "ce_specversion" not in headers:
        envelope = _envelope(record)
        return about | {
            "type": envelope["event_type"],
            "payload": envelope["payload"],
            "version": envelope["event_version"],
            "id": envelope["event_id"],
            "source": headers["ce_source"],
            "time": None,
        }
    _require_version(headers)
    return about | {
        "type": headers["ce_type"],
        "payload": _payload(record.value, content_type),
        "version": headers["ce_eventversion"],
        "id": headers["ce_id"],
        "source": headers["ce_source"],
        "time": headers["ce_time"].replace("Z", "+00:00"),
    }


def _payload(value: bytes | None, content_type: str) -> Any:
    if value is None:
        return None
    return json.loads(value) if content_type == "application/json" else value.decode("latin-1")


def _headers(record: ReceivedRecord) -> dict[str, str]:
    return {name: value.decode() for name, value in reversed(record.headers)}


def _require_version(headers: dict[str, str]) -> None:
    assert headers["ce_specversion"].startswith("1."), headers["ce_specversion"]


def _envelope(record: ReceivedRecord) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(record.value or b"")
    assert all(name in envelope for name in ("outbox_id", "event_id", "event_type", "event_version", "payload"))
    return envelope
