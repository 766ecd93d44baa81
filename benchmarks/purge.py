"""Purging: how fast it is, and what the relay's own costs the relay."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks import latency, workload
from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.checks import check, wait_for
from benchmarks.processes import Command
from benchmarks.report import Line, Target
from django_outbox.conf import settings
from django_outbox.handlers.registry import Registry
from django_outbox.models import Worker
from django_outbox.relay.growth import MOST_CLAIMS
from django_outbox.state.purging import Walk
from django_outbox.state.retention import expiries

OLD_ROWS = 200_000
ROWS = {"confluent": 80_000, "kafka-python": 40_000}
WARM_UP_ROWS = 2_000
IDLE_SECONDS = 10
MOST_ROUNDS = 3
LEAST_RATIO = 0.9
TOPIC = "purged"


def measure(bench: Bench) -> Iterator[Line]:
    """The command's speed; that of an idle relay; rate and latency of a relay with old messages beside one without."""
    yield Line("outbox_purge", "messages/s", [_by_command(bench) for _ in range(min(bench.runs, MOST_ROUNDS))])
    yield Line("purge by an idle relay", "messages/s", [_by_idle_relay(bench)])
    for client in CLIENTS:
        if reason := missing_client(client):
            yield Line(f"relay that purges, {client}", "messages/s", missing=reason)
            continue
        yield from _rates(bench, client)
    client = next(client for client in CLIENTS if not missing_client(client))
    yield from _latencies(bench, client)


def _by_command(bench: Bench) -> float:
    """Messages a second, one after the other 1,000, as the command deletes them."""
    rows = _prepare(bench)
    (expiry,) = (each for each in expiries(settings.retention, Registry()) if "consumed" in each.ages)
    started = time.monotonic()
    for _ in Walk(expiry, using="default").steps(lambda: 1000):
        pass
    seconds = time.monotonic() - started
    check("messages left", workload.count("consumed"), 0)
    return rows / seconds


def _by_idle_relay(bench: Bench) -> float:
    """Messages a second, within its share of a relay's time that has nothing to send."""
    rows = _prepare(bench)
    with bench.topic(bench.servers.near) as topic:
        client = next(client for client in CLIENTS if not missing_client(client))
        environment = bench.environment(client, bench.servers.near, topic, BENCH_PURGE="1")
        with Command("outbox_relay", environment):
            wait_for(lambda: rows - workload.count("consumed"), 1, "purged messages")
            before, started = workload.count("consumed"), time.monotonic()
            time.sleep(IDLE_SECONDS)
            after, seconds = workload.count("consumed"), time.monotonic() - started
    return (before - after) / seconds


def _rates(bench: Bench, client: str) -> Iterator[Line]:
    """What a relay sends a second while it purges, beside the same with PURGE off and as much behind it."""
    rows = bench.amount(ROWS[client])
    found: dict[bool, list[float]] = {True: [], False: []}
    purged: list[float] = []
    for number, purges in bench.rounds([True, False]):
        beside = "that purges" if purges else "that does not"
        bench.progress.say(f"purge: relay, {client}, {beside}, round {number + 1} of {bench.runs}")
        with bench.topic(bench.servers.near) as topic:
            old = _prepare(bench)
            batch = MOST_CLAIMS * settings.relay_batch_size  # by as much, the warm-up may end later
            workload.fill(WARM_UP_ROWS + batch + rows, topic=topic)
            environment = bench.environment(client, bench.servers.near, topic)
            job = bench.run_jobs("relay", 1, environment, warm_up=WARM_UP_ROWS, limit=rows, purge=purges)
        found[purges].append(job["per_second"])
        gone = old - workload.count("consumed")
        if purges:
            purged.append(gone / job["seconds"])
        else:
            check("purged messages", gone, 0)
    yield Line(
        f"relay that purges, {client}",
        "messages/s",
        found[True],
        found[False],
        Target(least_ratio=LEAST_RATIO),
        beside="PURGE off",
    )
    yield Line(f"purged beside, {client}", "messages/s", purged)


def _latencies(bench: Bench, client: str) -> Iterator[Line]:
    """Commit to record, 100 messages a second, with NOTIFY, while it purges and with PURGE off."""
    rounds = min(bench.runs, MOST_ROUNDS)
    found: dict[bool, list[list[float]]] = {True: [], False: []}
    for number, purges in bench.rounds([True, False], rounds):
        bench.progress.say(f"purge: latency, {client}, PURGE {purges}, round {number + 1} of {rounds}")
        samples = latency.samples_of(
            bench,
            client,
            "record",
            latency.NOTIFY,
            prepare=lambda: _prepare(bench),
            BENCH_PURGE=str(int(purges)),
        )
        found[purges].append(samples)
    for percentile in latency.PERCENTILES:
        runs, beside = ([latency.percentile_of(each, percentile) for each in found[purges]] for purges in (True, False))
        yield Line(
            f"latency, {client}, commit to record, NOTIFY, relay that purges, p{percentile}",
            "ms",
            runs,
            beside,
            beside="PURGE off",
        )


def _prepare(bench: Bench) -> int:
    """Nothing but old messages; returns how many."""
    rows = bench.amount(OLD_ROWS)
    workload.empty()
    Worker.objects.all().delete()  # those of jobs that ended without a word
    workload.fill(rows, topic=TOPIC, status="consumed", days_ago=30)
    return rows
