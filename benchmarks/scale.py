"""The relay on a large table: much behind it, a backlog ahead of it; throughput, memory, the idle poll, query plans."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks import plans, workload
from benchmarks.bench import CLIENTS, Bench, check, missing_client
from benchmarks.report import Line, Target

BEHIND = 5_000_000
BACKLOG_SHARE = 5  # one message is due for so many that are behind
EMPTY_ROWS = {"confluent": 100_000, "kafka-python": 50_000}
WARM_UP_ROWS = 5_000
LEAST_RATIO = 0.8
PEAK_MB = 150
GROWTH_MB = 10
IDLE_POLL_MS = 1.0
MEGABYTE = 1e6


def measure(bench: Bench) -> Iterator[Line]:
    """The clients take turns at one backlog, to its end; beside each, the same relay on a table with nothing behind."""
    clients = [client for client in CLIENTS if not missing_client(client)]
    empty: dict[str, list[float]] = {client: [] for client in clients}
    loaded: dict[str, list[float]] = {client: [] for client in clients}
    jobs = []
    bench.progress.say("scale: the empty table")
    _on_empty_table(bench, empty)
    with bench.topic(bench.servers.near) as topic:
        behind = bench.scale_rows or (BEHIND // 20 if bench.quick else BEHIND)
        backlog = behind // BACKLOG_SHARE
        bench.progress.say(f"scale: filling the table with {behind:,} consumed rows and a backlog of {backlog:,}")
        workload.empty()
        workload.fill(behind, topic=topic, status="consumed")
        workload.fill(backlog, topic=topic)
        bench.write_text("plans-full-backlog.txt", plans.explain())
        turns = [*clients, *reversed(clients)]
        for number, client in enumerate(turns, 1):
            bench.progress.say(f"scale: {client}, turn {number} of {len(turns)}")
            limit = backlog // len(turns) - WARM_UP_ROWS if number < len(turns) else None
            environment = bench.environment(client, bench.servers.near, topic)
            job = bench.run_jobs("relay", 1, environment, warm_up=WARM_UP_ROWS, limit=limit)
            job["rows_behind"] = behind
            loaded[client].append(job["per_second"])
            jobs.append(job)
            if number == len(turns) // 2:
                bench.write_text("plans-half-backlog.txt", plans.explain())
        idle = plans.idle_poll_ms()
        bench.write_text("plans-drained.txt", plans.explain())
        check("published rows", workload.count("published"), backlog)
    bench.progress.say("scale: the empty table again")
    workload.empty()
    _on_empty_table(bench, empty)

    for client in clients:
        yield Line(
            f"relay, {client}, {behind:,} rows behind, backlog {backlog:,}",
            "messages/s",
            [statistics.mean(loaded[client])],
            [statistics.mean(empty[client])],
            Target(least_ratio=LEAST_RATIO),
            beside="empty table",
        )
    for client in clients:
        own = [job for job in jobs if CLIENTS[client].endswith(f".{job['client']}")]
        peaks = [job["peak_bytes"] / MEGABYTE for job in own]
        growth = [(job["peak_bytes"] - job["early_peak_bytes"]) / MEGABYTE for job in own if job["early_peak_bytes"]]
        yield Line(f"relay, {client}, most memory", "MB", peaks, target=Target(most=PEAK_MB))
        yield Line(f"relay, {client}, memory after the first tenth", "MB more", growth, target=Target(most=GROWTH_MB))
    yield Line("idle poll, in the database", "ms", idle, target=Target(most=IDLE_POLL_MS))


def _on_empty_table(bench: Bench, found: dict[str, list[float]]) -> None:
    for client, rates in found.items():
        rates.append(bench.relay("relay", client, bench.servers.near, bench.amount(EMPTY_ROWS[client])))
