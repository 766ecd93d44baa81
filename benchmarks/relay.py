"""The relay: how fast a backlog is carried out, beside a raw loop with the same client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.report import Line, Target

ROWS = {"confluent": 40_000, "kafka-python": 20_000}
LEAST_RATIO = {"confluent": 0.6, "kafka-python": 0.7}
BARE_RATE = Target(least_ratio=0.8)
BARE_CPU = {"confluent": Target(most_ratio=1.5), "kafka-python": Target()}

# By name: the job and what it is given. The first of each place is what the others are beside.
NEAR: dict[str, dict[str, Any]] = {
    "raw": {"name": "raw_relay"},
    "bare": {"name": "raw_relay", "bare": True},
    "raw, 2 loops": {"name": "raw_relay", "processes": 2},
    "ordered": {"name": "relay"},
    "unordered": {"name": "relay", "ordering": "none"},
    "2 relays": {"name": "relay", "processes": 2},
    "10 keys": {"name": "relay", "keys": 10},
}
FAR: dict[str, dict[str, Any]] = {"raw": {"name": "raw_relay"}, "ordered": {"name": "relay"}}


def measure(bench: Bench) -> Iterator[Line]:
    """Both clients, near and far."""
    for client in CLIENTS:
        if reason := missing_client(client):
            yield Line(f"relay, {client}", "messages/s", missing=reason)
            continue
        least = Target(least_ratio=LEAST_RATIO[client])
        near = _figures(bench, client, bench.servers.near, NEAR)
        name = f"relay, {client}"
        raw = near["raw"]
        yield Line(name, "messages/s", near["ordered"], raw, least, headline=True)
        yield Line(
            f"{name}, beside a bare loop",
            "messages/s",
            near["ordered"],
            near["bare"],
            BARE_RATE,
            beside="bare loop",
            headline=True,
        )
        cpu = [near["ordered, CPU"], near["bare, CPU"]]
        target = BARE_CPU[client]
        yield Line(f"{name}, processor time", "us a message", *cpu, target, beside="bare loop", headline=True)
        yield Line(f"{name}, ORDERING none", "messages/s", near["unordered"], raw)
        yield Line(f"{name}, 2 relays", "messages/s", near["2 relays"], near["raw, 2 loops"], beside="2 loops")
        yield Line(
            f"{name}, 10 keys",
            "messages/s",
            near["10 keys"],
            near["ordered"],
            Target(least_ratio=0.8),
            beside="1,000 keys",
            headline=True,
        )
        if bench.servers.far is None:
            yield Line(f"{name}, broker 2 ms away", "messages/s", missing="set FAR_KAFKA_URL", target=least)
            continue
        far = _figures(bench, client, bench.servers.far, FAR)
        yield Line(f"{name}, broker 2 ms away", "messages/s", far["ordered"], far["raw"], least, headline=True)


def _figures(bench: Bench, client: str, url: str, variants: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Messages a second, by variant and round; with ", CPU" after its name, microseconds of processor time a message."""
    rows = bench.amount(ROWS[client])
    place = "" if url == bench.servers.near else ", 2 ms away"
    found: dict[str, list[float]] = {name: [] for variant in variants for name in (variant, f"{variant}, CPU")}
    for number, variant in bench.rounds(list(variants)):
        bench.progress.say(f"relay, {client}{place}: {variant}, round {number + 1} of {bench.runs}")
        arguments = dict(variants[variant])
        found[variant].append(bench.relay(arguments.pop("name"), client, url, rows, **arguments))
        found[f"{variant}, CPU"].append(bench.jobs[-1]["cpu_microseconds_a_row"])
    return found
