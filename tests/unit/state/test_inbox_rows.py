"""Rows of the inbox, before they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.event import Event
from django_outbox.exceptions import UnreadableRecord
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import inbox_rows
from tests.support.inbox import plain, received

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def pending_row(**fields: Any) -> Any:
    event = Event(type="order.created", payload={}, key="k", headers={}, topic="elsewhere", **fields)
    return inbox_rows.pending_row(event, "tests", timedelta(0))


@pytest.mark.parametrize("key", [None, b"", b"\xff"])
@pytest.mark.parametrize("value", [None, b"", b"\xff"])
def test_a_record_that_was_not_read_can_be_read_later(key: bytes | None, value: bytes | None) -> None:
    record = ReceivedRecord("elsewhere", 2, 7, key, value, (("tenant", b"north"),))
    row = inbox_rows.unread_row(record, "tests", timedelta(0))
    assert inbox_rows.record_of(row) == record


def test_the_key_of_a_record_that_was_not_read_is_unknown() -> None:
    assert inbox_rows.unread_row(received(key="k"), "tests", timedelta(0)).message_key == ""


def test_without_time_zones_the_time_of_an_event_is_stored_in_utc(settings: Any) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Tokyo"
    row = pending_row(time=NOON)
    assert row.event_time == NOON.replace(tzinfo=None)
    assert inbox_rows.event_of(row).time == NOON


def test_with_time_zones_the_time_of_an_event_is_stored_as_it_is() -> None:
    assert pending_row(time=NOON).event_time == NOON
    assert pending_row(time=None).event_time is None


def test_rows_have_the_times_of_the_database() -> None:
    row = pending_row()
    assert (type(row.created_at), type(row.updated_at)) == (DatabaseNow, DatabaseNow)


@pytest.mark.parametrize("length", [255, 256])
def test_names_that_are_too_long_for_their_columns_are_left_out(length: int) -> None:
    row = inbox_rows.poison_row(received(key="k" * length, type="t" * length), "tests", "no")
    assert (len(row.event_type), len(row.message_key)) == ((255, 255) if length == 255 else (0, 0))
    assert inbox_rows.poison_row(plain(b"?"), "tests", "no").message_key == ""


@pytest.mark.parametrize("raw", [True, False])
def test_what_cannot_be_read_is_kept_as_it_is_unless_it_is_too_large(raw: bool) -> None:
    record = plain(b"?", key=b"k", headers=(("tenant", b"north"),))
    row = inbox_rows.poison_row(record, "tests", "no", raw=raw)
    assert (row.raw_key, row.raw_value, row.headers) == ((b"k", b"?", {"tenant": "north"}) if raw else (None, None, {}))
    assert (row.status, row.source, row.last_error, row.next_retry_at) == ("dead", "", "no", None)


@pytest.mark.parametrize(
    ("content", "payload", "is_tombstone"),
    [
        ({"payload": {"order": 1}}, {"order": 1}, False),
        ({"raw_value": b"1;2", "content_type": "text/csv"}, b"1;2", False),
        ({"payload": None, "content_type": ""}, None, True),
    ],
)
def test_the_event_of_a_row_is_the_one_that_was_received(
    content: dict[str, Any], payload: Any, is_tombstone: bool
) -> None:
    row = InboxMessage(event_type="order.created", event_version="3", message_key="k", retry_count=2, **content)
    event = inbox_rows.event_of(row)
    assert (event.type, event.version, event.key, event.attempt) == ("order.created", "3", "k", 3)
    assert (event.payload, event.is_tombstone) == (payload, is_tombstone)


def test_the_error_of_a_mapper_fits_below_the_reason() -> None:
    error = UnreadableRecord("no mapper")
    error.__cause__ = LookupError("x" * 3000)
    assert len(inbox_rows.unreadable(error)) == 2000
