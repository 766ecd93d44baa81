"""Liveness and readiness of a worker.

A worker is *alive* while its loop iterates: transactions, polls, or waiting for an unavailable broker or database, which
a restart would not bring back. A handler that does not return stops the loop. It is *ready* if broker and database
answered when last needed, and it is not shutting down.
"""

from __future__ import annotations

from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.worker.incident import BACKOFF_SECONDS
from django_outbox.worker.state import WorkerState

LEAST_SECONDS = 300.0
"""Kafka's ``max.poll.interval.ms``: how long it waits for a consumer's next poll."""
MARGIN_SECONDS = 30.0
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
