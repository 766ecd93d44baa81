"""Consumers with several lanes: how many messages a second, by the number of lanes, beside a loop with as many threads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.consume import Variant, figure
from benchmarks.report import Line, Point, Target

# By the number of lanes: messages of a handler that waits 20 ms, and the least rate.
WAITING = {1: (300, None), 4: (1_500, None), 16: (8_000, 700), 64: (20_000, 2_500)}


def _waiting(job: str, lanes: int, event_type: str = "bench.wait") -> Variant:
    rows, _ = WAITING[lanes]
    return Variant(job, event_type, lanes=lanes, rows=rows, partitions=1, has_effects=False)


LANES = {lanes: _waiting("consume", lanes) for lanes in WAITING}
THREADS = {lanes: _waiting("threaded_loop", lanes) for lanes in WAITING}
ASYNC = {lanes: _waiting("consume", lanes, "bench.async") for lanes in (16, 64)}
INSERTING = {lanes: Variant("consume", "bench.sql", prepared=True, lanes=lanes) for lanes in (1, 4)}
VARIANTS = [*LANES.values(), *THREADS.values(), *ASYNC.values(), *INSERTING.values()]


def measure(bench: Bench) -> Iterator[Line]:
    """Handlers that wait, on one partition; and one that inserts a row, on four."""
    for client in CLIENTS:
        name = f"concurrency, {client}"
        if reason := missing_client(client):
            yield Line(name, "messages/s", missing=reason)
            continue
        rates: dict[Variant, list[float]] = {}
        for number, variant in bench.rounds(VARIANTS):
            what = f"{variant.job}, {variant.event_type}, {variant.lanes}"
            bench.progress.say(f"{name}: {what}, round {number + 1} of {bench.runs}")
            rates.setdefault(variant, []).append(figure(bench, client, variant))
        for lanes, (_, least) in WAITING.items():
            yield Line(
                f"{name}, handler waits 20 ms, N = {lanes}",
                "messages/s",
                rates[LANES[lanes]],
                rates[THREADS[lanes]],
                Target(least=least),
                beside="a loop with N threads",
                headline=True,
                point=Point("concurrency", client, lanes),
            )
        for lanes, variant in ASYNC.items():
            yield Line(
                f"{name}, async handler waits 20 ms, N = {lanes}",
                "messages/s",
                rates[variant],
                rates[LANES[lanes]],
                beside="not async",
                headline=True,
            )
        yield Line(
            f"{name}, handler inserts a row, N = 4",
            "messages/s",
            rates[INSERTING[4]],
            rates[INSERTING[1]],
            Target(least_ratio=1.0),
            beside="N = 1",
            headline=True,
        )
