"""A fault that may last: when to try again, and how it is logged."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from django_outbox.worker.outage_log import OutageLog

RELAPSE_SECONDS = 5.0
BACKOFF_SECONDS = (0.5, 30.0)


def delay_of(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Half a second, doubled with each failure before this one up to 30 s, minus up to 20 % jitter."""
    first, longest = BACKOFF_SECONDS
    return min(first * 2.0 ** min(failures, 16), longest) * (1 - 0.2 * jitter())


class Incident:
    """A fault that may last: logged when it begins, once a minute, and when it ends.

    If it returns within ``RELAPSE_SECONDS`` it is the same incident: the backoff continues, and it only ends after it
    stayed away for as long. A consumer may meet the same fault at its first poll after each join.
    """

    def __init__(
        self,
        log: logging.Logger,
        subject: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        level: int = logging.ERROR,
        outages: OutageLog | None = None,
        separate: bool = False,
    ) -> None:
        """
        Args:
            subject: what is unavailable, as the beginning of a sentence.
            outages: combines incidents of one outage; None if this incident is logged alone.
            separate: True if the incident is never part of another outage.
        """
        self.subject = subject
        self._clock = clock
        self._level = level
        self._outages = outages or OutageLog(log, clock)
        self._separate = separate
        self._began_at: float | None = None
        self._last_began_at: float | None = None
        self._ended_at = 0.0
        self._ok_since: float | None = None
        self._is_relapse = False
        self._failures = 0

    @property
    def is_open(self) -> bool:
        return self._began_at is not None

    @property
    def seconds(self) -> float:
        """Seconds since it began; 0 if it is not open."""
        return 0.0 if self._began_at is None else self._clock() - self._began_at

    def report(self, reason: object) -> float:
        """Report that the fault is present, and return the seconds to wait before the next try."""
        now, self._ok_since = self._clock(), None
        is_new = self._began_at is None
        if is_new:
            self._is_relapse = self._last_began_at is not None and now - self._ended_at < RELAPSE_SECONDS
            if not self._is_relapse:
                self._last_began_at = now
                self._failures = 0
            self._began_at = self._last_began_at
        self._outages.report(self.subject, str(reason), level=self._level, separate=self._separate, is_new=is_new)
        self._failures += 1
        return delay_of(self._failures - 1)

    def resolve(self) -> None:
        """Report that the fault is absent."""
        if self._began_at is None:
            return
        now = self._clock()
        self._ok_since = now if self._ok_since is None else self._ok_since
        if self._is_relapse and now - self._ok_since < RELAPSE_SECONDS:
            return
        self._outages.resolve(self.subject)
        self._began_at = None
        self._ended_at = now
