"""Debezium beside the relay, on the same Apache Kafka: how fast a backlog is sent, and how long a message takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from shutil import which

from benchmarks import clients, workload
from benchmarks.bench import Bench
from benchmarks.checks import WorkNotDone
from benchmarks.latency import NOTIFY, POLLING, between, message_count, pace, percentile_of, results, samples_of
from benchmarks.processes import Job
from benchmarks.report import Line
from tests.support.debezium import PASSWORD, config, execute, query, set_up, tear_down
from tests.support.processes import wait_until
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.kafka_connect import KafkaConnect

ROWS = 40_000
CLIENT = "confluent"
PERCENTILES = (50, 99)
DEBEZIUM = "Debezium"
MOST_ROUNDS = 3
PATIENCE_SECONDS = 60.0


def measure(bench: Bench) -> Iterator[Line]:
    """The rate with a backlog, then the latency from commit to record."""
    if reason := _missing():
        yield Line("Debezium", "messages/s", missing=reason)
        return
    bench.progress.say("starting Apache Kafka and Kafka Connect")
    with ExitStack() as stack:
        kafka = stack.enter_context(ApacheKafka())
        server = f"127.0.0.1:{kafka.port}"
        connect = stack.enter_context(KafkaConnect(server, env={"OUTBOX_DEBEZIUM_PASSWORD": PASSWORD}))
        bench = replace(bench, servers=replace(bench.servers, near=kafka.url))
        name = stack.enter_context(_connector(connect))
        yield _rate(bench, connect, name)
        yield from _latencies(bench)


def _missing() -> str:
    """Why this cannot be measured; empty if it can."""
    if not (which("java") and which("mvn")):
        return "needs Java and Maven"
    ((level,),) = query("SELECT current_setting('wal_level')")
    return "" if level == "logical" else f"the server has wal_level = {level}"


@contextmanager
def _connector(connect: KafkaConnect) -> Iterator[str]:
    """A connector as ``outbox_debezium`` configures it; gives its name."""
    set_up()
    printed = config()
    execute(f"ALTER ROLE {printed['database.user']} PASSWORD '{PASSWORD}'")
    try:
        connect.configure(printed["name"], printed)
        yield printed["name"]
        connect.request("DELETE", f"/connectors/{printed['name']}")
    finally:
        tear_down()


def _rate(bench: Bench, connect: KafkaConnect, name: str) -> Line:
    rows, rounds = bench.amount(ROWS), min(bench.runs, MOST_ROUNDS)
    found: dict[str, list[float]] = {DEBEZIUM: [], "relay": []}
    for number, variant in bench.rounds(list(found), rounds):
        bench.progress.say(f"Debezium, a backlog: {variant}, round {number + 1} of {rounds}")
        if variant == DEBEZIUM:
            found[variant].append(_backlog(bench, connect, name, rows))
        else:
            found[variant].append(bench.relay("relay", CLIENT, bench.servers.near, rows))
    return Line("Debezium, a backlog", "messages/s", found[DEBEZIUM], found["relay"], beside="relay", headline=True)


def _backlog(bench: Bench, connect: KafkaConnect, name: str, rows: int) -> float:
    """Messages a second that become readable, without the first thousand and the connector's start."""
    connect.request("PUT", f"/connectors/{name}/stop")
    slot = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    wait_until(lambda: query(slot, name) == [(False,)], what="the connector has stopped")
    with bench.topic(bench.servers.near) as topic:
        workload.empty()
        workload.fill(rows, topic=topic, status="published", publish_count=1)
        reader = clients.TopicReader(bench.servers.near, topic)
        connect.request("PUT", f"/connectors/{name}/resume")
        read, warm, warm_at, patience = 0, 0, 0.0, time.monotonic() + PATIENCE_SECONDS
        while read < rows:
            read += len(reader.poll(0.5))
            now = time.monotonic()
            if now > patience:
                raise WorkNotDone(f"Debezium: {read} of {rows} messages are readable")
            if not warm and read >= 1000:
                warm, warm_at = read, now
        reader.close()
        if read > rows:
            raise WorkNotDone(f"Debezium: {read} records of {rows} messages")
    return (rows - warm) / (now - warm_at)


def _latencies(bench: Bench) -> Iterator[Line]:
    rounds = min(bench.runs, MOST_ROUNDS)
    found: dict[str, list[list[float]]] = {DEBEZIUM: [], NOTIFY: [], POLLING: []}
    for number, variant in bench.rounds(list(found), rounds):
        bench.progress.say(f"Debezium, latency: {variant}, round {number + 1} of {rounds}")
        if variant == DEBEZIUM:
            found[variant].append(_samples(bench))
        else:
            found[variant].append(samples_of(bench, CLIENT, "record", variant))
    for percentile in PERCENTILES:
        runs = {name: [percentile_of(each, percentile) for each in samples] for name, samples in found.items()}
        for way in (NOTIFY, POLLING):
            name = f"Debezium, commit to record, p{percentile}, beside a relay with {way}"
            yield Line(name, "ms", runs[DEBEZIUM], runs[way], beside=f"relay, {way}", headline=way == NOTIFY)


def _samples(bench: Bench) -> list[float]:
    """Milliseconds from commit to the record."""
    workload.empty()
    with bench.topic(bench.servers.near) as topic:
        environment = bench.environment(CLIENT, bench.servers.near, topic, BENCH_PUBLISHER="debezium")
        with Job("read", environment, count=message_count()) as reader, Job("write", environment, **pace()) as writer:
            return between(results(writer, reader))
