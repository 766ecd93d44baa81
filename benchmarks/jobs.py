"""What runs in processes of its own: ``python -m benchmarks.jobs NAME ARGUMENTS``, with a pipe to its starter.

A job gets ready, says so, waits for the word to go, works, and prints what it measured. Times are
those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import cProfile
import faulthandler
import json
import os
import pstats
import random
import resource
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import django

Gate = Callable[[], None]

JOB_SECONDS = 1200.0
"""After which a job fails, and shows where it stood."""


def main() -> None:
    """Run the job that the command line names and print its result as JSON."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    faulthandler.dump_traceback_later(JOB_SECONDS, exit=True)  # a job that waits for what never comes
    django.setup()
    result = JOBS[name](_gate, **arguments)
    _say({"result": result})


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _gate() -> None:
    _say({"ready": True})
    if not sys.stdin.readline():
        sys.exit("the starter is gone")


def relay(
    gate: Gate,
    *,
    profile: str | None = None,
    warm_up: int | None = None,
    limit: int | None = None,
    purge: bool = False,
) -> dict[str, Any]:
    """Carry a backlog out by the relay's own loop; whatever is due before the gate warms it up.

    ``warm_up`` and ``limit`` end the loop after so many rows, before the gate and behind it; None: when none is due.
    With ``purge`` it deletes old messages beside, which needs a ``limit``.
    """
    from django_outbox.brokers.loading import get_broker
    from django_outbox.conf import settings
    from django_outbox.relay.relay import Pass, Relay
    from django_outbox.worker.loop import calm_collector
    from django_outbox.worker.stop import Stop

    relay = Relay(get_broker(settings.broker), using="default")
    calm_collector()  # as the command does
    if purge:
        relay.background = _purge_of(relay)
    run_once = relay.run_once
    times: list[float] = []
    moved: list[int] = []
    early_peak = 0

    def drain(limit: int | None) -> None:
        nonlocal early_peak
        stop = Stop()
        rows = 0
        times[:], moved[:], early_peak = [time.monotonic()], [0], 0

        def noted() -> Pass:
            nonlocal early_peak, rows
            done = run_once()
            if done.moved:
                rows += done.published
                times.append(time.monotonic())
                moved.append(rows)
                if limit is not None:
                    early_peak = early_peak or (peak_bytes() if rows >= limit // 10 else 0)
                    if rows >= limit:
                        stop.request()
            return done

        relay.run_once = noted  # type: ignore[method-assign]
        relay.run(stop, drain=not purge)
        stop.close()

    close, relay.close = relay.close, lambda: None  # type: ignore[method-assign]
    drain(warm_up)
    gate()
    cpu = time.process_time()
    with _profiled(profile):
        drain(limit)
    cpu = time.process_time() - cpu
    close()
    return {
        "first": times[0],
        "last": times[-1],
        "rows": moved[-1],
        "passes": len(moved),
        "cpu": cpu,
        "peak_bytes": peak_bytes(),
        "early_peak_bytes": early_peak,
    }


def _purge_of(relay: Any) -> Callable[[bool, bool], float]:
    """The background purge of a relay that has a row among the workers."""
    from django_outbox.handlers.registry import registry
    from django_outbox.relay.background_purge import BackgroundPurge
    from django_outbox.worker.heartbeat import Heartbeat

    relay.worker_state.record_round()
    Heartbeat(relay.worker_state, using="default").beat()
    return BackgroundPurge(relay.worker_state, using="default", handlers=registry).run_if_due


def raw_relay(gate: Gate, *, bare: bool = False, batch_size: int = 500, limit: int | None = None) -> dict[str, Any]:
    """Carry a backlog, or the first ``limit`` rows of it, out by the raw loop, or the bare one."""
    from benchmarks import clients, raw

    relay_pass = raw.bare_relay_pass if bare else raw.relay_pass
    connection = raw.connect(os.environ["DATABASE_URL"])
    sender = clients.sender(os.environ["BENCH_BACKEND"], os.environ["KAFKA_URL"])
    while relay_pass(connection, sender, batch_size):
        pass
    gate()
    cpu = time.process_time()
    rows, passes, first, last = 0, 0, time.monotonic(), 0.0
    while done := relay_pass(connection, sender, batch_size):
        rows += done
        passes += 1
        last = time.monotonic()
        if rows == limit:
            break
    cpu = time.process_time() - cpu
    sender.close()
    return {"first": first, "last": last, "rows": rows, "passes": passes, "cpu": cpu}


def consume(gate: Gate, *, rows: int, warm_up: int, concurrency: int = 1, profile: str | None = None) -> dict[str, Any]:
    """Handle a backlog; measured from the end of the warm-up to the last commit."""
    from django_outbox.brokers.loading import get_broker
    from django_outbox.conf import settings
    from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE, POLL_SECONDS, Consumer
    from django_outbox.worker.loop import calm_collector

    consumer = Consumer(
        get_broker(settings.broker), using="default", batch_size=DEFAULT_BATCH_SIZE, concurrency=concurrency
    )
    calm_collector()  # as the command does
    try:
        return _consume(
            gate,
            lambda: consumer.run_once(POLL_SECONDS).consumed,
            rows,
            warm_up,
            profile,
            # A start has its price, and it is paid when a partition's first messages come, wherever that is.
            is_warm=lambda: not consumer.lanes.guard,
        )
    finally:
        consumer.close()


def raw_consume(gate: Gate, *, rows: int, warm_up: int, calls_handler: bool = False) -> dict[str, Any]:
    """Handle a backlog by a raw loop with batches of the consumer's default size; see ``raw.call_pass``."""
    from benchmarks import raw
    from benchmarks.handlers import insert_by_sql
    from django_outbox.consumer.consumer import DEFAULT_BATCH_SIZE, POLL_SECONDS

    reader = _group_reader()
    connection = None if calls_handler else raw.connect(os.environ["DATABASE_URL"])

    def step() -> int:
        if connection is None:
            return raw.call_pass(insert_by_sql, reader, DEFAULT_BATCH_SIZE, POLL_SECONDS)
        return raw.consume_pass(connection, reader, DEFAULT_BATCH_SIZE, POLL_SECONDS)

    try:
        return _consume(gate, step, rows, warm_up, None)
    finally:
        reader.close()


def threaded_loop(gate: Gate, *, rows: int, warm_up: int, threads: int, handler: str) -> dict[str, Any]:
    """Handle a backlog by a bare loop with threads, in transactions as long as a lane's; see ``raw.ThreadedLoop``."""
    from benchmarks import handlers, raw
    from django_outbox.consumer.engine import LANE_BUDGET_SECONDS

    reader = _group_reader()
    function, batch_size = {
        "bench.wait": (handlers.wait, round(LANE_BUDGET_SECONDS / handlers.WAIT_SECONDS)),
        "bench.sql": (handlers.insert_by_sql, 100),
    }[handler]
    loop = raw.ThreadedLoop(function, reader, threads, batch_size)
    try:
        return _consume(gate, partial(loop.step, 0.5), rows, warm_up, None)
    finally:
        loop.close()
        reader.close()


def _group_reader() -> Any:
    from benchmarks import clients

    names = ("BENCH_BACKEND", "KAFKA_URL", "BENCH_TOPIC", "BENCH_GROUP")
    return clients.group_reader(*[os.environ[name] for name in names])


def _consume(
    gate: Gate,
    step: Callable[[], int],
    rows: int,
    warm_up: int,
    profile: str | None,
    is_warm: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    gate()
    handled, passes, patience = 0, 0, time.monotonic() + 60
    while (handled < warm_up or not is_warm()) and time.monotonic() < patience:
        handled += step()
    started_with, first, last = handled, time.monotonic(), 0.0
    patience = first + 30
    cpu = time.process_time()
    with _profiled(profile):
        while handled < rows + warm_up and time.monotonic() < patience:
            if done := step():
                handled += done
                passes += 1
                last = time.monotonic()
                patience = last + 30
    return {
        "first": first,
        "last": last,
        "rows": handled - started_with,
        "passes": passes,
        "handled": handled,
        "cpu": time.process_time() - cpu,
    }


def raw_publish(gate: Gate) -> dict[str, Any]:
    """Publish what is pending, quickly, as the start of another measurement."""
    from benchmarks import clients, raw

    client = clients.fastest()
    connection = raw.connect(os.environ["DATABASE_URL"])
    sender = clients.sender(client, os.environ["KAFKA_URL"])
    gate()
    rows, passes, first, cpu = 0, 0, time.monotonic(), time.process_time()
    while done := raw.relay_pass(connection, sender, 1000):
        rows += done
        passes += 1
    sender.close()
    return {
        "first": first,
        "last": time.monotonic(),
        "rows": rows,
        "passes": passes,
        "cpu": time.process_time() - cpu,
    }


def write(gate: Gate, *, count: int, per_second: int) -> dict[str, Any]:
    """Publish so many a second; the time of each commit by event id."""
    from django.db import connection, transaction

    from benchmarks import workload
    from django_outbox import publish

    times: dict[str, float] = {}

    def one(number: int) -> None:
        committed: list[float] = []
        with transaction.atomic():
            # Before publish(), so that this runs before anything that publish() does after the commit.
            transaction.on_commit(lambda: committed.append(time.monotonic()))
            message = publish("bench.sql", workload.payload(number), key=f"customer-{number % workload.KEYS}")
        times[str(message.event_id)] = committed[0]

    connection.ensure_connection()
    gate()
    _at_pace(one, count, per_second)
    return {"times": times}


def send(gate: Gate, *, count: int, per_second: int) -> dict[str, Any]:
    """Send to Kafka so many a second; the time of each sending by event id."""
    from benchmarks import clients, workload

    sender = clients.sender(os.environ["BENCH_BACKEND"], os.environ["KAFKA_URL"])
    topic = os.environ["BENCH_TOPIC"]
    times: dict[str, float] = {}

    def one(number: int) -> None:
        event_id = str(uuid.uuid4())
        value = json.dumps(workload.payload(number)).encode()
        key = f"customer-{number % workload.KEYS}".encode()
        times[event_id] = time.monotonic()
        sender.send([clients.Message(topic, key, value, [("ce_id", event_id.encode())])])

    gate()
    _at_pace(one, count, per_second)
    sender.close()
    return {"times": times}


def read(gate: Gate, *, count: int, patience: float = 20.0) -> dict[str, Any]:
    """Read records one by one as they come; the time of each by event id."""
    from benchmarks import clients

    reader = clients.TopicReader(os.environ["KAFKA_URL"], os.environ["BENCH_TOPIC"])
    times: dict[str, float] = {}
    gate()
    deadline = time.monotonic() + patience
    while len(times) < count and time.monotonic() < deadline:
        for headers in reader.poll(0.5, limit=1):
            now = time.monotonic()
            times.setdefault(dict(headers)["ce_id"].decode(), now)
            deadline = now + patience
    reader.close()
    return {"times": times}


def _at_pace(one: Callable[[int], None], count: int, per_second: int) -> None:
    """Do something so many times a second, each time somewhere in its share of it.

    An even beat would keep step with the reader, who waits for records for so many milliseconds at a time.
    """
    somewhere = random.Random(per_second).random  # noqa: S311, not for secrets
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + (number + somewhere()) / per_second - time.monotonic()))
        one(number)


class _profiled:  # noqa: N801
    """Profile the block and write the figures to a file, if one is named."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._profile = cProfile.Profile() if path else None

    def __enter__(self) -> None:
        if self._profile:
            self._profile.enable()

    def __exit__(self, *error: object) -> None:
        if self._profile and self._path:
            self._profile.disable()
            pstats.Stats(self._profile).dump_stats(self._path)


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    with suppress(OSError), Path("/proc/self/status").open() as status:
        # Linux lets a process start with its parent's maximum, but not in this place.
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "relay": relay,
    "raw_relay": raw_relay,
    "consume": consume,
    "raw_consume": raw_consume,
    "call_loop": partial(raw_consume, calls_handler=True),
    "threaded_loop": threaded_loop,
    "raw_publish": raw_publish,
    "write": write,
    "send": send,
    "read": read,
}

if __name__ == "__main__":
    main()
