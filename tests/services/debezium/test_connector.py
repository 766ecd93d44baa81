"""A connector that runs, one that stops at a record, and what the doctor says of each."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient

from django_outbox.operations.doctor.base import Finding, Installation, Level
from django_outbox.operations.doctor.debezium import debezium as check
from django_outbox.state.slot import replication_slot
from tests.services.debezium.conftest import NAMES
from tests.support.debezium import Log, config, connector, with_connect
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.servers.kafka_connect import KafkaConnect

pytestmark = with_connect


def findings() -> list[Finding]:
    return [finding for finding in check(Installation("default")) if finding.level > Level.NOTE]


def test_the_doctor_finds_nothing_wrong_with_a_connector_that_runs(debezium: KafkaConnect) -> None:
    wait_until(lambda: not findings(), what="no findings")
    slot = replication_slot("default")
    assert (slot.present, slot.active, slot.wal_status, slot.is_lost) == (True, True, "reserved", False)


def test_the_doctor_tells_a_connector_of_another_publication(debezium: KafkaConnect) -> None:
    with outbox_settings(DEBEZIUM={**NAMES, "PUBLICATION": "another"}):
        summaries = wait_until(lambda: [each.summary for each in findings() if "is taken" in each.summary])
    (summary,) = summaries
    assert summary.startswith("The replication slot outbox_of_connect is taken: session ")
    assert " of outbox_of_connect (Debezium Streaming) reads it for the publication outbox_of_connect" in summary


def test_the_doctor_tells_a_connector_that_is_gone(kafka_connect: KafkaConnect, kafka_outbox: Any) -> None:
    with outbox_settings(SOURCE="gone", DEBEZIUM={}), connector(kafka_connect) as name:
        kafka_connect.request("PUT", f"/connectors/{name}/stop")
        wait_until(lambda: any(each.summary.startswith("Nothing reads the replication slot") for each in findings()))


def test_a_record_that_kafka_refuses_stops_the_connector_until_it_may_be_skipped(
    kafka_connect: KafkaConnect, kafka_outbox: Any, servers: str, topic: str, send: Any
) -> None:
    small = f"{topic}-small"
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        options = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "2000"}}
        admin.create_topics({small: options}, wait_for_metadata=True)
    with outbox_settings(SOURCE="large", DEBEZIUM={}), connector(kafka_connect) as name:

        def is_failed() -> bool:
            status = kafka_connect.request("GET", f"/connectors/{name}/status")
            return any(task["state"] == "FAILED" and "RecordTooLarge" in task["trace"] for task in status["tasks"])

        send("test.unhandled", "x" * 5000, key="a", topic=small)
        send("test.unhandled", "fits", key="a", topic=small)
        wait_until(is_failed, what="the task failed")

        kafka_connect.request("PUT", f"/connectors/{name}/config", config(**{"errors.tolerance": "all"}))
        with closing(Log(servers, small)) as log:
            assert [record.value for record in log.read(1)] == [b'"fits"']
