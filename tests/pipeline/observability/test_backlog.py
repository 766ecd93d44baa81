"""Gauges from the database: true, cheap, asked seldom, and no trouble of the database is a scrape's."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.observability.backlog import Backlog, Unfinished
from django_outbox.operations import counts
from django_outbox.operations.counts import unfinished
from tests.support.clock import Clock
from tests.support.inbox import make_received
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until

FOUND = {"outbox": Unfinished({"pending": 1}, 2.0, 3.0)}


class Database:
    """Answers as a test wants, and counts how often it was asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds = 0.0
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        self.error: Exception | None = None

    def __call__(self, using: str) -> dict[str, Unfinished]:
        self.asked += 1
        self.clock.now += self.seconds
        self.free.wait()
        if self.error is not None:
            raise self.error
        return FOUND


@pytest.fixture
def database(clock: Clock) -> Database:
    return Database(clock)


@pytest.fixture
def backlog(database: Database, clock: Clock) -> Backlog:
    return Backlog("default", database, clock=clock, wait=10)


# What is found


@pytest.mark.django_db
def test_what_is_unfinished_is_counted_and_aged() -> None:
    for status in ("pending", "pending", "published", "consumed", "dead"):
        make_message(status)
    make_received()
    make_received("dead")
    make_received("consumed")
    now = DatabaseNow()
    oldest = OutboxMessage.objects.order_by("id")[0]
    OutboxMessage.objects.filter(id=oldest.id).update(
        created_at=now - timedelta(hours=2), next_retry_at=now + timedelta(hours=1)
    )
    OutboxMessage.objects.filter(status="pending").exclude(id=oldest.id).update(
        next_retry_at=now - timedelta(minutes=5)
    )
    InboxMessage.objects.filter(status="pending").update(next_retry_at=now + timedelta(hours=1))

    found = unfinished("default")

    assert found["outbox"].counts == {"pending": 2, "published": 1, "dead": 1}
    assert found["outbox"].oldest == pytest.approx(7200, abs=60)
    assert found["outbox"].overdue == pytest.approx(300, abs=60), "what waits for its time is not overdue"
    assert found["inbox"].counts == {"pending": 1, "dead": 1}
    assert found["inbox"].overdue == 0


@pytest.mark.django_db
def test_what_is_sent_and_waits_for_a_handler_here_is_awaited() -> None:
    sent = DatabaseNow() - timedelta(minutes=7)
    make_message("published", event_type="for.others", published_at=DatabaseNow() - timedelta(hours=1))
    assert unfinished("default")["outbox"].awaited == 0
    make_message("published", event_type="test.effect", published_at=sent)  # a handler of tests.support.app
    found = unfinished("default")
    assert found["outbox"].awaited == pytest.approx(420, abs=60)
    assert found["outbox"].overdue == found["inbox"].awaited == 0


@pytest.mark.django_db
@pytest.mark.parametrize("unknown_event", ["ignore", "dead"])
def test_a_copy_of_a_dead_letter_is_not_awaited(unknown_event: str) -> None:
    """Or it would be late for ever: its type has a handler here, its topic is for others."""
    sent = DatabaseNow() - timedelta(minutes=7)
    make_message("published", event_type="test.effect", topic="shop.dead", published_at=sent)
    assert unfinished("default")["outbox"].awaited == pytest.approx(420, abs=60)
    with outbox_settings(DEAD_LETTER_TOPIC="shop.dead", UNKNOWN_EVENT=unknown_event):
        assert unfinished("default")["outbox"].awaited == 0


@pytest.mark.django_db
def test_where_nothing_is_unfinished_all_is_zero() -> None:
    make_message("consumed")
    assert unfinished("default") == {
        "outbox": Unfinished({"pending": 0, "published": 0, "dead": 0}, 0.0, 0.0),
        "inbox": Unfinished({"pending": 0, "dead": 0}, 0.0, 0.0),
    }


@pytest.mark.django_db
def test_more_than_a_million_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_COUNTED", 3)
    for _ in range(5):
        make_message()
    assert unfinished("default")["outbox"].counts["pending"] == 3


