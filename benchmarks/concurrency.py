"""Consumers with several lanes: how many messages a second, by the number of lanes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.consume import Variant, figure
from benchmarks.report import Line, Target

# By the number of lanes: messages of a handler that waits 20 ms, and the least rate.
WAITING = {1: (300, None), 4: (1_500, None), 16: (8_000, 700), 64: (20_000, 2_500)}
VARIANTS = [
    *(
        Variant("consume", "bench.wait", lanes=lanes, rows=rows, partitions=1, has_effects=False)
        for lanes, (rows, _) in WAITING.items()
    ),
    *(Variant("consume", "bench.sql", lanes=lanes) for lanes in (1, 4)),
]


def measure(bench: Bench) -> Iterator[Line]:
    """A handler that waits, on one partition; and one that inserts a row, on four."""
    for client in CLIENTS:
        name = f"concurrency, {client}"
        if reason := missing_client(client):
            yield Line(name, "messages/s", missing=reason)
            continue
        rates: dict[tuple[str, int], list[float]] = {}
        for number, variant in bench.rounds(VARIANTS):
            what = f"{variant.event_type}, {variant.lanes} lanes"
            bench.progress.say(f"{name}: {what}, round {number + 1} of {bench.runs}")
            rates.setdefault((variant.event_type, variant.lanes), []).append(figure(bench, client, variant))
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
