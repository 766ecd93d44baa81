"""``python -m tests.chaos``: workers, brokers and the database are killed under load; then one verdict.

The environment sets ``SECONDS`` of faults, ``MESSAGES``, ``BROKERS`` (1 or 3), ``REPLICAS`` of each partition and ``SEED``.
With three brokers and two replicas, a broker that is killed leaves a third of the partitions as they are. ``FAULTS=broker``
kills nothing else. What workers printed is in ``.cache/chaos``.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from urllib.request import urlopen

import django

from tests.chaos.gaps import WINDOW_SECONDS, report
from tests.chaos.verdict import lost, verdict
from tests.support.processes import ROOT, Command
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.base import Service
from tests.support.servers.kafka_cluster import KafkaCluster, Node
from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.process import free_port

SECONDS = float(os.environ.get("SECONDS", "60"))
MESSAGES = int(os.environ.get("MESSAGES", "10000"))
BROKERS = int(os.environ.get("BROKERS", "1"))
REPLICAS = int(os.environ.get("REPLICAS", "-1"))
FAULTS = os.environ.get("FAULTS", "worker,broker,database").split(",")
SEED = int(os.environ.get("SEED", "1"))
KEYS = max(MESSAGES // 15, 1)
FAILING = 0.02
PARTITIONS, MORE_PARTITIONS = 4, 6
STALLED_SECONDS = 120.0  # without a handled message, the run has failed
LOGS = ROOT / ".cache" / "chaos"
REQUEUED = re.compile(r'^django_outbox_requeued_total\{reason="(\w+)"\} (\S+)', re.MULTILINE)
WORKERS: dict[str, tuple[object, ...]] = {
    "relay-1": ("outbox_relay",),
    "relay-2": ("outbox_relay",),
    "consumer-1": ("outbox_consume",),
    "consumer-2": ("outbox_consume",),
    "consumer-3": ("outbox_consume", "--concurrency", 8),
}
# Seconds between two faults of a kind, about.
WORKER_KILLED, BROKER_KILLED, DATABASE_KILLED = 2.0, 20.0, 20.0


@dataclass
class Workers:
    """Relays and consumers, each with its metrics."""

    env: dict[str, str]
    requeued: Counter[str] = field(default_factory=Counter)
    """By reason, of killed workers as well."""
    _running: dict[str, tuple[Command, int]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        port = free_port()
        command, *arguments = WORKERS[name]
        self._running[name] = Command(str(command), *arguments, "--metrics-port", port, env=self.env), port

    def kill(self, name: str) -> None:
        """Kill a worker at whatever instruction it is."""
        command, port = self._running[name]
        self._count(port)
        command.kill()
        self._keep(name, command)

    def stop(self) -> None:
        for command, port in self._running.values():
            self._count(port)
            command.send_signal(signal.SIGTERM)
        for name, (command, _) in self._running.items():
            command.wait()
            self._keep(name, command)

    def _count(self, port: int) -> None:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as page:
            for reason, number in REQUEUED.findall(page.read().decode()):
                self.requeued[reason] += int(float(number))

    def _keep(self, name: str, command: Command) -> None:
        with (LOGS / f"{name}.log").open("a") as log:
            log.write(f"{command.output}\n--- exit code {command.returncode}\n")


@dataclass
class Faults:
    """What goes wrong, and when; the same for the same seed."""

    workers: Workers
    brokers: list[Service]
    database: Service
    add_partitions: Callable[[], None]
    count: Counter[str] = field(default_factory=Counter)
    killed: list[tuple[float, int]] = field(default_factory=list)
    """When which broker of a cluster was killed, in seconds since the epoch."""
    _chance: random.Random = field(default_factory=partial(random.Random, SEED))

    def _planned(self) -> list[tuple[float, str, Callable[[], None]]]:
        due = [(SECONDS / 2, "partitions added", self.add_partitions)]
        for name, cause, apart in (
            ("worker killed", self._kill_worker, WORKER_KILLED),
            ("broker killed", self._kill_broker, BROKER_KILLED),
            ("database killed", self._kill_database, DATABASE_KILLED),
        ):
            at = 5.0 if name.split()[0] in FAULTS else SECONDS
            while (at := at + apart * self._chance.uniform(0.5, 1.5)) < SECONDS:
                due.append((at, name, cause))
        return sorted(due, key=itemgetter(0))

    def cause(self, began_at: float) -> None:
        """Cause all faults, each at its time."""
        for at, name, cause in self._planned():
            time.sleep(max(0.0, began_at + at - time.monotonic()))
            say(began_at, name)
            cause()
            self.count[name] += 1

    def _kill_worker(self) -> None:
        name = self._chance.choice(list(WORKERS))
        self.workers.kill(name)
        self.workers.start(name)

    def _kill_broker(self) -> None:
        broker = self._chance.choice(self.brokers)
        if isinstance(broker, Node):
            self.killed.append((time.time(), broker.node_id))
        broker.kill()
        broker.start()

    def _kill_database(self) -> None:
        self.database.kill()
        self.database.start()


def publish_all(began_at: float) -> None:
    """Publish all messages in the first half of the faults, whatever the database does."""
    from django.db import Error, connection, transaction

    from django_outbox import Event, publish_many

    chance = random.Random(SEED)
    published, together = 0, max(1, MESSAGES // 200)
    while published < MESSAGES:
        time.sleep(max(0.0, began_at + SECONDS / 2 * published / MESSAGES - time.monotonic()))
        events = [
            Event(
                type="test.fails_once" if chance.random() < FAILING else "test.effect",
                payload=number,
                key=str(chance.randrange(KEYS)),
            )
            for number in range(published, min(published + together, MESSAGES))
        ]
        with suppress(Error):  # what was committed counts, and is published again if that is unknown
            with transaction.atomic():
                publish_many(events)
            published += len(events)
            continue
        connection.close()
        time.sleep(0.1)
    connection.close()


def wait_for_end(began_at: float) -> bool:
    """Wait until all messages are handled; False if none is for a long time."""
    before, since = -1, time.monotonic()
    while time.monotonic() - since < STALLED_SECONDS:
        left = lost()
        if not left:
            return True
        if left != before:
            before, since = left, time.monotonic()
        say(began_at, f"{left} messages left")
        time.sleep(1)
    return False


def say(began_at: float, text: str) -> None:
    print(f"{time.monotonic() - began_at:6.1f} s  {text}", file=sys.stderr, flush=True)


def main() -> int:
    """0 if nothing was lost, handled twice or out of order."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.glob("*.log"):
        old.unlink()
    with ExitStack() as stack:
        database = stack.enter_context(PostgreSQL())
        kafka: KafkaCluster | ApacheKafka = KafkaCluster() if BROKERS > 1 else ApacheKafka()
        stack.enter_context(kafka)
        brokers: list[Service] = list(kafka.nodes) if isinstance(kafka, KafkaCluster) else [kafka]
        os.environ |= {
            "DATABASE_URL": database.url,
            "DJANGO_SETTINGS_MODULE": "tests.support.settings",
            "KAFKA_URL": kafka.url,
            "OUTBOX_BACKEND": os.environ.get("OUTBOX_BACKEND", "django_outbox.brokers.kafka.KafkaBroker"),
            "PYTHONUNBUFFERED": "1",
        }
        django.setup()
        from django.core.management import call_command
        from django.db import connection
        from kafka import KafkaAdminClient

        call_command("migrate", verbosity=0)
        connection.close()  # which will not survive

        def set_partitions(number: int, *, new: bool = False) -> None:
            with KafkaAdminClient(bootstrap_servers=kafka.url.removeprefix("kafka://").split(",")) as admin:
                if new:
                    configs = (
                        {"min.insync.replicas": "1"} if REPLICAS == 2 else {}
                    )  # or one broker stops its partitions
                    wanted = {"num_partitions": number, "replication_factor": REPLICAS, "configs": configs}
                    admin.create_topics({"outbox": wanted})
                else:
                    admin.create_partitions({"outbox": number})

        def replicas() -> dict[int, list[int]]:
            with KafkaAdminClient(bootstrap_servers=kafka.url.removeprefix("kafka://").split(",")) as admin:
                (described,) = admin.describe_topics(["outbox"])
            return {each["partition_index"]: each["replica_nodes"] for each in described["partitions"]}

        set_partitions(PARTITIONS, new=True)
        workers = Workers(dict(os.environ))
        faults = Faults(workers, brokers, database, partial(set_partitions, MORE_PARTITIONS))
        for name in WORKERS:
            workers.start(name)
        began_at, began_at_wall = time.monotonic(), time.time()
        publisher = threading.Thread(target=publish_all, args=(began_at,), daemon=True)
        publisher.start()
        try:
            faults.cause(began_at)
            publisher.join()
            time.sleep(max(0.0, began_at + SECONDS - time.monotonic()))
            say(began_at, "no more faults")
            quiet_from = time.monotonic() - began_at
            wait_for_end(began_at)
        finally:
            workers.stop()
        under_load = [each for each in faults.killed if each[0] + WINDOW_SECONDS < began_at_wall + SECONDS / 2]
        if under_load:
            print(report(under_load, replicas()))
        return verdict(began_at_wall, quiet_from, f"{dict(faults.count)}, seed {SEED}", workers.requeued)


if __name__ == "__main__":
    sys.exit(main())
