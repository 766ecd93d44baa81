"""What all measurements share: servers, options, and the running of jobs with a fresh table and topic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from benchmarks import clients, servers, workload
from benchmarks.backends import CONFLUENT, KAFKA_PYTHON
from benchmarks.checks import check
from benchmarks.processes import Job
from benchmarks.report import RESULTS, Progress

WARM_UP_ROWS = 2000
CLIENTS = {"confluent": CONFLUENT, "kafka-python": KAFKA_PYTHON}

Variant = TypeVar("Variant")


@dataclass(slots=True)
class Bench:
    """One run of the suite."""

    servers: servers.Servers
    progress: Progress
    runs: int
    quick: bool = False
    rows: int | None = None
    scale_rows: int | None = None
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def amount(self, usual: int) -> int:
        """How many rows a measurement uses, given what it usually does."""
        if self.rows is not None:
            return self.rows
        return max(usual // 10, 1000) if self.quick else usual

    def rounds(self, variants: Sequence[Variant], runs: int | None = None) -> Iterator[tuple[int, Variant]]:
        """Each variant once a round, every round beginning with another one."""
        for number in range(runs or self.runs):
            shift = number % len(variants)
            for variant in (*variants[shift:], *variants[:shift]):
                yield number, variant

    def environment(self, client: str, url: str, topic: str, **others: str) -> dict[str, str]:
        """What a process has to know of this run."""
        return {
            "DATABASE_URL": self.servers.database,
            "KAFKA_URL": url,
            "BENCH_BACKEND": CLIENTS[client],
            "BENCH_TOPIC": topic,
            "BENCH_GROUP": topic,
            **others,
        }

    def run_jobs(self, name: str, count: int, environment: Mapping[str, str], **arguments: Any) -> dict[str, Any]:
        """Run processes side by side from the first one's start to the last one's end."""
        return self.run_prepared(name, count, environment, lambda: None, **arguments)

    def run_prepared(
        self, name: str, count: int, environment: Mapping[str, str], prepare: Callable[[], None], **arguments: Any
    ) -> dict[str, Any]:
        """As ``run_jobs``; ``prepare`` is called when all are warm and wait for the word."""
        load = os.getloadavg()[0]
        with ExitStack() as stack:
            jobs = [stack.enter_context(Job(name, environment, **arguments)) for _ in range(count)]
            for job in jobs:
                job.wait_until_ready()
            prepare()
            for job in jobs:
                job.go()
            results = [job.result() for job in jobs]
        rows = sum(result["rows"] for result in results)
        seconds = max(result["last"] for result in results) - min(result["first"] for result in results)
        found = {
            "job": name,
            "processes": count,
            "client": environment["BENCH_BACKEND"].rpartition(".")[2],
            "far": environment["KAFKA_URL"] == self.servers.far,
            **arguments,
            "rows": rows,
            "seconds": seconds,
            "per_second": rows / seconds if rows else 0.0,
            "cpu_microseconds_a_row": 1e6 * sum(result["cpu"] for result in results) / max(rows, 1),
            "passes": [result["passes"] for result in results],
            "peak_bytes": max(result.get("peak_bytes", 0) for result in results),
            "early_peak_bytes": max(result.get("early_peak_bytes", 0) for result in results),
            "load_before": load,
        }
        self.jobs.append(found)
        return found

    def relay(
        self,
        name: str,
        client: str,
        url: str,
        rows: int,
        *,
        processes: int = 1,
        keys: int = workload.KEYS,
        ordering: str = "key",
        limit: int | None = None,
        **arguments: Any,
    ) -> float:
        """Let jobs carry a backlog out to a topic of its own, or at least ``limit`` of it; messages a second.

        Raises:
            WorkNotDone: if not every row is published and every message readable.
        """
        with self.topic(url) as topic:
            workload.empty()
            workload.fill(WARM_UP_ROWS, topic=topic, keys=keys)

            def prepare() -> None:
                workload.empty()
                workload.fill(rows, topic=topic, keys=keys)

            environment = self.environment(client, url, topic, BENCH_ORDERING=ordering)
            found = self.run_prepared(name, processes, environment, prepare, limit=limit, **arguments)
            found.update(keys=keys, ordering=ordering, backlog=rows)
            sent = found["rows"]
            if limit is None or sent < limit:  # its last batch may go beyond the limit
                check("rows that the job counted", sent, limit or rows)
            check("published rows", workload.count("published"), sent)
            readable = clients.distinct_messages(url, topic, WARM_UP_ROWS + sent)
            check("readable messages", readable, WARM_UP_ROWS + sent)
        rate: float = found["per_second"]
        return rate

    def write_text(self, name: str, text: str) -> None:
        """Write a file beside the results."""
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.with_name(name).write_text(text)

    @contextmanager
    def topic(self, url: str, partitions: int = servers.PARTITIONS) -> Iterator[str]:
        with servers.topic(url, partitions) as name:
            yield name


def missing_client(client: str) -> str:
    """Why this client cannot be measured; empty if it can."""
    module = CLIENTS[client].rpartition(".")[0]
    try:
        import_module(module)
    except ImportError:
        return "not available"
    return ""
