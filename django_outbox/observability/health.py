"""Liveness and readiness of a worker, for HTTP probes, a heartbeat file and systemd.

A worker is *alive* while its loop iterates: transactions, polls, or waiting for an unavailable broker or database, which
a restart would not bring back. A handler that does not return stops the loop. It is *ready* if broker and database
answered when last needed, and it is not shutting down.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.worker.incident import BACKOFF_SECONDS, Incident
from django_outbox.worker.state import WorkerState

log = logging.getLogger("django_outbox.observability.heartbeat_file")  # a name that settings may have

LEAST_SECONDS = 300.0
"""Kafka's ``max.poll.interval.ms``: how long it waits for a consumer's next poll."""
MARGIN_SECONDS = 30.0
SIGN_SECONDS = 1.0  # between two signs of life, for a file or for systemd
CONNECT_SECONDS = 50.0
"""Upper bound of the time to give up on a server that does not answer: several requests, some seconds each."""


def default_limit() -> float:
    """Seconds allowed between loop iterations: five minutes, or 30 more than HANDLER_TIMEOUT."""
    return max(LEAST_SECONDS, (settings.handler_timeout or 0.0) + MARGIN_SECONDS, outage_limit())


def outage_limit() -> float:
    """Seconds between two loop iterations during an outage: try, give up, wait.

    A shorter limit would report a worker waiting out an outage as hung, and restart it again and again.
    """
    return BACKOFF_SECONDS[1] + settings.publish_timeout + CONNECT_SECONDS


class Probe(NamedTuple):
    ok: bool
    text: str


def liveness(worker_state: WorkerState, limit: float) -> Probe:
    """Whether the last loop iteration is at most so many seconds ago."""
    seconds = worker_state.seconds_without_progress
    if seconds <= limit:
        return Probe(True, f"alive: last loop iteration {seconds:.1f} s ago")
    return Probe(False, f"hung: no loop iteration for {seconds:.0f} s (limit: {limit:g} s); see the log")


def readiness(worker_state: WorkerState) -> Probe:
    """Whether broker and database answered when last needed, unless the worker is shutting down."""
    if worker_state.is_stopping:
        return Probe(False, "not ready: shutting down")
    connected = {"broker": worker_state.reaches_broker, "database": worker_state.reaches_database}
    missing = [name for name, is_connected in connected.items() if not is_connected]
    if missing:
        return Probe(False, f"not ready: no connection to the {' and the '.join(missing)}")
    return Probe(True, "ready: connected")


@contextmanager
def heartbeat_file(path: Path, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], None]]:
    """A file that exists while a worker runs; yields a function for its loop, which touches it at most once a second.

    Later errors are logged and do not stop the worker.

    Raises:
        OSError: the file cannot be written.
    """
    path.touch()
    incident = Incident(log, f"The heartbeat file {path}", clock)

    def touch() -> None:
        try:
            path.touch()
        except OSError as error:
            incident.report(error.strerror or error)
        else:
            incident.resolve()

    try:
        yield _once_a_second(touch, clock)
    finally:
        with suppress(OSError):
            path.unlink()


def watchdog_seconds() -> float | None:
    """The watchdog timeout that systemd sets for this process (``WatchdogSec=``); None if there is none.

    See sd_watchdog_enabled(3).
    """
    try:
        limit, process = int(os.environ["WATCHDOG_USEC"]), int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return limit / 1_000_000 if process == os.getpid() else None


@contextmanager
def notifying_systemd(worker_state: WorkerState, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Notify systemd (``Type=notify``) that a worker starts, stops, and that its loop iterates. See sd_notify(3).

    Does nothing if systemd did not start this process.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        yield
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path

    def notify(state: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # the loop must not wait
            channel.sendto(state.encode(), address)

    worker_state.on_progress(_once_a_second(lambda: notify("WATCHDOG=1"), clock))
    notify("READY=1")
    try:
        yield
    finally:
        notify("STOPPING=1")


def _once_a_second(call: Callable[[], None], clock: Callable[[], float]) -> Callable[[], None]:
    """The same function, but calls less than a second after the last one do nothing."""
    next_at = 0.0

    def limited() -> None:
        nonlocal next_at
        now = clock()
        if now >= next_at:
            next_at = now + SIGN_SECONDS
            call()

    return limited
