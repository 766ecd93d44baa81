"""Consumers with several lanes: how many messages a second, by the number of lanes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import workload
from benchmarks.bench import CLIENTS, Bench, WorkNotDone, missing_client
from benchmarks.report import Line, Target
from benchmarks.servers import PARTITIONS

# By the number of lanes: messages of a handler that waits 20 ms, and the least rate.
WAITING = {1: (300, None), 4: (1_500, None), 16: (8_000, 700), 64: (20_000, 2_500)}
BUSY = {1: 20_000, 4: 20_000}


def measure(bench: Bench) -> Iterator[Line]:
    """A handler that waits, on one partition; and one that inserts a row, on four."""
    for client in CLIENTS:
        name = f"concurrency, {client}"
        if reason := missing_client(client):
            yield Line(name, "messages/s", missing=reason)
            continue
        rates: dict[tuple[str, int], list[float]] = {}
        variants = [*(("bench.wait", lanes) for lanes in WAITING), *(("bench.sql", lanes) for lanes in BUSY)]
        for number, (event_type, lanes) in bench.rounds(variants):
            bench.progress.say(f"{name}: {event_type}, {lanes} lanes, round {number + 1} of {bench.runs}")
            rate = _figure(bench, client, event_type, lanes)
            rates.setdefault((event_type, lanes), []).append(rate)
        for lanes, (_, least) in WAITING.items():
            yield Line(
                f"{name}, handler waits 20 ms, {lanes} lanes",
                "messages/s",
                rates["bench.wait", lanes],
                rates["bench.wait", 1],
                Target(least=least),
                beside="1 lane",
                headline=True,
            )
        yield Line(
            f"{name}, handler inserts a row, 4 lanes",
            "messages/s",
            rates["bench.sql", 4],
            rates["bench.sql", 1],
            Target(least_ratio=1.0),
            beside="1 lane",
            headline=True,
        )


def _figure(bench: Bench, client: str, event_type: str, lanes: int) -> float:
    """Publish a backlog by a raw loop, then let one consumer handle it; messages a second."""
    waits = event_type == "bench.wait"
    partitions = 1 if waits else PARTITIONS
    rows = bench.amount(WAITING[lanes][0] if waits else BUSY[lanes])
    # After its start a consumer counts each delivery of the first messages of a partition.
    warm_up = partitions * (100 if lanes == 1 else max(1_000, 32 * lanes)) * (1 if waits else 2)
    with bench.topic(bench.servers.near, partitions) as topic:
        workload.empty()
        workload.fill(rows + warm_up, topic=topic, event_type=event_type)
        environment = bench.environment(client, bench.servers.near, topic)
        bench.run_jobs("raw_publish", 1, environment)
        workload.settle()
        found = bench.run_jobs("consume", 1, environment, rows=rows, warm_up=warm_up, concurrency=lanes)
    found.update(event_type=event_type)
    if (done := workload.count("consumed")) != rows + warm_up:
        raise WorkNotDone(f"consumed messages: {done} instead of {rows + warm_up}")
    rate: float = found["per_second"]
    return rate
