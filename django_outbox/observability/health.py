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
    """The result of a probe."""

    ok: bool
    text: str


class Health:
    """Answers the probes of a worker.

    Args:
        worker_state: the state that its loop reports.
        limit: seconds allowed between loop iterations.
    """

    def __init__(self, worker_state: WorkerState, *, limit: float) -> None:
        self._worker_state = worker_state
        self._limit = limit

    def liveness(self) -> Probe:
        seconds = self._worker_state.seconds_without_progress
        if seconds <= self._limit:
            return Probe(True, f"alive: last loop iteration {seconds:.1f} s ago")
        return Probe(False, f"hung: no loop iteration for {seconds:.0f} s (limit: {self._limit:g} s); see the log")

    def readiness(self) -> Probe:
        if self._worker_state.is_stopping:
            return Probe(False, "not ready: shutting down")
        connected = {"broker": self._worker_state.reaches_broker, "database": self._worker_state.reaches_database}
        missing = [name for name, is_connected in connected.items() if not is_connected]
        if missing:
            return Probe(False, f"not ready: no connection to the {' and the '.join(missing)}")
        return Probe(True, "ready: connected")
