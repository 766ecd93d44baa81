"""Processes that die at any instruction, and servers that go away: nothing is lost, nothing twice."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from django_outbox.models import OutboxMessage
from tests.support.processes import Command, wait_until
from tests.support.servers.base import Service

Start = Callable[..., Command]


def assert_all_handled_once(effects: Any, number: int) -> None:
    assert Counter(effects()) == Counter(f"test.effect {n}" for n in range(number))


def test_relays_and_consumers_that_are_killed_lose_nothing_and_do_nothing_twice(
    send: Any, relay: Start, consumer: Start, counts: Any, consumed: Any, effects: Any
) -> None:
    """A relay and a consumer are killed again and again, at whatever they do, under load."""
    number = 300
    for n in range(number):
        send("test.effect", n, key=str(n % 7))
    chance = random.Random(7)
    commands = {"relay": relay("--batch-size", 5), "consumer": consumer("--batch-size", 5)}
    starts = {"relay": lambda: relay("--batch-size", 5), "consumer": lambda: consumer("--batch-size", 5)}

    for _ in range(6):
        done = counts()["consumed"]
        wait_until(lambda done=done: counts()["consumed"] > done or counts()["consumed"] == number)
        name = chance.choice(list(commands))
        commands[name].kill()
        commands[name] = starts[name]()

    consumed(number, 120)
    assert_all_handled_once(effects, number)
    done = effects()
    for key in range(7):
        of_key = [int(name.split()[1]) for name in done if int(name.split()[1]) % 7 == key]
        assert of_key == sorted(of_key)


@pytest.mark.parametrize(
    ("event_type", "ending"),
    [("test.exits", 7), ("test.is_killed", -signal.SIGKILL), ("test.aborts", -signal.SIGABRT)],
)
def test_a_message_that_takes_its_process_down_is_dead_after_max_deliveries(
    event_type: str,
    ending: int,
    send: Any,
    relay: Start,
    consumer: Start,
    counts: Any,
    effects: Any,
) -> None:
    send(event_type, key="a")
    send("test.effect", "neighbour", key="b")
    assert relay("--drain").wait() == 0
    env = {"OUTBOX_MAX_DELIVERIES": "2"}

    endings = [consumer(env=env).wait(60) for _ in range(2)]
    command = consumer(env=env)
    wait_until(lambda: counts() == {"dead": 1, "consumed": 1}, 60)

    assert endings == [ending, ending]
    assert command.stop() == 0
    assert effects() == ["test.effect neighbour"]
    dead = OutboxMessage.objects.get(status="dead")
    assert dead.last_error.startswith("It took its process down 2 times (MAX_DELIVERIES)")


def test_a_batch_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice(
    send: Any, relay: Start, consumer: Start, counts: Any, consumed: Any, effects: Any
) -> None:
    number = 300
    for n in range(number):
        send("test.batch", n, key=str(n % 7))
    assert relay("--drain").wait() == 0
    command = consumer()
    for share in (0.2, 0.5, 0.8):
        wait_until(lambda share=share: counts()["consumed"] >= share * number)
        command.kill()
        command = consumer()

    consumed(number, 120)
    done = effects()
    assert Counter(done) == Counter(f"test.batch {n}" for n in range(number))
    for key in range(7):
        of_key = [n for n in map(int, (name.split()[1] for name in done)) if n % 7 == key]
        assert of_key == sorted(of_key)


def test_a_message_that_takes_its_batch_down_is_dead_alone(
    send: Any, relay: Start, consumer: Start, counts: Any, effects: Any
) -> None:
    for n in range(5):
        send("test.batch_is_killed", n, key=str(n))
    send("test.batch_is_killed", "killer", key="k")
    assert relay("--drain").wait() == 0
    env = {"OUTBOX_MAX_DELIVERIES": "2"}

    endings = [consumer(env=env).wait(60) for _ in range(2)]
    command = consumer(env=env)
    wait_until(lambda: counts() == {"dead": 1, "consumed": 5}, 60)

    assert endings == [-signal.SIGKILL] * 2
    assert command.stop() == 0
    assert sorted(effects()) == [f"test.batch_is_killed {n}" for n in range(5)]


@pytest.mark.parametrize("event_type", ["test.sleeps", "test.burns"])
def test_a_message_whose_handler_never_ends_is_dead_after_max_deliveries(
    event_type: str,
    send: Any,
    relay: Start,
    consumer: Start,
    counts: Any,
    effects: Any,
) -> None:
    message = send(event_type, key="a")
    send("test.effect", "neighbour", key="b")
    assert relay("--drain").wait() == 0
    env = {"OUTBOX_MAX_DELIVERIES": "2", "OUTBOX_HANDLER_TIMEOUT": "3"}

    commands = []
    for _ in range(2):
        commands.append(consumer(env=env))
        assert commands[-1].wait(60) == 1
    last = consumer(env=env)
    wait_until(lambda: counts() == {"dead": 1, "consumed": 1}, 60)

    for command in commands:
        assert (
            f'OUTBOX["HANDLER_TIMEOUT"] ended the process: handler tests.support.app.handlers.{event_type.partition(".")[2]} '
            f"with event {message.event_id} ({event_type}) took longer than 3 s."
        ) in command.output
    assert last.stop() == 0
    assert effects() == ["test.effect neighbour"]
    dead = OutboxMessage.objects.get(status="dead")
    assert dead.last_error.startswith("It took its process down 2 times (MAX_DELIVERIES)")


def test_a_handler_that_finds_no_memory_left_has_failed_and_nothing_more(
    send: Any, relay: Start, consumer: Start, counts: Any, effects: Any
) -> None:
    send("test.exhausts", key="a", max_retry=1)
    send("test.effect", "neighbour", key="b")
    assert relay("--drain").wait() == 0
    command = consumer()
    wait_until(lambda: counts() == {"dead": 1, "consumed": 1}, 60)

    assert command.stop() == 0
    assert effects() == ["test.effect neighbour"]
    dead = OutboxMessage.objects.get(status="dead")
    assert dead.last_error.startswith("MemoryError")
    assert dead.retry_count == 1


def test_a_broker_that_is_not_there_yet_harms_no_message(
    send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any, own_broker: Service
) -> None:
    own_broker.start()
    own_broker.stop()
    env = {"KAFKA_URL": own_broker.url}
    command = relay(env=env)
    consumer(env=env)
    send("test.effect", 0)
    command.wait_for_line("The broker: .* cannot be reached")
    assert OutboxMessage.objects.get().retry_count == 0

    own_broker.start()

    consumed(1)
    assert_all_handled_once(effects, 1)
    assert OutboxMessage.objects.get().retry_count == 0
    assert command.output.count("Trying again until it works") == 1
    command.wait_for_line("The broker is available again after")


@pytest.mark.brokers("apache")
def test_a_broker_that_is_killed_and_comes_back_harms_no_message(
    send: Any, relay: Start, consumer: Start, counts: Any, consumed: Any, effects: Any, own_broker: Service
) -> None:
    own_broker.start()
    env = {"KAFKA_URL": own_broker.url}
    relay(env=env)
    consumer(env=env)
    for n in range(50):
        send("test.effect", n, key=str(n % 7))
    wait_until(lambda: counts()["consumed"] > 10, 60)

    own_broker.kill()
    for n in range(50, 100):
        send("test.effect", n, key=str(n % 7))
    own_broker.start()

    consumed(100, 120)
    assert_all_handled_once(effects, 100)
    assert not OutboxMessage.objects.exclude(retry_count=0).exists()


@pytest.mark.databases("postgresql")
def test_sessions_that_the_administrator_ends_are_made_anew(
    send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    relay()
    consumer()
    for n in range(60):
        send("test.effect", n)
        if n % 15 == 0:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

    consumed(60)
    assert_all_handled_once(effects, 60)
