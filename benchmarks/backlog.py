"""The relay and raw loops by the size of the backlog, for the plot."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.report import Line, Point

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROWS_SENT = {"confluent": 100_000, "kafka-python": 50_000}  # of a backlog, at most
MOST_ROUNDS = 3
ROUNDS_FROM = {1_000_000: 1}  # filling the table takes long


def measure(bench: Bench) -> Iterator[Line]:
    """Messages a second with so many due; the first of them, and all of a small backlog."""
    for client in CLIENTS:
        if reason := missing_client(client):
            yield Line(f"backlog, {client}", "messages/s", missing=reason)
            continue
        for size in dict.fromkeys(bench.amount(size) if bench.quick else size for size in SIZES):
            rounds = min([bench.runs, MOST_ROUNDS, *(most for least, most in ROUNDS_FROM.items() if size >= least)])
            found: dict[str, list[float]] = {"raw_relay": [], "relay": []}
            for number, job in bench.rounds(list(found), rounds):
                bench.progress.say(f"backlog of {size:,}, {client}: {job}, round {number + 1} of {rounds}")
                limit = min(size, ROWS_SENT[client])
                found[job].append(bench.relay(job, client, bench.servers.near, size, limit=limit))
            point = Point("backlog", client, size)
            yield Line(f"backlog of {size:,}, {client}", "messages/s", found["relay"], found["raw_relay"], point=point)
