"""PostgreSQL's own statements: inserts in few of them, and a look at earlier messages that few keep short."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.events.writer import Outgoing
from django_outbox.models import OutboxMessage
from django_outbox.state.dialects import postgresql
from django_outbox.state.dialects.postgresql import START, PostgreSQL
from django_outbox.state.dialects.results import Unsent
from django_outbox.state.rows import NewMessage
from tests.support.outbox import make_message, make_sent

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db]


def new(**fields: Any) -> NewMessage:
    known = {
        "event_id": uuid.uuid4(),
        "event_type": "order.created",
        "event_version": "v1",
        "topic": "outbox",
        "message_key": "k",
        "headers": {"name": "text"},
        "payload_json": '{"order": 1}',
        "payload": {"order": 1},
        "max_retry": 7,
        "delay": timedelta(0),
    }
    return NewMessage(**{**known, **fields})


def raw(content_type: str, value: bytes | None, **fields: Any) -> NewMessage:
    return new(payload_json="null", payload=None, content_type=content_type, raw_value=value, **fields)


def columns_of(message: OutboxMessage) -> dict[str, Any]:
    found = {field.attname: getattr(message, field.attname) for field in OutboxMessage._meta.concrete_fields}
    return {**found, "raw_value": None if found["raw_value"] is None else bytes(found["raw_value"])}


@pytest.mark.parametrize(
    "messages",
    [
        [new()],
        [new(headers={}, message_key="")],
        [new(delay=timedelta(hours=1, microseconds=3))],
        [new(by_debezium=True)],
        [new(event_type="order.paid", topic="paid"), new(headers={}, delay=timedelta(seconds=1, microseconds=5))],
        [raw("text/csv", b"a,b\0")],
        [raw("", None)],
        [new(), raw("text/csv", b"\xff")],
        [new(), new(by_debezium=True)],
        [raw("text/csv", b"a", by_debezium=True), new(by_debezium=True), raw("", None)],
    ],
)
def test_what_is_returned_is_what_was_stored(messages: list[NewMessage]) -> None:
    returned = PostgreSQL("default").insert(messages)
    stored = [*OutboxMessage.objects.order_by("id")]
    assert [columns_of(message) for message in returned] == [columns_of(message) for message in stored]
    assert [message._state.db for message in returned] == ["default"] * len(messages)
    for given, row in zip(messages, stored, strict=True):
        assert (row.event_id, row.event_type, row.topic) == (given.event_id, given.event_type, given.topic)
        assert (row.headers, row.payload, row.max_retry) == (given.headers, given.payload, given.max_retry)
        assert (row.content_type, columns_of(row)["raw_value"]) == (given.content_type, given.raw_value)
        assert row.status == ("published" if given.by_debezium else "pending")
        if row.next_retry_at is not None:
            assert row.next_retry_at - row.created_at == given.delay


def statements_for(messages: list[NewMessage]) -> list[str]:
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        PostgreSQL("default").insert(messages)
    assert [*OutboxMessage.objects.order_by("id").values_list("event_id", flat=True)] == [
        message.event_id for message in messages
    ]
    return [query["sql"].split()[0] for query in queries]


@pytest.mark.parametrize(("count", "statements"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_a_statement_inserts_so_many(monkeypatch: pytest.MonkeyPatch, count: int, statements: int) -> None:
    monkeypatch.setattr(postgresql, "INSERT_SIZE", 2)
    assert statements_for([new() for _ in range(count)]) == ["INSERT"] * statements


@pytest.mark.parametrize(
    ("sizes", "statements"),
    [
        ([10, 10], 1),
        ([15, 10], 1),
        ([15, 11], 2),
        ([10, 10, 10, 10], 2),
        ([40], 1),
        ([40, 40], 2),
        ([10, 40, 10], 3),
        ([20, 20, 5], 2),
    ],
)
@pytest.mark.parametrize("is_json", [True, False])
def test_a_statement_inserts_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], statements: int, is_json: bool
) -> None:
    monkeypatch.setattr(postgresql, "INSERT_BYTES", 25)
    messages = [
        new(payload_json=f'"{"x" * (size - 2)}"') if is_json else raw("text/csv", bytes(size - len("null")))
        for size in sizes
    ]
    assert statements_for(messages) == ["INSERT"] * statements


@pytest.mark.django_db(transaction=True)
def test_of_several_statements_all_or_none_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "INSERT_SIZE", 2)
    message = new()
    with pytest.raises(IntegrityError):
        PostgreSQL("default").insert([message, new(), message])
    assert not OutboxMessage.objects.exists()


def test_an_error_ends_the_transaction_around_it() -> None:
    message = new()
    with pytest.raises(IntegrityError), transaction.atomic():  # noqa: PT012
        PostgreSQL("default").insert([message])
        with pytest.raises(IntegrityError):
            PostgreSQL("default").insert([message])
        assert connection.needs_rollback
        raise IntegrityError


# Earlier messages


@pytest.fixture
def earlier() -> dict[str, int]:
    """Ids of messages of some keys that are not due, or dead, before ``batch`` of the same keys."""
    later = timezone.now() + timedelta(hours=1)
    return {
        "a, dead": make_message("dead", message_key="a").id,
        "b": make_message(message_key="b", next_retry_at=later).id,
        "a": make_message(message_key="a", next_retry_at=later).id,
        "c": make_message(message_key="c", next_retry_at=later).id,
    }


@pytest.fixture
def batch(earlier: dict[str, int]) -> list[OutboxMessage]:
    return [make_message(message_key=key) for key in ("a", "b", "c", "free")]


def claim_with_pending() -> tuple[list[Outgoing], list[Unsent]]:
    return PostgreSQL("default").claim_with_pending(10, [], START)


@pytest.mark.usefixtures("batch")
@pytest.mark.parametrize("most", [1, 2, 3, 1000])
@pytest.mark.parametrize(("holds_dead", "is_read"), [(False, False), (False, True), (True, False)])
def test_the_first_of_each_key_is_found_however_many_a_look_shows(
    monkeypatch: pytest.MonkeyPatch, earlier: dict[str, int], most: int, holds_dead: bool, is_read: bool
) -> None:
    monkeypatch.setattr(postgresql, "MOST_PENDING_BEFORE", most)
    with transaction.atomic():
        keyed, pending = claim_with_pending()
        assert len(pending) == min(most, 3)
        found = PostgreSQL("default").unsent_before(
            keyed,
            [message.id for message in keyed],
            dead=holds_dead,
            pending=pending if is_read else None,
        )
    first_of_a = earlier["a, dead" if holds_dead else "a"]
    assert found == {("outbox", "a"): first_of_a, ("outbox", "b"): earlier["b"], ("outbox", "c"): earlier["c"]}


def test_what_a_claim_has_read_is_not_asked_for_again(
    batch: list[OutboxMessage], earlier: dict[str, int], django_assert_num_queries: Any
) -> None:
    with transaction.atomic():
        keyed, pending = claim_with_pending()
        assert [message.id for message in keyed] == [message.id for message in batch]
        assert {*pending} == {Unsent("outbox", key, earlier[key], "pending") for key in ("a", "b", "c")}
        with django_assert_num_queries(0):
            PostgreSQL("default").unsent_before(keyed, [each.id for each in keyed], dead=False, pending=pending)


def test_a_message_waits_for_another_one_than_the_last_of_its_key(django_assert_num_queries: Any) -> None:
    waiting = make_message(message_key="k", next_retry_at=timezone.now() + timedelta(hours=1))
    first = make_sent(message_key="k", offset=1)
    dead = make_message("dead", message_key="k")
    last = make_sent(message_key="k", offset=2)
    make_sent(message_key="free")
    with transaction.atomic():
        locked = PostgreSQL("default").lock([first.id, last.id])
        with django_assert_num_queries(2):
            found = PostgreSQL("default").unhandled_before(locked, ["order.created"], dead=True)
    assert {id: each.id for id, each in found.items()} == {first.id: waiting.id, last.id: dead.id}


def test_messages_that_wait_for_the_same_one_take_one_look(django_assert_num_queries: Any) -> None:
    waiting = make_message(message_key="k", next_retry_at=timezone.now() + timedelta(hours=1))
    sent = [make_sent(message_key=key, offset=n).id for n, key in enumerate(["k", "k", "free"])]
    with transaction.atomic():
        locked = PostgreSQL("default").lock(sent)
        with django_assert_num_queries(1):
            found = PostgreSQL("default").unhandled_before(locked, ["order.created"], dead=True)
    assert {id: each.id for id, each in found.items()} == dict.fromkeys(sent[:2], waiting.id)


# Reports


def test_the_oldest_is_the_first_without_an_index_too() -> None:
    messages = [make_message() for _ in range(3)]
    OutboxMessage.objects.filter(id=messages[0].id).update(id=1)  # if it was not the first of all
    OutboxMessage.objects.filter(id=messages[1].id).update(last_error="once")  # each change moves a row
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
    found = PostgreSQL("default").oldest_first(OutboxMessage.objects.all(), "pending")
    assert [message.id for message in found] == [1, messages[1].id, messages[2].id]
