"""What consumers of 0.1.0 need of a record, written without the package: later releases must keep to it.

Of records with a payload of JSON or bytes: what serializers write is the schema registry's format, not this release's.

Not to be changed once 0.1.0 is out. A release whose consumers need something else gets a module of its own beside this one.
"""

from __future__ import annotations

import json
from typing import Any

from django_outbox.brokers.base import ReceivedRecord

_IN_EVENT = {
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "datacontenttype",
    "eventversion",
    "outboxid",
    "outboxattempt",
}


def identity(record: ReceivedRecord) -> tuple[str | None, str, str, int, int | None]:
    """How a service recognises a record of its own outbox: source, event id, event type, id of the row, attempt."""
    headers = _headers(record)
    attempt = int(headers["ce_outboxattempt"]) if "ce_outboxattempt" in headers else None
    if "ce_specversion" in headers:
        _require_version(headers)
        return headers["ce_source"], headers["ce_id"], headers["ce_type"], int(headers["ce_outboxid"]), attempt
    envelope = _envelope(record)
    return headers.get("ce_source"), envelope["event_id"], envelope["event_type"], envelope["outbox_id"], attempt


def event(record: ReceivedRecord, own_source: str = "elsewhere") -> dict[str, Any]:
    """What a handler gets in another service, named ``own_source``. Bytes are text in Latin-1."""
    headers = _headers(record)
    key = (record.key or b"").decode()
    own = {name: text for name, text in headers.items() if not name.startswith("ce_")}
    content_type = own.pop("content-type", "")
    about: dict[str, Any] = {"key": key, "is_tombstone": record.value is None}
    if "ce_specversion" not in headers:
        envelope = _envelope(record)
        return about | {
            "type": envelope["event_type"],
            "payload": envelope.get("payload"),
            "headers": own,
            "version": envelope.get("event_version") or "v1",
            "id": envelope["event_id"],
            "source": headers.get("ce_source", own_source),
            "time": None,
        }
    _require_version(headers)
    attributes = {name.removeprefix("ce_"): text for name, text in headers.items() if name.startswith("ce_")}
    others = {
        name: text for name, text in attributes.items() if name not in _IN_EVENT and (name, text) != ("subject", key)
    }
    return about | {
        "type": attributes["type"],
        "payload": _payload(record.value, content_type),
        "headers": {**others, **own},
        "version": attributes.get("eventversion") or "v1",
        "id": attributes["id"],
        "source": attributes["source"],
        "time": attributes["time"].replace("Z", "+00:00") if "time" in attributes else None,
    }


def _payload(value: bytes | None, content_type: str) -> Any:
    media_type = content_type.partition(";")[0].strip().lower()
    if value is None:
        return None
    if media_type and not media_type.endswith(("/json", "+json")):
        return value.decode("latin-1")
    return json.loads(value) if value else None


def _headers(record: ReceivedRecord) -> dict[str, str]:
    return {name: value.decode() for name, value in reversed(record.headers)}


def _require_version(headers: dict[str, str]) -> None:
    assert headers["ce_specversion"].startswith("1."), headers["ce_specversion"]


def _envelope(record: ReceivedRecord) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(record.value or b"")
    assert all(name in envelope for name in ("outbox_id", "event_id", "event_type"))
    return envelope
