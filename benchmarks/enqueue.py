"""Writing: ``publish`` beside ``Model.objects.create``, ``publish_many`` beside ``bulk_create``, of equal rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import transaction

from benchmarks import workload
from benchmarks.bench import Bench, WorkNotDone
from benchmarks.report import Line, Target
from django_outbox import Event, publish, publish_many
from django_outbox.models import OutboxMessage

SINGLES = 4_000
MANY = 20_000
BULK = 1000
EVENT_TYPE = "bench.sql"
TOPIC = "benchmarks"

Writer = Callable[[int], Any]


def measure(bench: Bench) -> Iterator[Line]:
    """One message a transaction, and a thousand."""
    singles: dict[str, Writer] = {"publish": _publish, "create": _create}
    many: dict[str, Writer] = {"publish_many": _publish_many, "bulk_create": _bulk_create}
    found: dict[str, list[float]] = {name: [] for name in (*singles, *many)}
    for number, name in bench.rounds([*singles, *many]):
        bench.progress.say(f"enqueue: {name}, round {number + 1} of {bench.runs}")
        if name in singles:
            found[name].append(_rate(bench, name, singles[name], bench.amount(SINGLES), 1))
        else:
            found[name].append(_rate(bench, name, many[name], max(bench.amount(MANY), BULK), BULK))
    yield Line(
        "publish, 1 a transaction",
        "rows/s",
        found["publish"],
        found["create"],
        Target(least_ratio=0.8),  # 1.25 times the time
        beside="objects.create",
        headline=True,
    )
    yield Line(
        "publish_many, 1,000 a transaction",
        "rows/s",
        found["publish_many"],
        found["bulk_create"],
        Target(least_ratio=0.8),
        beside="bulk_create",
        headline=True,
    )


def _rate(bench: Bench, name: str, write: Writer, rows: int, size: int) -> float:
    workload.empty()
    for start in range(0, 20 * size, size):  # warm-up
        with transaction.atomic():
            write(start)
    workload.empty()
    rows -= rows % size
    cpu, first = time.process_time(), time.monotonic()
    for start in range(0, rows, size):
        with transaction.atomic():
            write(start)
    seconds, cpu = time.monotonic() - first, time.process_time() - cpu
    if workload.count("pending") != rows:
        raise WorkNotDone(f"{name}: {workload.count('pending')} rows instead of {rows}")
    bench.jobs.append({"job": name, "rows": rows, "seconds": seconds, "cpu_microseconds_a_row": 1e6 * cpu / rows})
    return rows / seconds


def _key(number: int) -> str:
    return f"customer-{number % workload.KEYS}"


def _publish(number: int) -> None:
    publish(EVENT_TYPE, workload.payload(number), key=_key(number))


def _create(number: int) -> None:
    OutboxMessage.objects.create(
        event_type=EVENT_TYPE, topic=TOPIC, message_key=_key(number), payload=workload.payload(number)
    )


def _publish_many(start: int) -> None:
    publish_many(
        [
            Event(type=EVENT_TYPE, payload=workload.payload(number), key=_key(number))
            for number in range(start, start + BULK)
        ]
    )


def _bulk_create(start: int) -> None:
    OutboxMessage.objects.bulk_create(
        [
            OutboxMessage(
                event_type=EVENT_TYPE, topic=TOPIC, message_key=_key(number), payload=workload.payload(number)
            )
            for number in range(start, start + BULK)
        ]
    )
