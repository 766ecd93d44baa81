"""The relay on a large table: much behind it, a backlog ahead of it; throughput, memory, the idle poll, query plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import plans, workload
from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.checks import check
from benchmarks.report import Line, Target

BEHIND = 5_000_000
BACKLOG_SHARE = 5  # one message is due for so many that are behind
WARM_UP_ROWS = 5_000
LEAST_RATIO = 0.8
PEAK_MB = 150
GROWTH_MB = 10
IDLE_POLL_MS = 1.0
MEGABYTE = 1e6


def measure(bench: Bench) -> Iterator[Line]:
    """The clients take turns at one backlog, to its end; before each, as much by the same relay with nothing behind."""
    clients = [client for client in CLIENTS if not missing_client(client)]
    empty: dict[str, list[float]] = {client: [] for client in clients}
    loaded: dict[str, list[float]] = {client: [] for client in clients}
    jobs: dict[str, list[dict[str, Any]]] = {client: [] for client in clients}
    behind = bench.scale_rows or (BEHIND // 20 if bench.quick else BEHIND)
    backlog = behind // BACKLOG_SHARE
    turns = [client for _, client in bench.rounds(clients)]
    each = backlog // len(turns) - WARM_UP_ROWS
    with bench.topic(bench.servers.near) as topic:
        bench.progress.say(f"scale: filling the table with {behind:,} consumed rows and a backlog of {backlog:,}")
        workload.empty()
        workload.fill(behind, topic=topic, status="consumed")
        workload.fill(backlog, topic=topic)
        bench.write_text("plans-full-backlog.txt", plans.explain())
        for number, client in enumerate(turns, 1):
            bench.progress.say(f"scale: {client}, turn {number} of {len(turns)}, an empty table")
            with workload.another_table():
                empty[client].append(bench.relay("relay", client, bench.servers.near, each))
            bench.progress.say(f"scale: {client}, turn {number} of {len(turns)}")
            limit = each if number < len(turns) else None
            environment = bench.environment(client, bench.servers.near, topic)
            job = bench.run_jobs("relay", 1, environment, warm_up=WARM_UP_ROWS, limit=limit)
            job["rows_behind"] = behind
            loaded[client].append(job["per_second"])
            jobs[client].append(job)
            if number == len(turns) // 2:
                bench.write_text("plans-half-backlog.txt", plans.explain())
        check("published rows", workload.count("published"), backlog)
        bench.progress.say("scale: the idle poll")
        idle_at_once = plans.idle_poll_ms()
        bench.write_text("plans-drained.txt", plans.explain())
        workload.settle()
        idle = plans.idle_poll_ms()
        bench.write_text("plans-vacuumed.txt", plans.explain())
    workload.empty()

    for client in clients:
        name = f"relay, {client}"
        yield Line(
            f"{name}, {behind:,} rows behind, backlog {backlog:,}",
            "messages/s",
            loaded[client],
            empty[client],
            Target(least_ratio=LEAST_RATIO),
            beside="empty table",
            headline=True,
        )
        peaks = [job["peak_bytes"] / MEGABYTE for job in jobs[client]]
        yield Line(f"{name}, most memory", "MB", peaks, target=Target(most=PEAK_MB), headline=True)
        growth = [
            (job["peak_bytes"] - job["early_peak_bytes"]) / MEGABYTE for job in jobs[client] if job["early_peak_bytes"]
        ]
        yield Line(f"{name}, memory after the first tenth", "MB more", growth, target=Target(most=GROWTH_MB))
    yield Line(f"idle poll, in the database, {backlog:,} sent since the last vacuum", "ms", idle_at_once)
    yield Line(
        "idle poll, in the database, after a vacuum", "ms", idle, target=Target(most=IDLE_POLL_MS), headline=True
    )
