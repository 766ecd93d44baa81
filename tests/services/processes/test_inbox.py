"""Events of other services, through real commands that are killed, on a real broker."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from django_outbox.brokers.base import Record
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings as outbox
from django_outbox.models import InboxMessage
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]
Foreign = Callable[..., None]


def _send(records: list[Record], *, partitions: int) -> None:
    broker = get_broker(outbox.broker)
    broker.create_topics([outbox.topic], partitions=partitions, replication=1)
    producer = broker.producer(30)
    try:
        producer.send(records, 30)
    finally:
        producer.close()


@pytest.fixture
def foreign(kafka_outbox: Any) -> Foreign:
    """Send events as another service does, each by id, type, payload and key."""
    return lambda *events: _send([_record(*event) for event in events], partitions=3)


@pytest.fixture
def plain(kafka_outbox: Any) -> Callable[..., None]:
    """Send values that are no events, in one order."""
    return lambda *values: _send([Record(outbox.topic, None, value, ()) for value in values], partitions=1)


def _record(event_id: str, event_type: str, payload: Any, key: str) -> Record:
    headers = {"ce_specversion": "1.0", "ce_id": event_id, "ce_source": "warehouse", "ce_type": event_type}
    value = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Record(outbox.topic, key.encode(), value, tuple((name, text.encode()) for name, text in headers.items()))


@pytest.fixture
def inbox(transactional_db: None) -> Callable[[], Counter[str]]:
    """How many messages of the inbox are in which state."""
    return lambda: Counter(InboxMessage.objects.values_list("status", flat=True))


def test_consumers_that_are_killed_handle_foreign_events_once_and_in_order(
    foreign: Foreign, consumer: Start, inbox: Any, effects: Any
) -> None:
    """Under load, with copies and failures among them."""
    number = 300
    events = [(f"e{n}", "test.fails_once" if n % 40 == 3 else "test.effect", n, str(n % 7)) for n in range(number)]
    foreign(*events, *events[::3])
    chance = random.Random(7)
    commands = [consumer("--batch-size", 5), consumer("--batch-size", 5)]

    for _ in range(6):
        done = inbox()["consumed"]
        wait_until(lambda done=done: inbox()["consumed"] > done or inbox()["consumed"] == number, 60)
        index = chance.randrange(2)
        commands[index].kill()
        commands[index] = consumer("--batch-size", 5)

    wait_until(lambda: inbox() == {"consumed": number}, 120)
    handled = [int(name.split()[1]) for name in effects()]
    assert Counter(handled) == Counter(range(number))
    for key in range(7):
        of_key = [n for n in handled if n % 7 == key]
        assert of_key == sorted(of_key)
    assert all(command.stop() == 0 for command in commands)


@pytest.mark.parametrize(("event_type", "ending"), [("test.exits", 7), ("test.is_killed", -signal.SIGKILL)])
def test_a_foreign_event_that_takes_its_process_down_is_dead_after_max_deliveries(
    event_type: str, ending: int, foreign: Foreign, consumer: Start, inbox: Any, effects: Any
) -> None:
    foreign(("e1", event_type, None, "a"), ("e2", "test.effect", "neighbour", "b"))
    env = {"OUTBOX_MAX_DELIVERIES": "2"}

    endings = [consumer(env=env).wait(60) for _ in range(2)]
    command = consumer(env=env)
    wait_until(lambda: inbox() == {"dead": 1, "consumed": 1}, 60)

    assert endings == [ending, ending]
    assert command.stop() == 0
    assert effects() == ["test.effect neighbour"]
    assert InboxMessage.objects.get(status="dead").last_error.startswith(
        "It took its process down 2 times (MAX_DELIVERIES)"
    )


def test_a_record_whose_mapper_takes_the_process_down_is_dead_after_max_deliveries(
    plain: Callable[..., None], consumer: Start, inbox: Any, effects: Any
) -> None:
    plain(b"before", b"exit", b"neighbour")
    env = {
        "OUTBOX_MAX_DELIVERIES": "2",
        "OUTBOX_INBOX": json.dumps({outbox.topic: "tests.support.app.legacy.to_event"}),
    }

    endings = [consumer(env=env).wait(60) for _ in range(2)]
    command = consumer(env=env)
    wait_until(lambda: inbox() == {"dead": 1, "consumed": 2}, 60)

    assert endings == [7, 7]
    assert command.stop() == 0
    assert effects() == ["test.effect before", "test.effect neighbour"]
    dead = InboxMessage.objects.get(status="dead")
    assert dead.last_error.startswith("It took its process down 2 times (MAX_DELIVERIES)")
    assert bytes(dead.raw_value) == b"exit"


def test_what_cannot_be_read_is_dead_and_what_follows_is_handled(
    foreign: Foreign, consumer: Start, manage: Start, inbox: Any
) -> None:
    consumer()
    foreign(("e1", "test.effect", b"\xff\0", "a"), ("", "test.effect", 1, "a"), ("e2", "test.effect", 2, "a"))
    wait_until(lambda: inbox() == {"dead": 2, "consumed": 1})

    assert manage("outbox_retry", "--inbox", "--all").wait() == 0

    wait_until(lambda: inbox() == {"dead": 2, "consumed": 1})
    assert bytes(InboxMessage.objects.filter(status="dead").order_by("id")[0].raw_value) == b"\xff\0"


def test_a_group_of_its_own_handles_all_events_beside_the_main_one(
    foreign: Foreign, send: Any, relay: Start, consumer: Start, inbox: Any, consumed: Any, effects: Any, topic: str
) -> None:
    group = f"{topic}-reports"
    env = {"OUTBOX_REPORTS_GROUP": group}
    foreign(("e1", "test.effect", "foreign", "a"))
    send("test.effect", "own", key="a")
    relay()
    consumer(env=env)
    consumer("--group", group, env=env)

    consumed(1)
    wait_until(lambda: inbox() == {"consumed": 3})

    assert sorted(effects()) == ["reported foreign", "reported own", "test.effect foreign", "test.effect own"]


def test_drain_handles_what_is_due_in_the_inbox_and_leaves_the_rest(
    foreign: Foreign, consumer: Start, inbox: Any
) -> None:
    foreign(("e1", "test.fails", 1, "a"), *((f"n{n}", "test.effect", n, "b") for n in range(20)))

    assert consumer("--drain").wait(60) == 0

    assert inbox() == {"pending": 1, "consumed": 20}
