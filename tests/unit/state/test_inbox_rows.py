"""Rows of the inbox, before they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.event import Event
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import inbox_rows
from tests.support.inbox import received

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
