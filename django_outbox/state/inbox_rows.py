"""Converts events and unreadable records to rows of the inbox, and back."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.utils import timezone

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.event import Event
from django_outbox.events.parsing import record_reference
from django_outbox.events.payloads import Content, content_of, has_bytes, is_tombstone, raw_bytes
from django_outbox.exceptions import UnreadableRecord
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow, due_at
from django_outbox.models.lengths import ERROR_LENGTH, KEY_LENGTH, TYPE_LENGTH
from django_outbox.models.validation import as_text, headers_as_text
from django_outbox.state.failures import columns, error_text

Status = InboxMessage.Status
CONTENT = ("headers", *Content._fields)
"""Columns with the content of an event."""


def consumed_row(event: Event, group: str) -> InboxMessage:
    """The row of an event that is handled in this transaction; only what deduplication needs."""
    return _row(event, group, status=Status.CONSUMED, next_retry_at=None, consumed_at=DatabaseNow())


def pending_row(event: Event, group: str, wait: timedelta, **counts: Any) -> InboxMessage:
    """The row of an event that is handled later."""
    return _row(event, group, next_retry_at=due_at(wait), **_content(event), **counts)


def dead_row(event: Event, group: str, error: BaseException | str, **counts: Any) -> InboxMessage:
    """The row of an event that can never be handled."""
    dead = {"status": Status.DEAD, "next_retry_at": None, **columns(error)}
    return _row(event, group, **dead, **_content(event), **counts)


def poison_row(record: ReceivedRecord, group: str, reason: str, *, raw: bool = True) -> InboxMessage:
    """The row of a record that is not a valid event: dead, identified by its position, and if ``raw`` with its bytes."""
    headers = headers_as_text(dict(reversed(record.headers)))
    event_type = headers.get("ce_type", "")
    return InboxMessage(
        group=group,
        source="",
        event_id=record_reference(record),
        event_type=event_type if len(event_type) <= TYPE_LENGTH else "",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        message_key=key_as_text(record.key),
        headers=headers if raw else {},
        raw_key=record.key if raw else None,
        raw_value=record.value if raw else None,
        status=Status.DEAD,
        next_retry_at=None,
        **columns(reason),
        created_at=DatabaseNow(),
        updated_at=DatabaseNow(),
    )


def unread_row(record: ReceivedRecord, group: str, wait: timedelta) -> InboxMessage:
    """The row of a record that is not read yet; reading it is counted, because it may kill the process.

    The event's key is unknown, so nothing waits behind this row.
    """
    row = poison_row(record, group, "")
    row.status, row.next_retry_at, row.delivery_count = Status.PENDING, due_at(wait), 1
    row.message_key = ""
    return row


def event_of(row: InboxMessage) -> Event:
    """The event of a row, for its handlers."""
    time = row.event_time
    return Event(
        type=row.event_type,
        payload=raw_bytes(row) if has_bytes(row) else row.payload,
        key=row.message_key,
        headers=row.headers,
        topic=row.topic,
        version=row.event_version,
        id=row.event_id,
        source=row.source,
        time=time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time,
        attempt=row.retry_count + 1,
        partition=row.partition,
        offset=row.offset,
        is_tombstone=is_tombstone(row),
    )


def record_of(row: InboxMessage) -> ReceivedRecord:
    """The record of a row that could not be read, as far as it was stored."""
    return ReceivedRecord(
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        key=None if row.raw_key is None else bytes(row.raw_key),
        value=None if row.raw_value is None else bytes(row.raw_value),
        headers=tuple((name, text.encode()) for name, text in row.headers.items()),
    )


def key_as_text(raw_key: bytes | memoryview | None) -> str:
    """The key of a record that could not be read, as text; empty if it is too long."""
    key = as_text(bytes(raw_key or b""))
    return key if len(key) <= KEY_LENGTH else ""


def _row(event: Event, group: str, **fields: Any) -> InboxMessage:
    time = event.time
    if time is not None and not django_settings.USE_TZ:
        time = timezone.make_naive(time, UTC)
    values: dict[str, Any] = {
        "source": event.source,
        "event_id": event.id,
        "event_type": event.type,
        "event_version": event.version,
        "event_time": time,
        "topic": event.topic,
        "partition": event.partition,
        "offset": event.offset,
        "message_key": event.key,
        **fields,
    }
    return InboxMessage(group=group, created_at=DatabaseNow(), updated_at=DatabaseNow(), **values)


def _content(event: Event) -> dict[str, Any]:
    content = content_of(event) or Content(event.payload)
    return {"headers": dict(event.headers), **content._asdict()}


def unreadable(error: UnreadableRecord) -> str:
    """Why a record is dead on arrival, with the error of the project's mapper."""
    text = f"It cannot be read: {error}."
    if error.__cause__ is None:
        return text
    return f"{text}\n\n{error_text(error.__cause__, ERROR_LENGTH - len(text) - 2)}"
