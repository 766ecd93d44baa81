"""With ``PUBLISHER = "debezium"``, what Debezium can carry is inserted as published; the relay sends the rest."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from django_outbox import TOMBSTONE, Event, RawBytes, publish, publish_many
from django_outbox.events.debezium import LONGEST_NUMBER
from django_outbox.models import OutboxMessage
from django_outbox.observability.tracing.base import NoTracing, Tracing, add_headers
from django_outbox.worker import notify
from tests.support.outbox import Pipeline, Status, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.serializing import json_schema_settings

pytestmark = pytest.mark.django_db

FIELDS = [field.attname for field in OutboxMessage._meta.concrete_fields]

FOR_THE_RELAY: dict[str, dict[str, Any]] = {
    "a delay": {"delay": 60},
    "no key": {"key": ""},
    "own headers": {"headers": {"tenant": "a"}},
    "own trace context": {"headers": {"traceparent": "00-1-1-01"}},
    "bytes": {"payload": RawBytes(b"\x00", content_type="image/png")},
    "a tombstone": {"payload": TOMBSTONE},
}


@pytest.fixture(autouse=True)
def debezium(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each database as on PostgreSQL."""
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium"}
    monkeypatch.setattr("django_outbox.events.debezium.VENDOR", connection.vendor)


def event(**changes: Any) -> Event:
    return Event(**{"type": "order.created", "payload": {"id": 1}, "key": "a", **changes})


def values(message: OutboxMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in FIELDS}


def test_a_new_message_is_published_once_to_an_unknown_place() -> None:
    message = row(publish("order.created", {"id": 1}, key="a"))
    assert (message.status, message.publish_count) == ("published", 1)
    assert (message.partition, message.offset, message.next_retry_at) == (None, None, None)
    assert message.published_at == message.created_at == message.updated_at


@pytest.mark.parametrize("changes", [{}, {"delay": 0}, {"payload": None}, {"version": "v2"}, {"max_retry": 3}])
def test_what_debezium_can_carry_is_published(changes: dict[str, Any]) -> None:
    publish_many([event(**changes)])
    assert statuses() == ["published"]


@pytest.mark.parametrize("reason", FOR_THE_RELAY)
def test_what_debezium_cannot_carry_is_left_to_the_relay(reason: str) -> None:
    (message,) = publish_many([event(**FOR_THE_RELAY[reason])])
    stored = row(message)
    assert (stored.status, stored.publish_count, stored.published_at) == ("pending", 0, None)
    assert stored.next_retry_at is not None
    assert values(message) == values(stored)


