"""Latency at 100 messages a second: from commit to the record in Kafka, and to the handler."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from django.db import transaction

from benchmarks import workload
from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.checks import WorkNotDone, wait_for
from benchmarks.models import Effect
from benchmarks.processes import Command, Job
from benchmarks.report import Line, Target
from django_outbox import publish

PER_SECOND = 100
SECONDS = 4
WARM_UP_SECONDS = 1
MOST_ROUNDS = 5  # most of a round is starting and stopping
ABOVE_FLOOR_MS = 1.5
P99_MS = 15.0
AFTER_HALF_A_POLL_MS = 20.0
PERCENTILES = (50, 95, 99)
Variant = tuple[str, str]
"""Where to, and how the relay gets to know of a message."""
FLOOR: Variant = ("floor", "producer to reader")
POLLING, NOTIFY, PREPARED = "polling", "NOTIFY", "NOTIFY, prepared statements"
VARIANTS: list[Variant] = [
    FLOOR,
    ("record", NOTIFY),
    ("record", PREPARED),
    ("record", POLLING),
    ("handler", NOTIFY),
    ("handler", POLLING),
]


def measure(bench: Bench) -> Iterator[Line]:
    """Both clients: the floor, that is a producer and a reader alone; then how the relay gets to know."""
    from django_outbox.conf import settings

    rounds = min(bench.runs, MOST_ROUNDS)
    half_a_poll_ms = 1000 * settings.poll_interval / 2
    for client in CLIENTS:
        if reason := missing_client(client):
            yield Line(f"latency, {client}", "ms", missing=reason)
            continue
        found: dict[Variant, list[list[float]]] = {variant: [] for variant in VARIANTS}
        for number, variant in bench.rounds(VARIANTS, rounds):
            bench.progress.say(f"latency, {client}: {', '.join(variant)}, round {number + 1} of {rounds}")
            found[variant].append(_floor(bench, client) if variant == FLOOR else samples_of(bench, client, *variant))
        floor = statistics.median(percentile_of(samples, 50) for samples in found[FLOOR])
        for variant in VARIANTS:
            to, way = variant
            name = f"latency, {client}, " + (f"floor: {way}" if variant == FLOOR else f"commit to {to}, {way}")
            for percentile in PERCENTILES:
                target = Target()
                if to == "record" and percentile == 50:
                    target = Target(
                        most=half_a_poll_ms + AFTER_HALF_A_POLL_MS if way == POLLING else floor + ABOVE_FLOOR_MS
                    )
                elif to == "record" and percentile == 99 and way != POLLING:
                    target = Target(most=P99_MS)
                runs = [percentile_of(samples, percentile) for samples in found[variant]]
                yield Line(f"{name}, p{percentile}", "ms", runs, target=target, headline=percentile != 95)


def percentile_of(samples: Sequence[float], percentile: int) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[percentile - 1]


def _floor(bench: Bench, client: str) -> list[float]:
    """Milliseconds from sending to reading, with nothing between."""
    with bench.topic(bench.servers.near) as topic:
        environment = bench.environment(client, bench.servers.near, topic)
        with Job("read", environment, count=message_count()) as reader, Job("send", environment, **pace()) as sender:
            return between(results(sender, reader))


def samples_of(
    bench: Bench, client: str, to: str, way: str, prepare: Callable[[], object] = workload.empty, **others: str
) -> list[float]:
    """Milliseconds from commit to the record or to the handler, with real commands at work."""
    prepare()
    with bench.topic(bench.servers.near) as topic, ExitStack() as stack:
        environment = bench.environment(
            client,
            bench.servers.near,
            topic,
            BENCH_NOTIFY=str(int(way != POLLING)),
            BENCH_PREPARED=str(int(way == PREPARED)),
            **others,
        )
        stack.enter_context(Command("outbox_relay", environment))
        if to == "handler":
            stack.enter_context(Command("outbox_consume", environment))
        with transaction.atomic():
            publish("bench.sql", workload.payload(), topic=topic)
        status = "consumed" if to == "handler" else "published"
        wait_for(lambda: workload.count(status), 1, f"{status} messages")
        writer = stack.enter_context(Job("write", environment, **pace()))
        if to == "record":
            # One more: that of the message above.
            reader = stack.enter_context(Job("read", environment, count=message_count() + 1))
            return between(results(writer, reader))
        writer.wait_until_ready()
        writer.go()
        written = writer.result()["times"]
        wait_for(lambda: workload.count("consumed"), message_count() + 1, "consumed messages")
        handled = dict(Effect.objects.values_list("event_id", "handled_at"))
        return between((written, handled))


def pace() -> dict[str, int]:
    return {"count": message_count(), "per_second": PER_SECOND}


def message_count() -> int:
    return PER_SECOND * (WARM_UP_SECONDS + SECONDS)


def results(writer: Job, reader: Job) -> tuple[dict[str, float], dict[str, float]]:
    for job in (reader, writer):
        job.wait_until_ready()
        job.go()
    return writer.result()["times"], reader.result()["times"]


def between(times: tuple[dict[str, float], dict[str, float]]) -> list[float]:
    """Milliseconds a message, without the warm-up."""
    written, arrived = times
    if lost := written.keys() - arrived.keys():
        raise WorkNotDone(f"{len(lost)} of {len(written)} messages did not arrive")
    in_order = sorted(written, key=written.__getitem__)[PER_SECOND * WARM_UP_SECONDS :]
    return [1000 * (arrived[event_id] - written[event_id]) for event_id in in_order]
