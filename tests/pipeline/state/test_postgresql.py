"""PostgreSQL's own way to insert: in few statements, and what it returns is what was stored."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_outbox.models import OutboxMessage
from django_outbox.state.dialects import postgresql
from django_outbox.state.dialects.postgresql import PostgreSQL
from django_outbox.state.rows import NewMessage

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
    [([10, 10], 1), ([15, 10], 1), ([15, 11], 2), ([10, 10, 10, 10], 2), ([40], 1), ([40, 40], 2), ([10, 40, 10], 3)],
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
