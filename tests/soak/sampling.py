"""What is sampled: the processes, the database's size and connections, and the latency of messages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

MEGABYTE = 1 << 20
SIZES = """
    SELECT coalesce(sum(pg_table_size(oid)), 0), coalesce(sum(pg_indexes_size(oid)), 0)
    FROM pg_class WHERE relkind = 'r' AND relname LIKE 'django\\_outbox\\_%'
"""
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
ROWS = "SELECT count(*), coalesce(max(id), 0) FROM django_outbox_outboxmessage"
# Of messages that are at least one interval old, so that slow ones are among them.
LATENCIES = """
    SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
        ORDER BY extract(epoch FROM coalesce(consumed_at, clock_timestamp()) - created_at)
    )
    FROM django_outbox_outboxmessage WHERE id > %s AND id <= %s
"""
HANDLED = "SELECT coalesce(sum(handled), 0) FROM soak_account"
PUBLISHED = "SELECT coalesce(sum(published), 0) FROM soak_ledger"
DEAD = "SELECT count(*) FROM django_outbox_outboxmessage WHERE status = 'dead'"


def memory(pid: int) -> float:
    """A process's resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def descriptors(pid: int) -> int:
    """How many files, sockets and pipes a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@dataclass
class Samples:
    """The series of a run, by name. All have as many values as ``seconds``.

    Attributes:
        seconds: of each sample, from the beginning.
        handled: events that the handler had counted by then.
        published: events that were committed by then.
    """

    seconds: list[float] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)


class Sampler:
    """Takes samples of workers and their database."""

    def __init__(self, url: str, pids: Mapping[str, int]) -> None:
        """
        Args:
            url: of the database.
            pids: of the workers, by name.
        """
        self.samples = Samples()
        self._pids = pids
        self._connection = psycopg.connect(url, autocommit=True)
        self._newest: list[int] = []

    def take(self, second: float) -> None:
        """Add a sample, at a second of the run."""
        tables, indexes = self._row(SIZES)
        (connections,), (rows, newest) = self._row(CONNECTIONS), self._row(ROWS)
        self._newest.append(newest)
        if len(self._newest) < 3:
            return  # no message is old enough
        (latencies,) = self._connection.execute(LATENCIES, self._newest[-3:-1]).fetchone() or (None,)
        median, high = latencies or (0.0, 0.0)
        found = {
            **{f"memory of {name}, MB": memory(pid) for name, pid in self._pids.items()},
            **{f"descriptors of {name}": descriptors(pid) for name, pid in self._pids.items()},
            "connections": connections,
            "rows": rows,
            "tables, MB": float(tables) / MEGABYTE,
            "indexes, MB": float(indexes) / MEGABYTE,
            "latency p50, ms": median * 1000,
            "latency p99, ms": high * 1000,
        }
        for name, value in found.items():
            self.samples.series.setdefault(name, []).append(float(value))
        handled, published = self.counts()
        self.samples.seconds.append(second)
        self.samples.handled.append(handled)
        self.samples.published.append(published)

    def counts(self) -> tuple[int, int]:
        """How many events are handled, and published."""
        # In this order: what is published in between must not seem lost, nor handled before it was published.
        (handled,), (published,) = self._row(HANDLED), self._row(PUBLISHED)
        return int(handled), int(published)

    def dead(self) -> int:
        """How many messages were given up."""
        return int(self._row(DEAD)[0])

    def close(self) -> None:
        self._connection.close()

    def _row(self, query: str) -> tuple[int, ...]:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row
