"""Messages on their way through Debezium, with real relays and consumers: nothing lost, nothing twice, in order."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from django.db import transaction
from kafka import KafkaAdminClient

from django_outbox import publish
from django_outbox.models import OutboxMessage
from tests.services.debezium.conftest import NAMES
from tests.support.app.models import Effect
from tests.support.debezium import Log, config, execute, prepared, query, with_connect
from tests.support.outbox import in_thread
from tests.support.overrides import outbox_settings
from tests.support.processes import Command, wait_until
from tests.support.servers.kafka_connect import KafkaConnect

pytestmark = with_connect

Start = Callable[..., Command]
SLOT = f"FROM pg_replication_slots WHERE slot_name = '{NAMES['SLOT']}'"


def sent_by_debezium() -> int:
    return OutboxMessage.objects.filter(partition=None, publish_count=1).count()


def assert_once_and_in_order(effects: list[str], number: int, keys: int) -> None:
    numbers = [int(name.split()[1]) for name in effects]
    assert Counter(numbers) == Counter(range(number))
    for key in range(keys):
        of_key = [each for each in numbers if each % keys == key]
        assert of_key == sorted(of_key)


def test_a_connector_that_is_killed_loses_nothing_and_nothing_is_done_twice(
    debezium: KafkaConnect, send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    relay()
    consumer()
    number = 0

    def send_some() -> None:
        nonlocal number
        for _ in range(150):
            send("test.effect", number, key=str(number % 7))
            number += 1

    send_some()
    wait_until(lambda: len(effects()) >= number - 100)
    debezium.kill()
    send_some()
    debezium.start()
    send_some()

    consumed(number, 120)
    assert_once_and_in_order(effects(), number, 7)
    assert sent_by_debezium() > 0


def test_a_connection_that_breaks_loses_nothing(
    debezium: KafkaConnect, send: Any, consumer: Start, consumed: Any, effects: Any
) -> None:
    consumer()
    for number in range(300):
        send("test.effect", number, key=str(number % 7))
        if number % 100 == 50:
            wait_until(lambda: query(f"SELECT active {SLOT}") == [(True,)])
            execute(f"SELECT pg_terminate_backend(active_pid) {SLOT}")

    consumed(300, 120)
    assert_once_and_in_order(effects(), 300, 7)


def test_the_publisher_may_be_switched_while_everything_runs(
    debezium: KafkaConnect, send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    """Applications and workers are restarted one after the other, so for a while each has its own setting."""
    number = 0

    def send_some(publisher: str) -> None:
        nonlocal number
        with outbox_settings(PUBLISHER=publisher):
            for _ in range(50):
                send("test.effect", number, key=str(number % 7))
                number += 1

    workers = {start: start(env={"OUTBOX_PUBLISHER": "relay"}) for start in (relay, consumer)}
    send_some("relay")
    wait_until(effects)  # they run
    for publisher in ("debezium", "relay"):
        send_some(publisher)
        for start, command in workers.items():
            command.send_signal(signal.SIGTERM)
            send_some("relay")
            send_some("debezium")
            assert command.wait() == 0
            workers[start] = start(env={"OUTBOX_PUBLISHER": publisher})
        send_some(publisher)
        wait_until(lambda: len(effects()) == number)

    consumed(number, 120)
    assert sorted(effects()) == sorted(f"test.effect {each}" for each in range(number))
    assert 0 < sent_by_debezium() < number


def test_messages_of_a_key_arrive_in_the_order_of_their_commits(
    debezium: KafkaConnect, log: Log, consumer: Start, consumed: Any, effects: Any
) -> None:
    order = [3, 1, 4, 0, 2]
    may_commit = [threading.Event() for _ in order]
    with ExitStack() as stack:
        writers = []
        for number in range(len(order)):
            has_written = threading.Event()
            writers.append(stack.enter_context(in_thread(partial(write, number, has_written, may_commit[number]))))
            assert has_written.wait(60)
        for number in order:
            may_commit[number].set()
            writers[number].join(60)

    assert [record.value for record in log.read(len(order))] == [b"%d" % number for number in order]
    consumer()
    consumed(len(order))
    assert effects() == [f"test.effect {number}" for number in order]


def write(number: int, has_written: threading.Event, may_commit: threading.Event) -> None:
    with transaction.atomic():
        publish("test.effect", number, key="a")
        has_written.set()
        assert may_commit.wait(60)


def test_the_first_messages_of_a_new_topic_keep_their_order(debezium: KafkaConnect, servers: str, topic: str) -> None:
    # A broker names itself as the leader of a partition before it has created it. The more there are, the longer that takes.
    keys, rounds, partitions = [str(number) for number in range(150)], 6, 100
    names = [f"{topic}-{number}" for number in range(5)]
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        for name in names:
            admin.create_topics(
                {name: {"num_partitions": partitions, "replication_factor": 1}}, wait_for_metadata=False
            )
            for number in range(rounds):
                with transaction.atomic():
                    for key in keys:
                        publish("test.unhandled", number, key=key, topic=name)
            wait_until(lambda name=name: len(admin.describe_topics([name])[0]["partitions"]) == partitions)
            with closing(Log(servers, name)) as log:
                records = log.read(rounds * len(keys))
            for key in keys:
                numbers = [int(record.value) for record in records if record.key == key.encode()]
                assert numbers == list(range(rounds)), key
        admin.delete_topics(names)


def test_a_message_whose_handler_fails_is_retried_by_the_relay_and_holds_its_key(
    debezium: KafkaConnect, send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    failing = send("test.fails_once", "first", key="a")
    send("test.effect", "second", key="a")
    send("test.effect", "other", key="b")
    relay()
    consumer()
    consumed(3)
    done = effects()
    assert [name for name in done if "other" not in name] == ["test.fails_once first", "test.effect second"]
    failing.refresh_from_db()
    assert (failing.publish_count, failing.retry_count, failing.partition is not None) == (2, 1, True)


def test_the_relay_sends_what_debezium_cannot(
    debezium: KafkaConnect, send: Any, relay: Start, consumer: Start, consumed: Any, effects: Any
) -> None:
    by_relay = [
        send("test.effect", "delayed", key="a", delay=1),
        send("test.effect", "without a key"),
        send("test.effect", "with headers", key="b", headers={"trace": "1"}),
    ]
    by_debezium = send("test.effect", "plain", key="c")
    consumer()
    wait_until(lambda: effects() == ["test.effect plain"])
    relay()
    consumed(4)
    assert len(effects()) == 4
    assert by_relay[0].created_at < Effect.objects.get(name="test.effect delayed").created_at
    for message in (*by_relay, by_debezium):
        message.refresh_from_db()
    assert [message.partition is not None for message in by_relay] == [True] * 3
    assert by_debezium.partition is None


def test_the_slot_advances_while_only_other_tables_are_written(debezium: KafkaConnect) -> None:
    Effect.objects.create(name="not a message")
    ((position,),) = query("SELECT pg_current_wal_lsn()::text")
    passed = f"SELECT confirmed_flush_lsn >= %s::pg_lsn {SLOT}"
    wait_until(lambda: query(passed, position) == [(True,)], what=f"the slot is at {position}")


def test_messages_from_the_slot_on_are_sent_whenever_the_connector_starts(
    debezium: KafkaConnect, log: Log, send: Any
) -> None:
    with outbox_settings(SOURCE="late", DEBEZIUM={}):
        send("test.effect", "before the slot", key="a")
        with prepared() as name:
            send("test.effect", "before the connector", key="a")
            debezium.configure(name, config())
            send("test.effect", "after", key="a")
            records = log.read(2)
            debezium.request("DELETE", f"/connectors/{name}")
    assert [record.value for record in records] == [b'"before the connector"', b'"after"']
    assert [dict(record.headers)["ce_source"] for record in records] == [b"late"] * 2
