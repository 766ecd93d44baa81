"""Publishing: a message is stored complete, with one insert."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, models
from django.db.models import F
from django.db.models.signals import post_save
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox import Event, InvalidMessage, publish, publish_many
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.app.models import Effect
from tests.support.outbox import row
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

FIELDS = [field.attname for field in OutboxMessage._meta.concrete_fields]


def values(message: OutboxMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in FIELDS}


def database_time() -> datetime:
    effect = Effect.objects.create(name="clock")
    return Effect.objects.annotate(now=DatabaseNow()).get(id=effect.id).now


# What publish() returns


@pytest.mark.parametrize("delay", [None, 0, 90.5, timedelta(minutes=2)])
def test_returned_message_is_the_stored_one(delay: Any) -> None:
    message = publish("order.created", {"id": 1}, key="k", headers={"trace": "t"}, version="v2", delay=delay)
    assert message.id is not None
    assert values(message) == values(row(message))


def test_returned_messages_of_publish_many_are_the_stored_ones() -> None:
    messages = publish_many([Event(type="order.created", payload=n, key=str(n)) for n in range(3)])
    assert [values(message) for message in messages] == [values(row(message)) for message in messages]


def test_new_message_is_pending_and_due_now() -> None:
    message = publish("order.created", {"id": 1})
    assert message.status == "pending"
    assert message.next_retry_at == message.created_at == message.updated_at
    assert list(OutboxMessage.objects.due()) == [message]


@pytest.mark.databases("sqlite")
def test_new_message_is_due_at_once_where_times_are_texts() -> None:
    """A sum of times has more digits, and would be due only in the next millisecond."""
    publish("order.created", {"id": 1}, delay=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT next_retry_at = created_at FROM django_outbox_outboxmessage")
        assert cursor.fetchall() == [(1,)]


def test_publishing_sends_no_signals_of_the_model() -> None:
    received: list[Any] = []

    def receive(**signal: Any) -> None:
        received.append(signal)

    post_save.connect(receive, sender=OutboxMessage)
    try:
        publish("order.created", {"id": 1})
        publish_many([Event(type="order.created")])
    finally:
        post_save.disconnect(receive, sender=OutboxMessage)
    assert received == []


def test_defaults() -> None:
    message = row(publish("order.created", {"id": 1}))
    assert message.topic == "outbox"
    assert message.message_key == ""
    assert message.headers == {}
    assert message.event_version == "v1"
    assert message.max_retry == 20
    assert message.event_id.version == 7
    assert (message.publish_count, message.delivery_count, message.retry_count) == (0, 0, 0)


def test_times_are_the_database_clock_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    before = database_time()
    message = publish("order.created", {"id": 1}, delay=60)
    (other,) = publish_many([Event(type="order.created")])
    after = database_time()
    assert before <= message.created_at <= other.created_at <= after
    assert message.next_retry_at == message.created_at + timedelta(seconds=60)
    assert other.next_retry_at == other.created_at


@pytest.mark.parametrize("delay", [90, 1.25, timedelta(hours=5), timedelta(days=3650)])
def test_delayed_message_is_not_due_before(delay: Any) -> None:
    message = row(publish("order.created", {"id": 1}, delay=delay))
    wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    assert message.next_retry_at == message.created_at + wait
    assert not OutboxMessage.objects.due().exists()
    OutboxMessage.objects.update(next_retry_at=F("next_retry_at") - wait - timedelta(milliseconds=1))
    assert OutboxMessage.objects.due().exists()


@pytest.mark.databases("sqlite", "postgresql", "mariadb")  # MySQL's inserts return nothing: the ids are read
def test_publish_is_one_insert() -> None:
    with CaptureQueriesContext(connection) as queries:
        publish("order.created", {"id": 1}, delay=5)
    (query,) = queries.captured_queries
    assert query["sql"].strip().startswith("INSERT INTO")


@pytest.mark.databases("sqlite", "postgresql", "mariadb")
def test_publish_many_is_one_insert() -> None:
    events = [Event(type="order.created", payload={"id": n}) for n in range(20)]
    with CaptureQueriesContext(connection) as queries:
        publish_many(events)
    assert [query["sql"].strip()[:11] for query in queries.captured_queries if "SAVEPOINT" not in query["sql"]] == [
        "INSERT INTO"
    ]


def test_publish_many_keeps_the_order() -> None:
    messages = publish_many(Event(type="order.created", payload=n) for n in range(1500))
    assert [message.payload for message in messages] == list(range(1500))
    assert list(OutboxMessage.objects.order_by("id").values_list("payload", flat=True)) == list(range(1500))


def test_each_event_of_publish_many_may_have_its_own_delay_and_number_of_failures() -> None:
    plain, late = publish_many(
        [Event(type="t"), Event(type="t", delay=timedelta(minutes=1), max_retry=3, headers={"a": "b"})]
    )
    assert (plain.next_retry_at, plain.max_retry, plain.headers) == (plain.created_at, 20, {})
    assert values(late) == values(row(late))
    assert (late.next_retry_at, late.max_retry) == (late.created_at + timedelta(minutes=1), 3)
    assert late.headers == {"a": "b"}
    assert list(OutboxMessage.objects.due()) == [plain]


def test_publish_many_of_nothing_writes_nothing() -> None:
    assert publish_many([]) == []
    assert not OutboxMessage.objects.exists()


def test_publish_many_takes_all_that_an_event_has() -> None:
    event_id = uuid.uuid4()
    (message,) = publish_many(
        [Event(type="t", payload=[1], key="k", headers={"h": "v"}, topic="elsewhere", version="v9", id=str(event_id))]
    )
    message = row(message)
    assert (message.event_type, message.payload, message.message_key, message.headers) == ("t", [1], "k", {"h": "v"})
    assert (message.topic, message.event_version, message.event_id) == ("elsewhere", "v9", event_id)


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_message_is_complete_where_an_insert_returns_nothing_but_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on MySQL.
    for feature in ("can_return_columns_from_insert", "can_return_rows_from_bulk_insert"):
        monkeypatch.setattr(type(connection.features), feature, False)
    messages = [publish("one", 1), *publish_many([Event(type="two", payload=2), Event(type="three", payload=None)])]
    assert [message.event_type for message in OutboxMessage.objects.order_by("id")] == ["one", "two", "three"]
    assert [(message._state.adding, message._state.db) for message in messages] == [(False, "default")] * 3
    assert [values(message) for message in messages] == [values(row(message)) for message in messages]


@pytest.mark.parametrize("event_id", ["01890a5d-ac96-774b-bcce-b302099a8057", uuid.UUID(int=7)])
def test_event_id_may_be_chosen(event_id: Any) -> None:
    message = publish("order.created", 1, event_id=event_id)
    assert message.event_id == row(message).event_id == uuid.UUID(str(event_id))
    message.delete()
    (message,) = publish_many([Event(type="order.created", id=event_id)])
    assert message.event_id == row(message).event_id == uuid.UUID(str(event_id))


def test_max_retry_comes_from_the_argument_else_from_the_settings() -> None:
    with outbox_settings(MAX_RETRY=3):
        assert row(publish("order.created", 1)).max_retry == 3
        assert publish_many([Event(type="order.created")])[0].max_retry == 3
        assert row(publish("order.created", 1, max_retry=7)).max_retry == 7
        assert row(publish("order.created", 1, max_retry=0)).max_retry == 0


# Keys


class Number(models.IntegerChoices):
    SEVEN = 7


@pytest.mark.parametrize(
    ("key", "stored_key"),
    [
        (7, "7"),
        (0, "0"),
        (-1, "-1"),
        (10**254, "1" + "0" * 254),
        (Number.SEVEN, "7"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_key_may_be_a_number_or_a_uuid_as_primary_keys_are(key: Any, stored_key: str) -> None:
    (bulk,) = publish_many([Event(type="order.created", key=key)])
    for message in (publish("order.created", 1, key=key), bulk):
        assert message.message_key == row(message).message_key == stored_key


@pytest.mark.parametrize("key", [True, None, 1.0, b"7"])
def test_any_other_key_is_refused_with_what_to_do(key: Any) -> None:
    with pytest.raises(InvalidMessage, match=rf"not {type(key).__name__}; pass str\(\.\.\.\)$"):
        publish("order.created", 1, key=key)


# Topics


@pytest.mark.parametrize(
    ("event_type", "topic"),
    [
        ("order.created", "orders"),
        ("order.paid.late", "orders"),
        ("invoice.sent", "documents"),
        ("Order.created", "rest"),
        ("orders", "rest"),
        ("user.created", "users-created"),
    ],
)
def test_first_matching_route_names_the_topic(event_type: str, topic: str) -> None:
    routes = {"order.*": "orders", "*.sent": "documents", "*.created": "users-created", "user.*": "never"}
    if event_type == "Order.created":
        del routes["*.created"]
    with outbox_settings(TOPIC="rest", ROUTES=routes):
        assert row(publish(event_type, 1)).topic == topic
        assert publish_many([Event(type=event_type)])[0].topic == topic


def test_topic_argument_beats_routes() -> None:
    with outbox_settings(ROUTES={"*": "routed"}):
        assert publish("order.created", 1, topic="chosen").topic == "chosen"
        assert publish_many([Event(type="order.created", topic="chosen")])[0].topic == "chosen"


@pytest.mark.parametrize("topic", ["a", "A.b_c-9", "...", "x" * 249])
def test_every_topic_that_kafka_allows(topic: str) -> None:
    assert row(publish("order.created", 1, topic=topic)).topic == topic


def test_illegal_topic_of_the_settings_is_refused_too() -> None:
    with outbox_settings(ROUTES={"*": "no topic"}), pytest.raises(InvalidMessage) as error:
        publish("order.created", 1)
    assert error.value.field == "topic"
