"""A connector of Debezium as `outbox_debezium` configures it, and the records that it writes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from django_outbox.conf import settings
from tests.support.processes import wait_until
from tests.support.servers.kafka_connect import KafkaConnect
from tests.support.servers.postgres import WITH_PASSWORD

with_connect = [
    pytest.mark.databases("postgresql"),
    pytest.mark.brokers("apache"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("debezium"),
]
"""Marks of tests that use Kafka Connect, which they share."""

PASSWORD = "swordfish"
# More often than users need it.
OFTEN = {
    "heartbeat.interval.ms": "500",
    "slot.max.retries": "600",
    "slot.retry.delay.ms": "100",
    "retriable.restart.connector.wait.ms": "100",
}


def execute(*statements: str) -> None:
    """Each in a transaction of its own: a slot is not created in one that has written."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def query(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return list(cursor.fetchall())


def printed(*options: str) -> str:
    """What ``outbox_debezium`` prints."""
    out = io.StringIO()
    call_command("outbox_debezium", *options, stdout=out)
    return out.getvalue()


def set_up(*options: str) -> None:
    """Run the SQL that ``outbox_debezium`` prints."""
    execute(*filter(None, map(without_comments, printed("--sql", *options).split(";\n"))))


def tear_down(*options: str) -> None:
    """Run the statements that its last lines name. A killed connector may hold the slot for a moment longer."""
    slot = settings.debezium.slot
    gone = "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = %s"
    wait_until(lambda: query(gone, slot) == [(0,)], what="the slot is free")
    _, _, commented = printed("--sql", *options).partition("-- To remove everything, delete the connector, then:\n")
    execute(*commented.replace("-- ", "").splitlines())


def without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip()


@contextmanager
def prepared() -> Iterator[str]:
    """The database as documented, with a password for the connector's role, and nothing else; gives its name."""
    name = settings.debezium.slot
    set_up()
    try:
        protect(name)
        yield name
    finally:
        tear_down()


@contextmanager
def connector(server: KafkaConnect, **changes: str) -> Iterator[str]:
    """Prepare the database and run the connector; gives its name."""
    with prepared() as name:
        server.configure(name, config(**changes))
        try:
            yield name
        finally:
            server.request("DELETE", f"/connectors/{name}")


def config(**changes: str) -> dict[str, str]:
    """The configuration that ``outbox_debezium`` prints, for tests."""
    return json.loads(printed("--json")) | OFTEN | changes


def protect(role: str) -> None:
    """Have the server ask this role for its password, and take from it what every role may do."""
    if not query("SELECT 1 FROM pg_roles WHERE rolname = %s", WITH_PASSWORD):
        execute(f"CREATE ROLE {WITH_PASSWORD}")
    execute(f"GRANT {WITH_PASSWORD} TO {role}", f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")


class Log:
    """The records of a topic, from its beginning."""

    def __init__(self, servers: str, topic: str) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self._consumer.assign(
            [TopicPartition(topic, partition) for partition in self._consumer.partitions_for_topic(topic)]
        )
        self.records: list[Any] = []

    def read(self, number: int) -> Sequence[Any]:
        """Wait until the topic has at least so many records, and return all that were read."""

        def enough() -> bool:
            for records in self._consumer.poll(200).values():
                self.records += records
            return len(self.records) >= number

        wait_until(enough, what=f"{number} records")
        return self.records

    def close(self) -> None:
        self._consumer.close()


def create_topic(servers: str, topic: str, partitions: int = 3) -> None:
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}}, wait_for_metadata=True)


@contextmanager
def reading(slot: str, publication: str = "outbox_tests") -> Iterator[int]:
    """Read a slot as a connector does; gives the id of the session's process."""
    settings_dict = connection.settings_dict
    with psycopg.connect(
        host=settings_dict["HOST"],
        port=settings_dict["PORT"],
        user=settings_dict["USER"],
        dbname=settings_dict["NAME"],
        replication="database",
        autocommit=True,
    ) as session:
        options = f"\"proto_version\" '1', \"publication_names\" '{publication}'"
        result = session.pgconn.exec_(f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 ({options})'.encode())
        assert result.status == psycopg.pq.ExecStatus.COPY_BOTH, session.pgconn.error_message
        try:
            yield session.pgconn.backend_pid
        finally:
            session.pgconn.finish()  # in the middle of the stream, as a connector that is killed
    active = "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = %s"
    wait_until(lambda: query(active, slot) == [(0,)], what="the slot is free")
