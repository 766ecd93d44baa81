"""SIGTERM while broker or database are away: the commands end soon, and leave nothing behind that could be sent."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from django.db import connections

from django_outbox.models import OutboxMessage
from tests.conftest import database_key
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.servers import BEHIND_PROXY
from tests.support.processes import Command, wait_until
from tests.support.servers.process import free_port

Start = Callable[..., Command]

COMMANDS = ["outbox_relay", "outbox_consume"]


@pytest.fixture(params=["kafka.KafkaBroker", "confluent.ConfluentBroker"])
def backend(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that chooses each client library in turn."""
    return {"OUTBOX_BACKEND": f"django_outbox.brokers.{request.param}"}


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def proxied(pytestconfig: pytest.Config, proxy: Proxy, backend: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of commands whose broker is behind a proxy."""
    with BEHIND_PROXY[pytestconfig.option.kafka](proxy) as service:
        proxy.target = service.port
        yield {**backend, "KAFKA_URL": service.url}


def assert_ends_in_time(command: Command) -> None:
    command.stop_in_time()
    assert command.output.splitlines()[-1].endswith(" stopped.")
    assert "Traceback" not in command.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_broker_refuses_connections_ends_in_time(
    name: str, backend: dict[str, str], manage: Start, send: Any
) -> None:
    send("test.effect")
    command = manage(name, env={**backend, "KAFKA_URL": f"kafka://127.0.0.1:{free_port()}"})
    command.wait_for_line("The broker: ")
    assert_ends_in_time(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_broker_does_not_answer_ends_in_time(
    name: str, backend: dict[str, str], manage: Start, send: Any
) -> None:
    send("test.effect")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = manage(name, env={**backend, "KAFKA_URL": f"kafka://127.0.0.1:{silent.getsockname()[1]}"})
        client, _ = silent.accept()
        with client:
            assert_ends_in_time(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_idle_command_whose_connections_hang_ends_in_time(
    name: str, proxied: dict[str, str], proxy: Proxy, manage: Start, send: Any, consumed: Any
) -> None:
    relay = manage("outbox_relay", "--create-topics", env=proxied)
    consumer = manage("outbox_consume", env=proxied)
    send("test.effect")
    consumed(1)
    proxy.stall()
    assert_ends_in_time({"outbox_relay": relay, "outbox_consume": consumer}[name])
    proxy.heal()


def test_a_consumer_that_ends_while_it_joins_its_group_does_not_hold_up_the_next(
    backend: dict[str, str], topic: str, kafka_url: str, manage: Start, send: Any, consumed: Any
) -> None:
    manage("outbox_relay", "--create-topics", env=backend)
    consumer = manage("outbox_consume", env=backend)
    with AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")}) as admin:
        nobody = (ConsumerGroupState.DEAD, ConsumerGroupState.EMPTY)

        def has_member() -> bool:
            with suppress(KafkaException):  # a broker that has just started does not know its coordinator
                return admin.describe_consumer_groups([topic])[topic].result().state not in nobody
            return False

        wait_until(has_member)
    assert_ends_in_time(consumer)
    send("test.effect")

    manage("outbox_consume", env=backend)

    consumed(1)


def test_consumers_that_end_one_after_the_other_do_not_hold_up_the_next(
    backend: dict[str, str], manage: Start, send: Any, consumed: Any
) -> None:
    manage("outbox_relay", "--create-topics", "--partitions", 2, env=backend)
    keys = map(str, itertools.count())
    consumers = []

    def at_work() -> bool:
        send("test.effect", key=next(keys))
        return all("is consumed" in consumer.output for consumer in consumers)

    for _ in range(2):
        consumers.append(manage("outbox_consume", "--verbosity", 2, env=backend))
        wait_until(at_work)
    for consumer in reversed(consumers):
        assert_ends_in_time(consumer)
    send("test.effect")

    manage("outbox_consume", env=backend)

    consumed(OutboxMessage.objects.count())


def test_a_relay_whose_batch_hangs_ends_in_time_and_nothing_of_it_is_sent_later(
    proxied: dict[str, str], proxy: Proxy, manage: Start, send: Any, consumed: Any, counts: Any, effects: Any
) -> None:
    relay = manage("outbox_relay", "--create-topics", env=proxied)
    consumer = manage("outbox_consume", env=proxied)
    send("test.effect", "before")
    consumed(1)
    assert consumer.stop() == 0
    proxy.stall()
    send("test.effect", "x" * 100_000)
    wait_until(lambda: proxy.held, what="a part of the batch is on its way")

    assert_ends_in_time(relay)

    assert counts() == {"consumed": 1, "pending": 1}
    proxy.heal()
    wait_until(lambda: proxy.connections == 0, what="connections of the relay ended")
    relay = manage("outbox_relay", env=proxied)
    wait_until(lambda: counts() == {"consumed": 1, "published": 1})
    message = OutboxMessage.objects.get(status="published")
    before = OutboxMessage.objects.get(status="consumed")
    assert message.offset == (before.offset + 1 if before.partition == message.partition else 0)


def test_a_consumer_whose_commit_hangs_ends_in_time(
    proxied: dict[str, str], proxy: Proxy, manage: Start, send: Any, counts: Any, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    manage("outbox_relay", "--create-topics", env=proxied)
    consumer = manage("outbox_consume", env=proxied)
    send("test.waits", str(running))
    wait_until(running.exists)
    proxy.stall()
    running.unlink()
    wait_until(lambda: counts() == {"consumed": 1})
    assert_ends_in_time(consumer)
    proxy.heal()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.databases("postgresql")
def test_a_command_whose_database_is_away_ends_in_time(
    name: str, manage: Start, send: Any, consumed: Any, pytestconfig: pytest.Config
) -> None:
    server = pytestconfig.stash[database_key]
    commands = {
        each: manage(each, *arguments) for each, arguments in zip(COMMANDS, (["--create-topics"], []), strict=True)
    }
    send("test.effect")
    consumed(1)
    connections.close_all()
    server.kill()
    try:
        if name == "outbox_relay":  # an idle consumer does not ask its database
            commands[name].wait_for_line("The database: ")
        assert_ends_in_time(commands[name])
    finally:
        server.start()