def test_an_event_with_a_serializer_is_left_to_the_relay(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text("{}")
    serializer = json_schema_settings(tmp_path / "order.json")
    with outbox_settings(SERIALIZERS={"order.*": serializer}):
        publish_many([event(), event(type="payment.made")])
    assert statuses() == ["pending", "published"]


def test_a_database_that_debezium_does_not_read_is_left_to_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """``publish(using=...)`` may write to one."""
    monkeypatch.setattr("django_outbox.events.debezium.VENDOR", "another")
    publish_many([event()])
    assert statuses() == ["pending"]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ([1e300] * 4, "pending"),
        ([-5e-324] * 4, "pending"),
        ([1] * 333, "published"),  # of the largest size
        ([1e300] * 2, "published"),
        ("an e-mail " * 2, "published"),
    ],
)
def test_a_payload_that_the_database_may_make_too_large_is_left_to_the_relay(payload: Any, status: str) -> None:
    """One record that Kafka refuses stops the connector, and with it all messages."""
    with outbox_settings(MAX_PAYLOAD_BYTES=1000):
        publish_many([event(payload=payload)])
    assert statuses() == [status]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    "payload", [[1] * 333, {"a": [1e300, "\x1f\u2028é"]}, [5e-324], [-1.7976931348623157e308], [1e-7]]
)
def test_the_database_makes_no_payload_longer_than_expected(payload: Any) -> None:
    publish_many([event(payload=payload)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT octet_length(payload::text) FROM django_outbox_outboxmessage")
        ((size,),) = cursor.fetchall()
    text = json.dumps(payload, ensure_ascii=False)
    assert size <= len(text.encode()) + LONGEST_NUMBER * text.count("e")


def test_returned_messages_are_the_stored_ones_in_their_order() -> None:
    events = [event(key=str(number), **changes) for number, changes in enumerate([{}, {"delay": 60}, {}])]
    events += [event(payload=RawBytes(b"1")), event()]
    messages = publish_many(events)
    assert [message.status for message in messages] == ["published", "pending", "published", "pending", "published"]
    assert [values(message) for message in messages] == [values(row(message)) for message in messages]
    assert sorted(message.id for message in messages) == [message.id for message in messages]


@pytest.mark.databases("sqlite", "postgresql", "mariadb")  # MySQL's inserts return nothing: the id is read
def test_publishing_one_message_takes_one_statement() -> None:
    publish("order.created", {"id": 1}, key="a")
    with CaptureQueriesContext(connection) as queries:
        publish("order.created", {"id": 1}, key="a")
    assert len(queries) == 1


def test_the_relay_sends_only_its_own_part() -> None:
    publish_many([event(), event(key="", type="page.seen"), event()])
    pipeline = Pipeline()
    assert pipeline.relay.run_once().published == 1
    assert [dict(record.headers)["ce_type"] for record in pipeline.broker.records("outbox")] == [b"page.seen"]
    assert [message.partition for message in OutboxMessage.objects.order_by("id")] == [None, 0, None]


@pytest.mark.databases("postgresql")
def test_the_statement_of_the_page_has_the_relay_send_events_without_a_handler() -> None:
    page = (Path(__file__).parents[3] / "docs/debezium.rst").read_text()
    (statement,) = re.findall(r"UPDATE django_outbox_outboxmessage .*?;", page, re.DOTALL)
    with outbox_settings(SOURCE="shop", PUBLISHER="debezium"):
        publish("order.exported", 1, key="a")
        other = publish("order.paid", 1, key="a")
        pipeline = Pipeline()
        assert pipeline.relay.run_once().published == 0
        with connection.cursor() as cursor:
            cursor.execute(
                re.sub(r"'[-\d]+ 12:00\+00' AND '[-\d]+ 13:00\+00'", "'-infinity' AND 'infinity'", statement)
            )
        assert pipeline.relay.run_once().published == 1
    assert row(other).partition is None
    assert [dict(record.headers)["ce_type"] for record in pipeline.broker.records("outbox")] == [b"order.exported"]


def test_headers_of_tracing_do_not_keep_a_message_from_debezium(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer reads them from the row."""

    class Traced(NoTracing):
        def creating(self, messages: Any) -> Any:
            for message in messages:
                add_headers(message, {"traceparent": "00-1-1-01"})
            return super().creating(messages)

    tracing: Tracing = Traced()
    monkeypatch.setattr("django_outbox.publishing.current_tracing", lambda: tracing)
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = publish("order.created", 1, key="a")
    assert message.status == Status.PUBLISHED
    pipeline.deliver(message, publish_count=0, headers_json="{}")
    pipeline.consumer.run_once()
    assert [event.headers for event in pipeline.handled] == [{"traceparent": "00-1-1-01"}]


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("changes", "notified"), [({}, 0), ({"delay": timedelta(seconds=1)}, 1), ({"key": ""}, 1)])
def test_the_relay_is_notified_only_of_its_own_part(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], notified: int
) -> None:
    aliases: list[str] = []
    monkeypatch.setattr(notify, "_notify", aliases.append)
    with outbox_settings(NOTIFY=True), transaction.atomic():
        publish_many([event(), event(**changes)])
    assert len(aliases) == notified
