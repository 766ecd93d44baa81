"""The database and the brokers of a run: started for it, or the user's own."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
from kafka import KafkaAdminClient

from benchmarks.clients import address
from tests.support.processes import ROOT, wait_until
from tests.support.servers.kafka_protocol import broker_answers
from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.process import free_port, spawn, stop
from tests.support.servers.tansu import Tansu

PARTITIONS = 4
FAR_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers of a run are; ``far`` is None if there is no broker behind a delay."""

    database: str
    near: str
    far: str | None
    versions: dict[str, str]


class FarTansu(Tansu):
    """A broker that tells its clients to come by another port, that of a proxy."""

    def __init__(self, advertised_port: int) -> None:
        super().__init__()
        self._advertised = f"tcp://127.0.0.1:{advertised_port}"

    def command(self) -> list[str]:
        command = super().command()
        command[command.index("--advertised-listener-url") + 1] = self._advertised
        return command


@contextmanager
def servers() -> Iterator[Servers]:
    """Start what the environment does not name; the database is always a new one, dropped at the end."""
    with ExitStack() as stack:
        versions = {}
        server = os.environ.get("DATABASE_URL")
        if not server:
            postgres = stack.enter_context(PostgreSQL())
            server = postgres.url
        database = stack.enter_context(_own_database(server))
        with psycopg.connect(_for_psycopg(database)) as connection:
            row = connection.execute("SHOW server_version").fetchone()
            versions["database"] = f"PostgreSQL {row[0] if row else '?'}"
        near, far = os.environ.get("KAFKA_URL"), os.environ.get("FAR_KAFKA_URL")
        if near:
            versions["broker"] = "not started by this run"
        else:
            broker = stack.enter_context(Tansu())
            near, versions["broker"] = broker.url, broker.version()
            port = free_port()
            behind = stack.enter_context(FarTansu(port))
            far = stack.enter_context(_proxy(port, behind.port))
        yield Servers(database, near, far, versions)


@contextmanager
def topic(url: str, partitions: int = PARTITIONS) -> Iterator[str]:
    """A new topic of four partitions, deleted at the end where the broker lets us."""
    name = f"benchmarks-{uuid.uuid4().hex[:12]}"
    admin = KafkaAdminClient(bootstrap_servers=address(url).split(","))
    try:
        admin.create_topics({name: {"num_partitions": partitions, "replication_factor": -1}})
        admin.wait_for_topics([name], timeout_ms=10000)
        yield name
        with suppress(Exception):
            admin.delete_topics([name])
    finally:
        admin.close()


@contextmanager
def _own_database(server: str) -> Iterator[str]:
    """A database beside the one that the URL names: nobody's tables are emptied."""
    name = f"outbox_benchmarks_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(_for_psycopg(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _for_psycopg(url: str) -> str:
    return url.replace("postgres://", "postgresql://", 1)


@contextmanager
def _proxy(port: int, target: int) -> Iterator[str]:
    process = spawn([sys.executable, "-m", "benchmarks.proxy", str(port), str(target), str(FAR_SECONDS)], cwd=ROOT)
    try:

        def answers() -> bool:
            with suppress(OSError):
                broker_answers("127.0.0.1", port)
                return True
            return False

        wait_until(answers, what="the proxy answers")
        yield f"kafka://127.0.0.1:{port}"
    finally:
        stop(process)
