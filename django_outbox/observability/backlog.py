"""What is unfinished in the database, for gauges: asked seldom, and never by the thread that answers a scrape."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections

from django_outbox.exceptions import in_one_line
from django_outbox.models import InboxMessage, OutboxMessage, oldest_first
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.unhandled import longest_awaited

log = logging.getLogger(__name__)

MOST_COUNTED = 1_000_000
LOOKED_AT = 1000
LEAST_SECONDS = 15.0
SHARE = 0.01
MOST_SECONDS = 60.0
"""Whatever a look took, be it that it hung: or the numbers of the last one would be gone before the next."""
PATIENCE_SECONDS = 1.0
STALE_SECONDS = 120.0

BOXES: dict[str, tuple[type[OutboxMessage | InboxMessage], tuple[str, ...]]] = {
    "outbox": (OutboxMessage, ("pending", "published", "dead")),
    "inbox": (InboxMessage, ("pending", "dead")),
}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What is unfinished in outbox or inbox.

    Attributes:
        counts: messages by status, of each at most ``MOST_COUNTED``.
        oldest: seconds since the oldest pending message was written; 0 if none is.
        overdue: seconds that the message that has been due for longest waits; 0 if none is due. Of the inbox, among
            the thousand oldest.
        awaited: of the outbox, seconds since the published message that a handler here has yet to handle for longest
            was sent; 0 if there is none.
    """

    counts: dict[str, int]
    oldest: float
    overdue: float
    awaited: float = 0.0


def look(using: str) -> dict[str, Unfinished]:
    """Ask the database. Each query goes along an index of what is unfinished, whatever is behind."""
    return {box: _look(model, statuses, using) for box, (model, statuses) in BOXES.items()}


def _look(model: type[OutboxMessage | InboxMessage], statuses: tuple[str, ...], using: str) -> Unfinished:
    # The id of every row is above 0; saying so chooses the index.
    rows: Any = model.objects.using(using).filter(id__gt=0)
    if model is OutboxMessage:
        rows = rows.own()
    counts = {
        status: min(rows.filter(status=status).values("id")[: MOST_COUNTED + 1].count(), MOST_COUNTED)
        for status in statuses
    }
    oldest = oldest_first(rows, "pending").annotate(now=DatabaseNow())
    longest_due: Any
    if model is OutboxMessage:
        longest_due = OutboxMessage.objects.using(using).due().annotate(now=DatabaseNow())[:1]
    else:  # its index is by group, so the oldest thousand have to do
        longest_due = oldest[:LOOKED_AT]
    return Unfinished(
        counts,
        oldest=_longest(oldest[:1].values_list("created_at", "now")),
        overdue=_longest(longest_due.values_list("next_retry_at", "now")),
        awaited=(longest_awaited(using) or 0.0) if model is OutboxMessage else 0.0,
    )


def _longest(since_and_now: Iterable[tuple[datetime, datetime]]) -> float:
    """The most seconds from one time to the other; 0 for none, and for what is yet to come."""
    return max((max(0.0, (now - since).total_seconds()) for since, now in since_and_now), default=0.0)


class Backlog:
    """What is unfinished, as it was a short while ago.

    A thread of its own asks, when a scrape wants to know and the last answer is older than 15 seconds or a hundred
    times what it took, a minute at most. A scrape waits for it for a second at most; a database that hangs keeps only
    that thread.
    """

    def __init__(
        self,
        using: str,
        *,
        ask: Callable[[str], dict[str, Unfinished]] = look,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._using = using
        self._ask = ask
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asking = False
        self._found: dict[str, Unfinished] = {}
        self._found_at = 0.0
        self._next_at: float | None = None

    def read(self) -> dict[str, Unfinished]:
        """By "outbox" and "inbox"; nothing if there was no answer for two minutes."""
        with self._lock:
            due = self._next_at is None or self._clock() >= self._next_at
            if due and not self._asking:
                self._asking = True
                self._answered.clear()
                threading.Thread(target=self._refresh, name="outbox-backlog", daemon=True).start()
        if due:
            self._answered.wait(self._patience)
        with self._lock:
            fresh = self._clock() - self._found_at < STALE_SECONDS
            return self._found if fresh else {}

    def _refresh(self) -> None:
        started = self._clock()
        found: dict[str, Unfinished] | None = None
        try:
            found = self._ask(self._using)
        except Exception as error:  # a worker does not stop for its gauges
            log.debug("No look at the backlog this time: %s", in_one_line(error), extra={"action": "backlog"})
        finally:
            with suppress(Exception):  # of a connection that is lost already
                connections[self._using].close()
        with self._lock:
            now = self._clock()
            if found is not None:
                self._found, self._found_at = found, now
            self._next_at = now + min(max(LEAST_SECONDS, (now - started) / SHARE), MOST_SECONDS)
            self._asking = False
            self._answered.set()
