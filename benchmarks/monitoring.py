"""``python -m benchmarks.monitoring``: what signals and metrics cost a message, in processor time of relay and consumer.

On PostgreSQL, with a broker in the process's own memory, so that nothing but the package's own work is measured; the
handler inserts one row. The ways take turns in every round, each round begins with another one, and each figure is
the median of the rounds. Processor time, unlike rates, hardly changes when the machine has other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import django

from tests.support.servers.postgres import PostgreSQL

WAYS = ("off", "signals", "metrics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with PostgreSQL() as server:
        os.environ["DATABASE_URL"] = server.url
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0, run_syncdb=True)
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                found[way].append(_measure(way, options.rows))
        connection.close()
    print(f"{'microseconds of processor time a message':<42}{'relay':>8}{'consumer':>10}")
    for way, figures in found.items():
        relay, consumer = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{way:<42}{relay:>8.2f}{consumer:>10.2f}")


def _measure(way: str, rows: int) -> tuple[float, float]:
    """Processor time a message of relay and of consumer, in microseconds."""
    from benchmarks import workload
    from django_outbox.brokers.memory import MemoryBroker
    from django_outbox.conf import BrokerSettings
    from django_outbox.consumer.consumer import Consumer
    from django_outbox.relay.relay import Relay

    MemoryBroker.clear()
    workload.empty()
    workload.fill(rows, topic="benchmarks")
    broker = MemoryBroker(BrokerSettings(url="memory://bench", options={"partitions": 4}))
    relay = Relay(broker, using="default")
    consumer = Consumer(broker, using="default", topics=["benchmarks"])
    with _watching(way, consumer):
        sent = _microseconds(lambda: relay.run_once().published, rows)
        workload.settle()
        warm = 0
        while warm < 2_000 or consumer.lanes.guard:
            warm += consumer.run_once().consumed
        handled = _microseconds(lambda: consumer.run_once().consumed, rows - warm)
    relay.close()
    consumer.close()
    return sent, handled


def _microseconds(step: Callable[[], int], rows: int) -> float:
    done, started = 0, time.process_time()
    while done < rows:
        done += step()
    return (time.process_time() - started) / rows * 1e6


@contextmanager
def _watching(way: str, consumer: Any) -> Iterator[None]:
    from django_outbox.observability.instrumentation import observed_by
    from django_outbox.observability.metrics import Metrics
    from django_outbox.signals import message_consumed, message_published

    with ExitStack() as stack:
        if way == "signals":
            for signal in (message_published, message_consumed):
                signal.connect(_listen)
                stack.callback(signal.disconnect, _listen)
        elif way == "metrics":
            metrics = Metrics(known_types=consumer.handlers.types)
            metrics.counters.update(Metrics().counters)  # both halves in one process
            consumer.handlers.replace_each(metrics.timed)
            stack.enter_context(observed_by(metrics))
        yield


def _listen(**arguments: Any) -> None:
    """A receiver that does nothing."""


if __name__ == "__main__":
    main()
