"""Detects a consumer that gets no assignment: if the group's rebalance never ends, it is idle without an error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django_outbox.brokers.base import Subscription
from django_outbox.worker.incident import Incident

WARN_SECONDS = 60.0
TROUBLE = "No partitions were assigned to this consumer, as the group's rebalance does not end."
REJOIN_SECONDS = 330.0
"""More than Kafka's default max.poll.interval.ms, for which another member may delay a rebalance."""


class AssignmentTimeout:
    """Reports a member that waits too long for its assignment. An empty assignment is fine."""

    def __init__(self, group: str, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._group = group
        self._clock = clock
        self._joined_at: float | None = None
        self._incident = Incident(log, f"The consumer group {group}", clock, level=logging.WARNING)

    def __str__(self) -> str:
        return f"{self._incident.subject}: {TROUBLE}" if self._incident.is_open else ""

    def is_overdue(self, subscription: Subscription) -> bool:
        """True if the member has waited so long that a new client should replace it."""
        now = self._clock()
        if subscription.is_assigned:
            self._joined_at = None
            self._incident.resolve()
            return False
        if self._joined_at is None:
            self._joined_at = now
        waiting = now - self._joined_at
        if waiting >= WARN_SECONDS:
            self._incident.report(TROUBLE)
        return waiting >= REJOIN_SECONDS

    def reset(self) -> None:
        """Start again, as the member left the group."""
        self._joined_at = None
