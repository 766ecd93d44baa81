"""The servers and processes that the other tests stand on: are they the real thing, and do they go away?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from django.db import connection, transaction
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.support.app.models import Effect
from tests.support.processes import ROOT, Command, wait_until
from tests.support.servers.base import Service, ServiceError
from tests.support.servers.kafka_protocol import broker_answers
from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.tansu import Tansu

Manage = Callable[..., Command]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# The broker


@pytest.fixture
def servers(kafka_url: str, topic: str) -> str:
    """Bootstrap servers of the broker, on which `topic` exists with one partition."""
    address = kafka_url.removeprefix("kafka://")
    with KafkaAdminClient(bootstrap_servers=address) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    return address


def test_broker_keeps_records_and_their_order(servers: str, topic: str) -> None:
    with KafkaProducer(bootstrap_servers=servers) as producer:
        sent = [producer.send(topic, key=b"k", value=b"%d" % n, headers=[("n", b"%d" % n)]) for n in range(3)]
        assert [future.get(10).offset for future in sent] == [0, 1, 2]

    records = []

    def all_there() -> bool:
        for batch in consumer.poll(100).values():
            records.extend(batch)
        return len(records) >= 3

    with KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        wait_until(all_there)
    assert [(record.offset, record.key, record.value) for record in records] == [
        (0, b"k", b"0"),
        (1, b"k", b"1"),
        (2, b"k", b"2"),
    ]
    assert list(records[2].headers) == [("n", b"2")]


def test_broker_keeps_the_offsets_of_a_group(servers: str, topic: str) -> None:
    partition = TopicPartition(topic, 0)
    with KafkaProducer(bootstrap_servers=servers) as producer:
        for n in range(3):
            producer.send(topic, b"%d" % n).get(10)

    def consumer() -> KafkaConsumer:
        # Takes its partition itself: a member of the group may be turned out on a busy machine.
        consumer = KafkaConsumer(
            bootstrap_servers=servers, group_id=topic, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        consumer.assign([partition])
        return consumer

    with consumer() as first:
        batch = wait_until(lambda: first.poll(100))
        assert batch[partition][0].offset == 0
        first.commit({partition: OffsetAndMetadata(2, "", -1)})
    with consumer() as second:
        batch = wait_until(lambda: second.poll(100))
    assert [record.offset for record in batch[partition]] == [2]


@pytest.mark.brokers("apache")
def test_apache_kafka_creates_no_topic_by_itself(kafka_url: str, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://")) as admin:
        (described,) = admin.describe_topics([topic])
        assert described["error_code"] == 3  # UNKNOWN_TOPIC_OR_PARTITION
        assert topic not in admin.list_topics()


# The database


@pytest.mark.databases("postgresql")
@pytest.mark.django_db
def test_postgresql_is_18_unless_another_is_chosen(pytestconfig: pytest.Config) -> None:
    assert connection.vendor == "postgresql"
    assert connection.get_database_version()[0] == int(pytestconfig.option.database_release or 18)


@pytest.mark.databases("mariadb")
@pytest.mark.django_db
def test_mariadb_is_mariadb() -> None:
    assert connection.mysql_is_mariadb
    assert connection.get_database_version() >= (10, 6)


@pytest.mark.databases("sqlite")
@pytest.mark.django_db
def test_sqlite_is_a_shared_file_with_wal() -> None:
    assert Path(connection.settings_dict["NAME"]).is_file()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


def test_threads_share_the_database(transactional_db: None) -> None:
    def write() -> None:
        with transaction.atomic():
            Effect.objects.create(name="thread")
        connection.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Effect.objects.count() == 4


# Real commands


def test_command_shares_the_database(manage: Manage) -> None:
    Effect.objects.create(name="from the test")
    script = (
        "from tests.support.app.models import Effect; print(Effect.objects.get()); Effect.objects.create(name='back')"
    )
    assert manage("shell", "-c", script).wait() == 0
    assert Effect.objects.filter(name="back").exists()


def test_command_uses_the_same_outbox_settings(manage: Manage, kafka_url: str, topic: str) -> None:
    script = "from django.conf import settings; print(settings.OUTBOX)"
    command = manage("shell", "-c", script)
    assert command.wait() == 0
    assert kafka_url in command.output
    assert topic in command.output


def test_command_is_heard_while_it_runs_and_stops_by_signal(manage: Manage) -> None:
    script = "import signal; print('first'); print('second 2'); signal.pause()"
    command = manage("shell", "-c", script)
    command.wait_for_line("^first$")
    assert command.wait_for_line(r"second (\d)")[1] == "2"
    assert command.returncode is None
    assert command.stop(signal.SIGTERM) == -signal.SIGTERM


def test_command_that_ends_without_the_line_says_what_it_printed(manage: Manage) -> None:
    command = manage("shell", "-c", "print('something else')")
    with pytest.raises(AssertionError, match=r"it ended without a line like 'ready'(.|\n)*something else"):
        command.wait_for_line("ready")


def test_command_that_hangs_fails_at_the_deadline(manage: Manage) -> None:
    command = manage("shell", "-c", "import signal; print('up'); signal.pause()")
    command.wait_for_line("up")
    with pytest.raises(AssertionError, match=r"not within 0\.1 s"):
        command.wait(0.1)
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: a line"):
        command.wait_for_line("down", timeout=0.1)


# Coming and going


def test_service_returns_on_its_port_and_leaves_nothing() -> None:
    with Tansu() as broker:
        url, directory, first = broker.url, broker.directory, broker.process
        assert first is not None
        broker.kill()
        with pytest.raises(OSError):
            broker_answers("127.0.0.1", broker.port)
        broker.start()
        assert broker.url == url
        broker_answers("127.0.0.1", broker.port)
        second = broker.process
        assert second is not None
    assert gone(first.pid)
    assert gone(second.pid)
    assert not directory.exists()


def test_suspended_service_hangs_and_still_stops() -> None:
    with Tansu() as broker:
        broker.suspend()
        with pytest.raises(TimeoutError):
            broker_answers("127.0.0.1", broker.port, timeout=0.2)
        broker.resume()
        broker_answers("127.0.0.1", broker.port)
        broker.suspend()


def test_postgresql_keeps_what_was_committed_when_it_is_killed() -> None:
    with PostgreSQL() as server:
        with psycopg.connect(server.url) as database:
            database.execute("CREATE TABLE kept AS SELECT 42")
        server.kill()
        server.start()
        with psycopg.connect(server.url) as database:
            assert database.execute("SELECT * FROM kept").fetchall() == [(42,)]


def test_a_stopwatch_runs_but_not_while_the_machine_stands_still() -> None:
    script = (
        "from tests.support.processes import stopwatch\n"
        "with stopwatch() as seconds:\n"
        "    while command := input():\n"
        "        print(seconds(), flush=True)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def read(after: float) -> float:
        assert run.stdin is not None
        assert run.stdout is not None
        until = time.monotonic() + after
        wait_until(lambda: time.monotonic() > until)
        run.send_signal(signal.SIGCONT)
        print("?", file=run.stdin, flush=True)
        return float(run.stdout.readline())

    with run:
        first = read(0)
        second = read(1)
        run.send_signal(signal.SIGSTOP)
        third = read(2)
        print(file=run.stdin, flush=True)
    assert second - first > 0.1
    assert third - second < 1.5


def test_what_a_killed_service_had_started_has_ended_too() -> None:
    class Parent(Service):
        name = "parent"
        url = ""
        prepare = version = lambda self: ""

        def command(self) -> list[str]:
            child = "import os, time; os.setsid(); open('begun', 'w'); time.sleep(0.5); open('ended', 'w')"
            parent = (
                "import subprocess, sys, time; "
                f"subprocess.Popen([sys.executable, '-c', {child!r}], close_fds=False); time.sleep(600)"
            )
            return [sys.executable, "-c", parent]

        def probe(self) -> None:
            (self.directory / "begun").stat()

    with Parent() as service:
        service.kill()
        assert (service.directory / "ended").exists()


def test_an_unknown_release_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ServiceError, match=r"^release 9\.6 of postgresql is not known; known .*: 14, 15$"):
        PostgreSQL.choose("9.6")


@pytest.mark.parametrize(
    "options", [[], ["--database", "mariadb"], ["--database", "postgresql", "--database-url", "x"]]
)
def test_pgbouncer_is_refused_without_a_postgresql_that_the_run_starts(options: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pgbouncer", *options, "tests/unit/project"]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--pgbouncer needs --database postgresql" in done.stderr


def test_service_that_does_not_start_says_why() -> None:
    class Broken(Tansu):
        def command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    with pytest.raises(ServiceError, match="tansu did not start: it exited with 1\nno such luck"):
        Broken().start()


def test_killed_run_leaves_nothing_behind() -> None:
    script = (
        "import signal\n"
        "from tests.support.servers.postgres import PostgreSQL\n"
        "from tests.support.servers.tansu import Tansu\n"
        "for service in (PostgreSQL().start(), Tansu().start()):\n"
        "    print(service.process.pid, service.directory, flush=True)\n"
        "signal.pause()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        left = [run.stdout.readline().split() for _ in range(2)]
        run.kill()
    for pid, directory in left:
        wait_until(lambda pid=pid: gone(int(pid)), what=f"process {pid} ended")
        wait_until(lambda directory=directory: not Path(directory).exists(), what=f"{directory} removed")
