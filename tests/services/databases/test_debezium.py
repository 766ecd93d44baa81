"""What PostgreSQL tells of its log, and what another session has not committed yet."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.expressions import RawSQL
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox import publish
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import outbox
from django_outbox.state import undelivered as state
from django_outbox.state.dialects.results import LogPosition
from django_outbox.state.ordering import unhandled_before
from tests.services.databases.test_postgresql import analyze, plan_of, rows_read
from tests.support.outbox import in_thread, make_message, row, statuses
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.databases("postgresql"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("debezium"),  # all databases of a server share the names of slots
]

SLOT = "outbox_tests"


def execute(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def position() -> LogPosition:
    found = state.log_position(SLOT, using="default")
    assert found is not None
    return found


@pytest.fixture
def debezium(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium"}


@pytest.fixture
def slot() -> Iterator[None]:
    execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    yield
    execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


def requeue(horizon: str | None) -> int:
    return state.requeue_undelivered(
        "outbox", age=timedelta(0), horizon=horizon, most=10_000, event_types=["order.created"], using="default"
    )


def horizon_behind(message: OutboxMessage) -> str:
    """One behind the commit of a message. Transactions of other databases hold it back, too."""

    def has_passed() -> bool:
        xmin = OutboxMessage.objects.filter(id=message.id).values_list(RawSQL("xmin::text", []), flat=True).get()
        return int(position().horizon) > int(xmin)

    wait_until(has_passed)
    return position().horizon


def test_without_a_slot_nothing_is_known_to_be_sent() -> None:
    found = position()
    assert (found.sent, found.is_active) == (None, False)
    assert found.written > 0


def test_a_slot_says_how_far_the_connector_is(slot: None) -> None:
    make_message()
    before = position()
    assert before.sent is not None
    assert before.sent < before.written
    assert not before.is_active
    make_message()  # the end of the log is on the disk
    execute(f"SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_insert_lsn())")
    after = position()
    assert after.sent is not None
    assert after.sent >= before.written


def test_a_slot_of_another_kind_or_database_is_none_of_ours() -> None:
    execute(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
    try:
        assert position().sent is None
    finally:
        execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


def test_what_another_session_commits_later_is_left_to_the_next_search(debezium: None) -> None:
    """Debezium sends it later than the end of the log at that time."""
    inserted, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with transaction.atomic():
            publish("order.created", 1, key="a")
            inserted.set()
            assert may_commit.wait(30)

    with in_thread(write_slowly):
        assert inserted.wait(30)
        with transaction.atomic():
            committed = publish("order.created", 2, key="b")
        found = position()
        may_commit.set()
    assert statuses() == ["published", "published"]

    assert requeue(found.horizon) == 0  # a transaction that began earlier had not ended yet
    assert requeue(horizon_behind(committed)) == 2


def test_what_was_inserted_long_ago_is_not_kept_by_a_transaction_that_does_not_end(debezium: None) -> None:
    with transaction.atomic():
        message = publish("order.created", 1, key="a")
    OutboxMessage.objects.update(published_at=timezone.now() - timedelta(hours=2))
    assert requeue("3") == 1
    assert row(message).status == "pending"


def test_what_was_committed_before_is_found_and_what_is_locked_is_left_alone(debezium: None) -> None:
    with transaction.atomic():
        first, _ = publish("order.created", 1, key="a"), publish("order.created", 2, key="b")
    horizon = horizon_behind(first)
    with transaction.atomic():
        publish("order.created", 3, key="c")
    with transaction.atomic():
        OutboxMessage.objects.select_for_update().get(id=first.id)
        with in_thread(lambda: requeue(horizon)):
            pass
    assert statuses() == ["published", "pending", "published"]


def test_of_what_debezium_carries_a_message_waits_for_the_first_whatever_its_type() -> None:
    """An index has the types in another order."""
    fields: dict[str, Any] = {"message_key": "a", "published_at": DatabaseNow()}
    first = make_message("published", event_type="order.created", **fields)
    make_message("published", event_type="closed", **fields)
    make_message("published", event_type="not.handled", **fields)
    last = make_message("published", event_type="order.created", partition=0, offset=0, **fields)
    with transaction.atomic():
        locked = list(outbox.lock([last.id], using="default").values())
        found = unhandled_before(locked, lambda topic: ["closed", "order.created"], using="default")
    assert found[last.id].id == first.id


# Plans


def fill(number: int, *, placed: bool) -> None:
    """Published messages of one key, that the relay sent or that Debezium carries."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (source, event_id, event_type, event_version, topic, message_key,"
            " payload, headers, status, publish_count, delivery_count, retry_count, max_retry, last_error, next_retry_at,"
            ' published_at, "partition", "offset")'
            " SELECT 'tests', gen_random_uuid(), 'order.created', 'v1', 'outbox', 'a', '1', '{}', 'published', 1, 0, 0,"
            " 20, '', NULL, now(), CASE WHEN %s THEN 0 END, CASE WHEN %s THEN n END FROM generate_series(1, %s) n",
            [placed, placed, number],
        )


@pytest.mark.parametrize("analyzed", ["empty", "uncommitted", "full"])
@pytest.mark.parametrize("placed", [False, True], ids=["debezium", "relay"])
@pytest.mark.parametrize("begin", [0, 5000, 9800, 10000])
def test_what_comes_before_a_batch_is_found_in_few_steps_however_many_messages_its_key_has(
    analyzed: str, placed: bool, begin: int
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE django_outbox_outboxmessage CASCADE")
    if analyzed == "empty":
        analyze()
    with transaction.atomic():
        fill(10_000, placed=placed)
        fill(200, placed=True)
        if analyzed == "uncommitted":  # it counts no rows in many pages
            with in_thread(analyze):
                pass
    if analyzed == "full":
        analyze()
    ids = list(OutboxMessage.objects.order_by("id").values_list("id", flat=True))[begin : begin + 200]
    with transaction.atomic():
        batch = list(outbox.lock(ids, using="default").values())
        with CaptureQueriesContext(connection) as queries:
            blockers = unhandled_before(batch, lambda topic: ["order.created", "other"], using="default")
    assert len(blockers) == (200 if begin == 10_000 or (placed and begin) else 0)
    for query in queries:
        plan = plan_of(query["sql"])
        assert rows_read(plan) <= 2 * 200, json.dumps(plan, indent=1)