@pytest.mark.databases("postgresql")
@pytest.mark.django_db
def test_no_question_walks_the_table() -> None:
    from django.test.utils import CaptureQueriesContext

    OutboxMessage.objects.bulk_create(OutboxMessage(topic="outbox", payload=1) for _ in range(2000))
    InboxMessage.objects.bulk_create(
        InboxMessage(topic="elsewhere", partition=0, offset=number, event_id=str(number)) for number in range(2000)
    )
    with CaptureQueriesContext(connection) as queries:
        unfinished("default")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_outbox_outboxmessage, django_outbox_inboxmessage")
        cursor.execute("SET LOCAL enable_seqscan = off")
        for query in queries:
            cursor.execute(f"EXPLAIN {query['sql']}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Index" in plan, plan
            assert "Sort" not in plan, plan
    awaited = [query for query in queries if '"event_type" = ' in query["sql"]]
    assert len(queries) - len(awaited) == 12


def ask_among_much() -> list[str]:
    """What is asked where a third is unfinished, and older rows are not."""
    from django.test.utils import CaptureQueriesContext

    ended: dict[str, Any] = {"next_retry_at": None, "publish_count": 1}
    consumed = {**ended, "consumed_at": timezone.now()}
    for status, number, values in (("consumed", 6000, consumed), ("pending", 2000, {}), ("published", 2000, ended)):
        values = {"event_type": "test.effect", "topic": "outbox", "payload": 1, "status": status, **values}
        OutboxMessage.objects.bulk_create(OutboxMessage(**values) for _ in range(number))
    for status in ("consumed", "pending"):
        values = {"next_retry_at": None, "consumed_at": timezone.now()} if status == "consumed" else {}
        InboxMessage.objects.bulk_create(
            InboxMessage(topic="a", partition=0, offset=number, event_id=f"{status}{number}", status=status, **values)
            for number in range(2000)
        )
    table = "TABLE" if connection.vendor == "mysql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {table} django_outbox_outboxmessage, django_outbox_inboxmessage")
    with outbox_settings(UNKNOWN_EVENT="dead"), CaptureQueriesContext(connection) as queries:
        unfinished("default")
    return [query["sql"] for query in queries]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_the_oldest_are_found_without_what_is_consumed_and_without_sorting() -> None:
    for query in ask_among_much():
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {query}")
            plan = str(cursor.fetchall())
        assert "filesort" not in plan, query
        assert "_pkey" not in plan, f"{query} {plan}"


# How often it is asked


def test_a_hundred_scrapes_ask_once(backlog: Backlog, database: Database) -> None:
    assert [backlog.read() for _ in range(100)] == [FOUND] * 100
    assert database.asked == 1


def test_it_is_asked_again_after_fifteen_seconds(backlog: Backlog, database: Database, clock: Clock) -> None:
    backlog.read()
    clock.now += 14
    backlog.read()
    assert database.asked == 1
    clock.now += 2
    backlog.read()
    assert database.asked == 2


def test_a_question_that_takes_long_is_asked_seldom(backlog: Backlog, database: Database, clock: Clock) -> None:
    database.seconds = 0.5
    backlog.read()
    clock.now += 45
    backlog.read()
    assert database.asked == 1
    clock.now += 10
    backlog.read()
    assert database.asked == 2


def test_numbers_do_not_go_while_a_busy_database_answers(backlog: Backlog, database: Database, clock: Clock) -> None:
    """Or an alarm that waits for two minutes of them would never ring, just when there is much to count."""
    database.seconds = 5
    for _ in range(60):
        assert backlog.read() == FOUND
        clock.now += 10
    assert database.asked <= 11


def test_a_database_that_is_back_is_asked_soon_however_long_it_hung(
    backlog: Backlog, database: Database, clock: Clock
) -> None:
    database.error = OperationalError("connection timed out")
    database.seconds = 130
    assert backlog.read() == {}
    database.error, database.seconds = None, 0
    clock.now += 60
    assert backlog.read() == FOUND


def test_scrapes_at_the_same_time_share_one_question(database: Database, clock: Clock) -> None:
    backlog = Backlog("default", database, clock=clock, wait=0.01)
    database.free.clear()
    assert [backlog.read() for _ in range(20)] == [{}] * 20
    assert database.asked == 1
    database.free.set()
    wait_until(lambda: backlog.read() == FOUND)
    assert database.asked == 1


# Without a database


def test_a_database_that_hangs_keeps_no_scrape_and_old_numbers_go_after_two_minutes(
    database: Database, clock: Clock
) -> None:
    backlog = Backlog("default", database, clock=clock, wait=0.01)
    wait_until(lambda: backlog.read() == FOUND)
    database.free.clear()
    clock.now += 20
    assert backlog.read() == FOUND
    clock.now += 120
    assert backlog.read() == {}, "no number is better than one that is not true any more"
    wait_until(lambda: database.asked == 2)
    assert backlog.read() == {}
    assert database.asked == 2, "it is asked no more while it hangs"
    database.free.set()
    wait_until(lambda: backlog.read() == FOUND)


def test_a_database_that_is_away_is_no_error_of_a_scrape(backlog: Backlog, database: Database, clock: Clock) -> None:
    database.error = OperationalError("connection refused")
    assert backlog.read() == {}
    assert backlog.read() == {}
    assert database.asked == 1
    database.error = None
    clock.now += 20
    assert backlog.read() == FOUND


@pytest.mark.django_db(transaction=True)
def test_it_asks_over_a_connection_of_its_own_and_keeps_none() -> None:
    make_message()
    threads = set(threading.enumerate())
    assert Backlog("default", unfinished, wait=10).read()["outbox"].counts["pending"] == 1
    wait_until(lambda: set(threading.enumerate()) <= threads)
