"""The consumer: how fast published messages are handled, beside a raw loop that does what the handler does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.bench import CLIENTS, Bench, missing_client
from benchmarks.checks import WorkNotDone
from benchmarks.models import Effect
from benchmarks.report import Line, Target
from benchmarks.servers import PARTITIONS

ROWS = 20_000  # of which some are read before all partitions have been handled with care
BATCH = 500


@dataclass(frozen=True)
class Variant:
    """A job, the type of its events, which chooses the handler, the size of its batches, and the consumer's lanes."""

    job: str
    event_type: str
    prepared: bool = False
    batch: int = 0
    lanes: int = 1
    rows: int = ROWS
    partitions: int = PARTITIONS
    has_effects: bool = True


VARIANTS = {
    "raw": Variant("raw_consume", "bench.sql"),
    "sql": Variant("consume", "bench.sql"),
    "prepared": Variant("consume", "bench.sql", prepared=True),
    "loop": Variant("call_loop", "bench.sql", prepared=True),
    "orm": Variant("consume", "bench.orm"),
    "batch": Variant("consume", "bench.batch", batch=BATCH),
    "one by one": Variant("consume", "bench.batch", batch=1),
}


def measure(bench: Bench) -> Iterator[Line]:
    """Both clients; the handler inserts a row by one statement, as the raw loop does, or through the ORM, or many at once."""
    for client in CLIENTS:
        name = f"consume, {client}"
        if reason := missing_client(client):
            yield Line(name, "messages/s", missing=reason)
            continue
        found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for number, variant in bench.rounds(list(VARIANTS)):
            bench.progress.say(f"{name}: {variant}, round {number + 1} of {bench.runs}")
            found[variant].append(figure(bench, client, VARIANTS[variant]))
        least = Target(least_ratio=0.5, least=10_000 if client == "confluent" else None)
        yield Line(name, "messages/s", found["sql"], found["raw"], least, headline=True)
        yield Line(f"{name}, prepared statements", "messages/s", found["prepared"], found["raw"], least, headline=True)
        calls = f"{name}, prepared statements, beside a loop that calls the handler"
        yield Line(calls, "messages/s", found["prepared"], found["loop"], Target(least_ratio=0.8), headline=True)
        yield Line(f"{name}, handler uses the ORM", "messages/s", found["orm"], found["raw"])
        least = Target(least_ratio=3.0)
        batches = f"{name}, batches of {BATCH}"
        yield Line(
            batches, "messages/s", found["batch"], found["one by one"], least, beside="one by one", headline=True
        )


def figure(bench: Bench, client: str, variant: Variant) -> float:
    """Publish a backlog by a raw loop, then let the job handle it; messages a second."""
    from django_outbox.consumer.concurrency import read_ahead
    from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE

    rows = bench.amount(variant.rows)
    # After its start a consumer takes the first records of each partition one by one.
    warm_up = 2 * variant.partitions * read_ahead(max(DEFAULT_BATCH_SIZE, variant.batch), variant.lanes)
    with bench.topic(bench.servers.near, variant.partitions) as topic:
        workload.empty()
        workload.fill(rows + warm_up, topic=topic, event_type=variant.event_type)
        options = {"BENCH_PREPARED": str(int(variant.prepared)), "BENCH_BATCH": str(variant.batch)}
        environment = bench.environment(client, bench.servers.near, topic, **options)
        bench.run_jobs("raw_publish", 1, environment)
        workload.settle()
        if variant.job == "threaded_loop":
            arguments = {"threads": variant.lanes, "handler": variant.event_type}
        else:
            arguments = {"concurrency": variant.lanes} if variant.lanes > 1 else {}
        found = bench.run_jobs(variant.job, 1, environment, rows=rows, warm_up=warm_up, **arguments)
    found.update(event_type=variant.event_type, prepared=variant.prepared, batch=variant.batch, lanes=variant.lanes)
    done = (workload.count("consumed"), Effect.objects.count())
    expected = (rows + warm_up, rows + warm_up if variant.has_effects else 0)
    if done != expected:
        raise WorkNotDone(f"consumed messages and rows of handlers: {done} instead of {expected}")
    rate: float = found["per_second"]
    return rate
