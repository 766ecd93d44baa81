"""Whether a worker lives, and whether it is of use.

It *lives* as long as its loop goes on: transaction after transaction, poll after poll, or waiting for a broker
or a database that is away, which a restart would not bring back. A handler that does not return stops the loop. It is
*ready* when broker and database were there when they were last needed, and it has not been told to end.
"""

from __future__ import annotations

from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.worker.incident import BACKOFF_SECONDS
from django_outbox.worker.state import WorkerState

LEAST_SECONDS = 300.0
"""As long as Kafka waits for a consumer's next poll (``max.poll.interval.ms``) before it takes it for hung."""
MARGIN_SECONDS = 30.0
CONNECT_SECONDS = 50.0
"""More than it takes to give up a server that does not answer: it is asked for several things, for some seconds each."""


def default_limit() -> float:
    """Seconds that a loop may stand still: five minutes, or half a minute more than a handler may take."""
    return max(LEAST_SECONDS, (settings.handler_timeout or 0.0) + MARGIN_SECONDS, outage_limit())


def outage_limit() -> float:
    """Seconds that a loop needs from one try to the next while a server is away: to try, to give up, and to wait.

    Whoever allows less takes a worker for hung that only waits, and ends it again and again until the server is back.
    """
    return BACKOFF_SECONDS[1] + settings.publish_timeout + CONNECT_SECONDS


class Verdict(NamedTuple):
    """An answer to a probe."""

    good: bool
    text: str


class Health:
    """Judges a worker by its worker_state."""

    def __init__(self, worker_state: WorkerState, *, limit: float, rest: float = 0.0) -> None:
        """
        Args:
            worker_state: what the loop says of itself.
            limit: seconds that the loop may stand still.
            rest: seconds that it waits of its own will when nothing is to be done.
        """
        self._worker_state = worker_state
        self._limit = limit + rest

    def liveness(self) -> Verdict:
        still = self._worker_state.seconds_without_progress
        if still <= self._limit:
            return Verdict(True, f"alive: the loop went on {still:.1f} s ago")
        return Verdict(
            False, f"hung: the loop has not gone on for {still:.0f} s, and {self._limit:g} s are allowed; see the log"
        )

    def readiness(self) -> Verdict:
        if self._worker_state.is_stopping:
            return Verdict(False, "not ready: told to end")
        missing = [
            name
            for name, is_there in (
                ("broker", self._worker_state.reaches_broker),
                ("database", self._worker_state.reaches_database),
            )
            if not is_there
        ]
        if missing:
            return Verdict(False, f"not ready: no connection to the {' and the '.join(missing)} yet, or it is lost")
        return Verdict(True, "ready: connected")
