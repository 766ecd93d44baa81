"""Columns and expressions: the same on every database, where the databases themselves differ."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from django_outbox import publish
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow, ExactCharField, uuid7
from tests.support.outbox import make_message, row

# Pairs that MySQL's and MariaDB's usual collations take for equal.
ALIKE = [
    ("key", "KEY"),
    ("key", "key "),
    ("key", "key  "),
    ("key", "k\u00e9y"),
    ("stra\u00dfe", "strasse"),
    ("\u00e9", "e\u0301"),
    ("\N{GRINNING FACE}", "\N{SLIGHTLY SMILING FACE}"),
    ("a", "\u0430"),
    ("", " "),
]


@pytest.fixture
def session_time_zone(db: None) -> Iterator[None]:
    """Let the session of the database be far from UTC, as some servers are set up."""
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("SET time_zone = '+11:00'")
        else:
            cursor.execute("SET TIME ZONE 'Pacific/Noumea'")
        yield
        cursor.execute("SET time_zone = DEFAULT" if connection.vendor == "mysql" else "SET TIME ZONE 'UTC'")


# Text, character by character


@pytest.mark.django_db
@pytest.mark.parametrize(("one", "other"), ALIKE)
@pytest.mark.parametrize("field", ["message_key", "event_type", "topic"])
def test_texts_that_look_alike_are_kept_apart(field: str, one: str, other: str) -> None:
    first, second = make_message(**{field: one}), make_message(**{field: other})
    messages = OutboxMessage.objects.order_by("id")
    assert [getattr(message, field) for message in messages] == [one, other]
    assert list(messages.filter(**{field: one})) == [first]
    assert list(messages.filter(**{f"{field}__in": [other]})) == [second]
    assert len(messages.order_by().values(field).distinct()) == 2


@pytest.mark.django_db
def test_texts_sort_by_code_point() -> None:
    for key in ("b", "B", "a", "\u00e4", "Z", "_"):
        make_message(message_key=key)
    keys = list(OutboxMessage.objects.order_by("message_key").values_list("message_key", flat=True))
    assert keys == ["B", "Z", "_", "a", "b", "\u00e4"]


def test_exact_field_names_itself_in_migrations() -> None:
    _, path, arguments, options = ExactCharField(max_length=9).deconstruct()
    assert (path, arguments, options) == ("django_outbox.models.fields.ExactCharField", [], {"max_length": 9})


# The database's clock


def seconds_from_now(moment: datetime) -> float:
    return abs((moment - datetime.now(UTC)).total_seconds())


@pytest.mark.django_db
def test_database_clock_is_utc() -> None:
    message = make_message()
    assert seconds_from_now(message.created_at) < 30
    assert message.created_at.tzinfo is not None


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_due_times_do_not_depend_on_the_session_s_time_zone(session_time_zone: None) -> None:
    now, later = publish("now", 1), publish("later", 1, delay=5)
    assert list(OutboxMessage.objects.due()) == [now]
    # As relay and consumer, whose sessions are in UTC, see them.
    with connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'" if connection.vendor == "mysql" else "SET TIME ZONE 'UTC'")
    assert list(OutboxMessage.objects.due()) == [now]
    assert seconds_from_now(row(now).next_retry_at) < 30
    assert seconds_from_now(row(later).created_at) < 30
    assert row(later).next_retry_at - row(later).created_at == timedelta(seconds=5)


@pytest.mark.django_db
def test_due_times_do_not_depend_on_this_machine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for moment in (datetime(2001, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)):
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment)
        assert publish("now", 1) in OutboxMessage.objects.due()
        assert publish("later", 1, delay=60) not in OutboxMessage.objects.due()


@pytest.mark.django_db
def test_clock_does_not_stand_still_within_a_transaction() -> None:
    # PostgreSQL's NOW() would: then a long transaction would write due times of its beginning.
    first = make_message()

    def later() -> datetime:
        return OutboxMessage.objects.annotate(now=DatabaseNow()).get(id=first.id).now

    deadline = time.monotonic() + 10
    while later() <= first.created_at:
        assert time.monotonic() < deadline


@pytest.mark.django_db
@pytest.mark.parametrize("wait", [timedelta(microseconds=1000), timedelta(seconds=1.5), timedelta(days=400)])
def test_time_can_be_added_to_the_clock(wait: timedelta) -> None:
    message = make_message(next_retry_at=DatabaseNow() + wait)
    assert message.next_retry_at - message.created_at == wait


# UUIDs


def test_uuid7_has_version_and_variant() -> None:
    made = [uuid7() for _ in range(1000)]
    assert {each.version for each in made} == {7}
    assert {each.variant for each in made} == {uuid.RFC_4122}
    assert len(set(made)) == 1000


def test_uuid7_begins_with_the_time_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    # The example of RFC 9562, appendix A.6.
    monkeypatch.setattr(time, "time_ns", lambda: 0x017F22E279B0 * 1_000_000 + 999_999)
    assert str(uuid7()).startswith("017f22e2-79b0-7")


def test_uuid7_sorts_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times: Any = iter(range(10**18, 10**18 + 10**9, 10**6))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    made = [uuid7() for _ in range(1000)]
    assert made == sorted(made)
    assert list(map(str, made)) == sorted(map(str, made))


@pytest.mark.django_db
def test_event_ids_are_unique_and_found_exactly() -> None:
    message = make_message()
    assert row(message).event_id == message.event_id
    assert OutboxMessage.objects.get(event_id=str(message.event_id).upper()) == message
