"""Writing: ``publish`` beside ``objects.create``, ``publish_many`` beside ``bulk_create``, both beside bare INSERTs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import psycopg
from django.db import connection as django_connection
from django.db import transaction

from benchmarks import raw, workload
from benchmarks.backends import PREPARED_STATEMENTS
from benchmarks.bench import Bench
from benchmarks.checks import WorkNotDone
from benchmarks.report import Line, Target
from django_outbox import Event, publish, publish_many
from django_outbox.models import OutboxMessage

SINGLES = 4_000
MANY = 20_000
BULK = 500
PREPARED = "publish, prepared statements"
"""The bare INSERT is prepared as well: that is psycopg's own default."""
EVENT_TYPE = "bench.sql"
TOPIC = "benchmarks"

Writer = Callable[[int], Any]
Begin = Callable[[], AbstractContextManager[Any]]
Connection = psycopg.Connection[Any]


def measure(bench: Bench) -> Iterator[Line]:
    """One message a transaction, and five hundred."""
    with raw.connect(bench.servers.database) as connection:
        bare: Begin = connection.transaction
        singles: dict[str, tuple[Writer, Begin]] = {
            "publish": (_publish, transaction.atomic),
            PREPARED: (_publish, transaction.atomic),
            "create": (_create, transaction.atomic),
            "bare, 1": (partial(_insert, connection), bare),
            "bare, 1, in atomic()": (_insert_by_django, transaction.atomic),
        }
        many: dict[str, tuple[Writer, Begin]] = {
            "publish_many": (_publish_many, transaction.atomic),
            "bulk_create": (_bulk_create, transaction.atomic),
            "bare, 500": (partial(_insert_many, connection), bare),
        }
        found: dict[str, list[float]] = {name: [] for name in (*singles, *many)}
        for number, name in bench.rounds([*singles, *many]):
            bench.progress.say(f"enqueue: {name}, round {number + 1} of {bench.runs}")
            if name in singles:
                with _options(PREPARED_STATEMENTS if name == PREPARED else {}):
                    found[name].append(_rate(bench, name, *singles[name], bench.amount(SINGLES), 1))
            else:
                found[name].append(_rate(bench, name, *many[name], max(bench.amount(MANY), BULK), BULK))
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
        "publish, 1 a transaction, beside a bare INSERT",
        "rows/s",
        found["publish"],
        found["bare, 1"],
        beside="bare",
    )
    yield Line(
        "publish, 1 a transaction, prepared statements",
        "rows/s",
        found[PREPARED],
        found["bare, 1"],
        Target(least_ratio=0.6),
        beside="a bare INSERT",
        headline=True,
    )
    yield Line(
        "publish, 1 a transaction, beside a bare INSERT in atomic()",
        "rows/s",
        found["publish"],
        found["bare, 1, in atomic()"],
        beside="bare, in atomic()",
    )
    yield Line(
        "publish_many, 500 a transaction",
        "rows/s",
        found["publish_many"],
        found["bulk_create"],
        Target(least_ratio=0.8),
        beside="bulk_create",
        headline=True,
    )
    yield Line(
        "publish_many, 500 a transaction, beside a bare INSERT",
        "rows/s",
        found["publish_many"],
        found["bare, 500"],
        Target(least_ratio=0.5),
        beside="a bare INSERT",
        headline=True,
    )


@contextmanager
def _options(options: Mapping[str, Any]) -> Iterator[None]:
    """Have Django connect with other ``OPTIONS``."""
    before = django_connection.settings_dict["OPTIONS"]
    django_connection.close()
    django_connection.settings_dict["OPTIONS"] = {**before, **options}
    try:
        yield
    finally:
        django_connection.close()
        django_connection.settings_dict["OPTIONS"] = before


def _rate(bench: Bench, name: str, write: Writer, begin: Begin, rows: int, size: int) -> float:
    workload.empty()
    for start in range(0, 20 * size, size):  # warm-up
        with begin():
            write(start)
    workload.empty()
    rows -= rows % size
    cpu, first = time.process_time(), time.monotonic()
    for start in range(0, rows, size):
        with begin():
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


def _insert(connection: Connection, number: int) -> None:
    connection.execute(raw.INSERT_ONE, _values(number))


def _insert_by_django(number: int) -> None:
    with django_connection.cursor() as cursor:
        cursor.execute(raw.INSERT_ONE, _values(number))


def _values(number: int) -> tuple[Any, ...]:
    return (uuid.uuid4(), EVENT_TYPE, TOPIC, _key(number), json.dumps(workload.payload(number)))


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


def _insert_many(connection: Connection, start: int) -> None:
    numbers = range(start, start + BULK)
    values = (
        EVENT_TYPE,
        TOPIC,
        [uuid.uuid4() for _ in numbers],
        [_key(number) for number in numbers],
        [json.dumps(workload.payload(number)) for number in numbers],
    )
    connection.execute(raw.INSERT_MANY, values)
