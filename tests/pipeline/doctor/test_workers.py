"""Relays and consumers that do not run, vanished, are in trouble or of another version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from django_outbox.models import Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.doctor import sessions, workers
from django_outbox.operations.doctor.base import Installation, Level
from django_outbox.state import pauses
from django_outbox.worker.heartbeat import own_version
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(minutes=10)


def make_worker(kind: str, seen: timedelta = timedelta(0), **fields: Any) -> Worker:
    values = {"host": "web-1", "pid": 7, "version": own_version(), "state": "working", **fields}
    return Worker.objects.create(kind=kind, last_seen_at=DatabaseNow() - seen, **values)


def test_workers_that_run_are_fine(installation: Installation) -> None:
    make_worker("relay")
    make_worker("consumer")
    for find in (workers.relays, workers.consumers, workers.troubles, workers.versions):
        assert list(find(installation)) == []


@pytest.mark.parametrize(
    ("find", "kind", "command"),
    [(workers.relays, "relay", "outbox_relay"), (workers.consumers, "consumer", "outbox_consume")],
)
def test_nobody_who_runs_is_warned_of_and_a_fault_once_something_waits(
    installation: Installation, find: Any, kind: str, command: str
) -> None:
    make_worker("consumer" if kind == "relay" else "relay")
    make_worker(kind, seen=timedelta(minutes=2))  # lost
    (finding,) = find(installation)
    assert (finding.level, finding.summary) == (Level.WARNING, f"No {kind} is running.")
    assert finding.remedy.startswith(f"manage.py {command},")

    late = DatabaseNow() - LONG_AGO
    if kind == "relay":
        make_message(next_retry_at=late)
    else:
        make_message(Status.PUBLISHED, event_type="test.effect", published_at=late)
    (finding,) = find(installation)
    assert finding.level == Level.FAULT
    assert "for 0:10:0" in finding.why


def test_a_group_with_handlers_that_nobody_consumes_is_warned_of(installation: Installation) -> None:
    main, other = installation.topics
    make_worker("consumer", group=main)
    make_worker("consumer", group=other, seen=timedelta(minutes=2))  # lost
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.summary) == (Level.WARNING, f"No consumer of the group {other!r} is running.")
    assert finding.remedy == f"manage.py outbox_consume --group {other}"
    make_worker("consumer", group=other)
    assert list(workers.consumers(installation)) == []


@pytest.mark.parametrize(
    ("fields", "why", "remedy"),
    [
        ({"rate": 0.0}, "nothing was {done} at the last heartbeat", "Check the log of the {kind}"),
        ({"rate": 12.5}, "12.5 messages per second", "start"),
        ({"seen": timedelta(seconds=40)}, "No heartbeat from web-1:7", "restart"),
    ],
)
@pytest.mark.parametrize(
    ("find", "kind", "done"), [(workers.relays, "relay", "sent"), (workers.consumers, "consumer", "handled")]
)
def test_messages_that_wait_although_a_worker_runs_are_a_fault_with_its_cause(
    installation: Installation, find: Any, kind: str, done: str, fields: dict[str, Any], why: str, remedy: str
) -> None:
    make_worker("consumer", group="reports")
    make_worker(kind, group="tests" if kind == "consumer" else "", **fields)
    assert list(find(installation)) == []
    late = DatabaseNow() - LONG_AGO
    if kind == "relay":
        make_message(next_retry_at=late)
    else:
        make_message(Status.PUBLISHED, event_type="test.effect", published_at=late)
    (finding,) = find(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, f"The {kind} is behind.")
    assert finding.why.startswith(f"Messages have waited to be {done} for 0:1")
    assert why.format(done=done) in finding.why
    assert remedy.format(kind=kind) in finding.remedy


def test_a_worker_in_trouble_says_itself_why_messages_wait(installation: Installation) -> None:
    make_worker("relay", trouble="kafka://nowhere:9092 cannot be reached.", state="trouble")
    make_message(next_retry_at=DatabaseNow() - LONG_AGO)
    assert list(workers.relays(installation)) == []
    assert [finding.level for finding in workers.troubles(installation)] == [Level.FAULT]


@pytest.mark.parametrize("group", ["reports", "of.another.project"])
def test_late_messages_in_the_inbox_are_a_fault(installation: Installation, group: str) -> None:
    make_worker("consumer", group="tests")
    if group != "reports":
        make_worker("consumer", group="reports")
    make_received(group=group, next_retry_at=DatabaseNow() - LONG_AGO)
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, f"No consumer of the group {group!r} is running.")
    assert finding.remedy == f"manage.py outbox_consume --group {group}"
    make_worker("consumer", group=group)
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, f"The inbox of the group {group!r} is behind.")


def test_a_main_group_without_consumer_is_a_fault_once_messages_wait(installation: Installation) -> None:
    make_worker("consumer", group="reports")
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.summary) == (Level.WARNING, "No consumer of the group 'tests' is running.")
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - LONG_AGO)
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.remedy) == (Level.FAULT, "manage.py outbox_consume")


def test_without_any_consumer_the_inbox_is_told_of_once(installation: Installation) -> None:
    make_received(group="reports", next_retry_at=DatabaseNow() - LONG_AGO)
    (finding,) = workers.consumers(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "No consumer is running.")
    assert finding.why.startswith("Messages have waited to be handled for 0:1")


def test_a_worker_that_vanished_is_warned_of(installation: Installation) -> None:
    make_worker("relay", seen=timedelta(minutes=5))
    (finding,) = workers.troubles(installation)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("The relay web-1:7 was last seen 0:05:0")


def test_a_worker_in_trouble_is_a_fault_with_its_words(installation: Installation) -> None:
    make_worker("consumer", state="trouble", trouble="A topic is missing: orders")
    (finding,) = workers.troubles(installation)
    assert finding.level == Level.FAULT
    assert finding.summary == "The consumer web-1:7 is in trouble: A topic is missing: orders"


def test_workers_of_another_version_are_warned_of(installation: Installation) -> None:
    make_worker("relay")
    make_worker("consumer", version="0.0.1")
    make_worker("consumer", version="0.0.1", seen=timedelta(minutes=5))  # lost: told as such
    (finding,) = workers.versions(installation)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("1 worker of another version than")
    assert "consumer web-1:7 (0.0.1)" in finding.summary


def test_a_group_that_no_handler_names_takes_the_place_of_the_main_one(installation: Installation) -> None:
    _, other = installation.topics
    make_worker("consumer", group="blue")
    make_worker("consumer", group=other)
    assert list(workers.consumers(installation)) == []


@pytest.mark.parametrize("by_breaker", [True, False])
def test_pauses_are_warned_of_with_their_reason_and_how_to_end_them(
    installation: Installation, by_breaker: bool
) -> None:
    assert list(workers.pauses(installation)) == []
    if by_breaker:
        pauses.trip("tests", "shop.ship", timedelta(minutes=1), "failed", using="default")
    else:
        pauses.pause("tests", event_type="order.*", reason="a bug", by="ada", using="default")
    (finding,) = workers.pauses(installation)
    assert finding.level == Level.WARNING
    assert ("A message is tried from time to time" in finding.why) == by_breaker
    if by_breaker:
        assert finding.summary == "shop.ship is paused in the group tests, by circuit breaker: failed"
        assert finding.remedy.endswith("manage.py outbox_resume --handler shop.ship")
    else:
        assert finding.summary == "order.* is paused in the group tests, by ada: a bug"
        assert finding.remedy.endswith("manage.py outbox_resume --event-type 'order.*'")


# Their connections


def free_connections() -> int:
    """The connections that the server has for roles without privileges."""
    names = {
        "postgresql": ("max_connections", "superuser_reserved_connections"),
        "mysql": ("max_connections",),
    }[connection.vendor]
    with connection.cursor() as cursor:
        numbers = []
        for name in names:
            cursor.execute(f"SHOW {name}" if connection.vendor == "postgresql" else f"SELECT @@{name}")
            numbers.append(int(cursor.fetchone()[0]))
    return numbers[0] - sum(numbers[1:])


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_workers_that_need_more_connections_than_there_are_are_a_fault(installation: Installation) -> None:
    free = free_connections()
    make_worker("relay")  # two
    make_worker("consumer")  # two, whose only lane works in the loop's connection
    make_worker("consumer", lanes=1000, seen=timedelta(minutes=2))  # lost
    many = make_worker("consumer", lanes=free - 6)  # and two
    assert list(sessions.connections(installation)) == []
    Worker.objects.filter(id=many.id).update(lanes=free - 5)
    (finding,) = sessions.connections(installation)
    assert finding.level == Level.FAULT
    assert finding.summary == (
        f"Running workers need up to {free + 1} connections ({free - 1} for consumers, 2 for relays), and the server "
        f"allows {free}."
    )
    reserved = 3 if connection.vendor == "postgresql" else 0
    assert f"raise max_connections to more than {free + 1 + reserved}" in finding.remedy


@pytest.mark.databases("postgresql")
def test_relays_that_listen_need_one_connection_more(installation: Installation) -> None:
    make_worker("relay")
    make_worker("consumer", lanes=free_connections() - 4)
    assert list(sessions.connections(installation)) == []
    with outbox_settings(NOTIFY=True):
        (finding,) = sessions.connections(installation)
    assert "3 for relays" in finding.summary


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_workers_of_all_services_that_share_the_tables_need_connections(installation: Installation) -> None:
    make_worker("consumer", lanes=free_connections(), source="billing")
    assert [finding.level for finding in sessions.connections(installation)] == [Level.FAULT]
