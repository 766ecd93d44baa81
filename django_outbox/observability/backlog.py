"""Counts and ages of unfinished messages for the metrics: refreshed seldom, and never by the thread that answers a scrape."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from django.db import connections

from django_outbox.exceptions import in_one_line
from django_outbox.state.slot import Slot

log = logging.getLogger(__name__)

MIN_INTERVAL_SECONDS = 15.0
MAX_INTERVAL_SECONDS = 60.0
"""Upper bound of the refresh interval; below ``STALE_SECONDS``, so that numbers do not disappear in between."""
SHARE = 0.01
WAIT_SECONDS = 1.0
STALE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The unfinished messages of outbox or inbox. Ages are 0 if there is no such message.

    Attributes:
        counts: messages by status, up to a million each.
        oldest: seconds since the oldest pending message was written.
        overdue: seconds since the most overdue pending message was due.
        awaited: of the outbox, seconds since a published message was sent that a handler here has yet to handle.
        paused: messages that wait for the end of a pause.
        slot: of the outbox, the replication slot of Debezium; None without Debezium.
    """

    counts: dict[str, int]
    oldest: float
    overdue: float
    awaited: float = 0.0
    paused: int = 0
    slot: Slot | None = None


class Backlog:
    """The unfinished messages, as they were a short while ago.

    A thread queries the database when a scrape needs it and the last result is older than 15 seconds, or than a hundred
    times its duration, up to a minute. A scrape waits a second for it; a database that hangs blocks only that thread.
    """

    def __init__(
        self,
        using: str,
        query: Callable[[str], dict[str, Unfinished]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: float = WAIT_SECONDS,
    ) -> None:
        self._using = using
        self._query = query
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._querying = False
        self._found: dict[str, Unfinished] = {}
        self._found_at = 0.0
        self._next_at: float | None = None

    def read(self) -> dict[str, Unfinished]:
        """By "outbox" and "inbox"; empty if there was no result for two minutes."""
        with self._lock:
            due = self._next_at is None or self._clock() >= self._next_at
            if due and not self._querying:
                self._querying = True
                self._answered.clear()
                threading.Thread(target=self._refresh, name="outbox-backlog", daemon=True).start()
        if due:
            self._answered.wait(self._wait)
        with self._lock:
            is_fresh = self._clock() - self._found_at < STALE_SECONDS
            return self._found if is_fresh else {}

    def _refresh(self) -> None:
        started = self._clock()
        found: dict[str, Unfinished] | None = None
        try:
            found = self._query(self._using)
        except Exception as error:  # metrics must not stop a worker
            log.debug("Could not count unfinished messages: %s", in_one_line(error), extra={"action": "backlog"})
        finally:
            with suppress(Exception):  # the connection may be lost already
                connections[self._using].close()
        with self._lock:
            now = self._clock()
            if found is not None:
                self._found, self._found_at = found, now
            self._next_at = now + min(max(MIN_INTERVAL_SECONDS, (now - started) / SHARE), MAX_INTERVAL_SECONDS)
            self._querying = False
            self._answered.set()
