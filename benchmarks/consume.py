"""The consumer: how fast published messages are handled, beside a raw loop that does what the handler does."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import workload
from benchmarks.bench import CLIENTS, Bench, WorkNotDone, missing_client
from benchmarks.models import Effect
from benchmarks.report import Line, Target
from benchmarks.servers import PARTITIONS

ROWS = 20_000  # of which some are read before all partitions have been handled with care
# By name: the job and the type of its events, which chooses the handler.
VARIANTS = {
    "raw": ("raw_consume", "bench.sql"),
    "sql": ("consume", "bench.sql"),
    "prepared": ("consume", "bench.sql"),
    "orm": ("consume", "bench.orm"),
}


def measure(bench: Bench) -> Iterator[Line]:
    """Both clients; the handler inserts a row by one statement, as the raw loop does, or through the ORM."""
    for client in CLIENTS:
        name = f"consume, {client}"
        if reason := missing_client(client):
            yield Line(name, "messages/s", missing=reason)
            continue
        found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for number, variant in bench.rounds(list(VARIANTS)):
            bench.progress.say(f"{name}: {variant}, round {number + 1} of {bench.runs}")
            found[variant].append(_figure(bench, client, *VARIANTS[variant], prepared=variant == "prepared"))
        least = Target(least_ratio=0.5, least=10_000 if client == "confluent" else None)
        yield Line(name, "messages/s", found["sql"], found["raw"], least, headline=True)
        yield Line(f"{name}, prepared statements", "messages/s", found["prepared"], found["raw"], least, headline=True)
        yield Line(f"{name}, handler uses the ORM", "messages/s", found["orm"], found["raw"])


def _figure(bench: Bench, client: str, job: str, event_type: str, *, prepared: bool) -> float:
    """Publish a backlog by a raw loop, then let the job handle it; messages a second."""
    from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE

    rows = bench.amount(ROWS)
    # After its start a consumer takes the first batches of each partition one by one.
    warm_up = 2 * PARTITIONS * DEFAULT_BATCH_SIZE
    with bench.topic(bench.servers.near) as topic:
        workload.empty()
        workload.fill(rows + warm_up, topic=topic, event_type=event_type)
        environment = bench.environment(client, bench.servers.near, topic, BENCH_PREPARED=str(int(prepared)))
        bench.run_jobs("raw_publish", 1, environment)
        workload.settle()
        found = bench.run_jobs(job, 1, environment, rows=rows, warm_up=warm_up)
    found.update(event_type=event_type, prepared=prepared)
    done = (workload.count("consumed"), Effect.objects.count())
    if done != (rows + warm_up, rows + warm_up):
        raise WorkNotDone(f"consumed messages and rows of handlers: {done} instead of {rows + warm_up} each")
    rate: float = found["per_second"]
    return rate
