"""The background purge of a relay: deletes old messages in a small share of its time."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.db.models import Case, When

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable, in_one_line
from django_outbox.handlers.registry import Registry
from django_outbox.models import Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.purging import Step, Walk
from django_outbox.state.retention import expiries
from django_outbox.worker.database_errors import is_outage, is_transient
from django_outbox.worker.heartbeat import ALIVE
from django_outbox.worker.pooling import stop_preparing
from django_outbox.worker.state import WorkerState

log = logging.getLogger("django_outbox.relay")


class Pace(NamedTuple):
    """The share of a relay's time for the purge."""

    rest: float  # length of the pause after a step, as a multiple of the step's time
    step_seconds: float  # target time of a step; the number of rows per step adapts to it


IDLE = Pace(rest=9.0, step_seconds=0.020)
BUSY = Pace(rest=19.0, step_seconds=0.006)  # the next message may have to wait for a step
BEHIND = Pace(rest=59.0, step_seconds=0.006)  # all batches are full: a step delays messages that are due
LONGEST_STEP_SECONDS = 0.020
DOUBLES_EVERY_SECONDS = 60.0
MOST_DOUBLINGS = 3
RECENT_SECONDS = 1.0  # for which a relay stays busy after a pass, and after which it is behind
STEP_ROWS = (200, 1000)  # a step of 20 takes almost as long as one of 200: most of it is round trips and the commit
BETWEEN_WALKS_SECONDS = 60.0
LEADER_CHECK_SECONDS = 10.0
AFTER_ERROR_SECONDS = 3600.0


class BackgroundPurge:
    """Deletes messages that ``RETENTION`` no longer keeps, in steps between two passes of the relay and while it waits.

    A step is one short transaction on the relay's connection, so a message or a signal waits for one step at most. Of
    several relays of a service, the oldest one that works purges. If two purge, each skips rows that the other locks.

    While a relay keeps up, a step waits until a batch was not full. If all batches of a second were, the relay is behind.

    A walk that does not end within a minute has more to delete than its share allows: messages may come faster than they
    go. So its pauses halve with each minute, ``MOST_DOUBLINGS`` times at most, and its steps become longer. The next walk
    begins with one halving less than this one ended with: where messages always come fast, it does not start over.
    """

    def __init__(
        self, worker_state: WorkerState, *, using: str, handlers: Registry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Messages with one of these ``handlers`` are never deleted before they are handled."""
        self._worker_state = worker_state
        self._using = using
        self._handlers = handlers
        self._clock = clock
        self._steps: Iterator[Step] | None = None
        self._rows = STEP_ROWS[0]
        self._not_before = self._ended_at = self._busy_until = self._kept_up_at = self._leader_check_at = clock()
        self._walk_began_at = self._ended_at
        self._first_doublings = 0  # with which a walk begins
        self._step_took = 0.0
        self._is_leader = False
        self._deleted: Counter[str] = Counter()
        self._is_reported = False

    def run_if_due(self, busy: bool, behind: bool) -> float:
        """Run a step if it is time to. An error is logged and does not stop the relay.

        Args:
            busy: True if the last pass sent messages.
            behind: True if its batch was full, so that more messages may be due.

        Returns the seconds to the next step of a walk; infinity if none is under way.

        Raises:
            OperationalError, InterfaceError: the connection to the database is lost; call again later.
        """
        now = self._clock()
        if busy:
            self._busy_until = now + RECENT_SECONDS
        if not behind:
            self._kept_up_at = now
        elif now < self._kept_up_at + RECENT_SECONDS:
            return math.inf
        pace = self._pace(now, behind)
        if (seconds := self._seconds_to_step(pace, now)) > 0:
            return seconds
        try:
            if not self._leads(now):
                return math.inf
            if self._steps is None:
                self._steps, self._walk_began_at = self._walk(), now
            step = next(self._steps, None)
        except Exception as error:
            self._steps = None
            if is_outage(error, self._using):
                raise
            self._rest_after(error)
            return math.inf
        self._ended_at = self._clock()
        self._step_took = self._ended_at - now
        if step is None:
            self._first_doublings = max(0, self._doublings(now) - 1)
            self._steps = None
            self._not_before = self._ended_at + BETWEEN_WALKS_SECONDS
            self._log_deleted()
            return math.inf
        self._deleted += step.counts
        least, most = STEP_ROWS
        factor = max(0.5, min(pace.step_seconds / max(self._step_took, 0.001), 2.0))
        self._rows = max(least, min(round(self._rows * factor), most))
        return self._seconds_to_step(pace, self._ended_at)

    def _seconds_to_step(self, pace: Pace, now: float) -> float:
        # Limited, as the machine may have been suspended during a step.
        rest = min(self._step_took * pace.rest, BETWEEN_WALKS_SECONDS)
        seconds = max(self._not_before, self._ended_at + rest) - now
        return math.inf if seconds > 0 and self._steps is None else seconds

    def _pace(self, now: float, behind: bool) -> Pace:
        pace = BEHIND if behind else BUSY if now < self._busy_until else IDLE
        urgency = 1 << self._doublings(now)
        return Pace(pace.rest / urgency, min(pace.step_seconds * urgency, LONGEST_STEP_SECONDS))

    def _doublings(self, now: float) -> int:
        """How often the usual share of the time has doubled."""
        if self._steps is None:
            return self._first_doublings
        minutes = int((now - self._walk_began_at) / DOUBLES_EVERY_SECONDS)
        return min(self._first_doublings + minutes, MOST_DOUBLINGS)

    def _rest_after(self, error: Exception) -> None:
        """Rest after an error, such as of a foreign key of the project that protects a message."""
        if stop_preparing(error, self._using) or is_transient(error, self._using):
            self._not_before = self._clock() + BETWEEN_WALKS_SECONDS
            return
        self._not_before = self._clock() + AFTER_ERROR_SECONDS
        text = "Old messages could not be deleted. Next attempt in one hour. %s: %s"
        log.warning(text, type(error).__name__, in_one_line(error), extra={"action": "purge"})

    def _walk(self) -> Iterator[Step]:
        for expiry in expiries(settings.retention, self._loaded()):
            yield from Walk(expiry, using=self._using).steps(lambda: self._rows)

    def _loaded(self) -> Registry | None:
        try:
            self._handlers.load()
        except HandlersNotImportable as error:
            if not self._is_reported:
                text = "Published messages are kept, as handlers are unknown: %s"
                log.warning(text, in_one_line(error), extra={"action": "purge"})
            self._is_reported = True
            return None
        self._is_reported = False
        return self._handlers

    def _log_deleted(self) -> None:
        if self._deleted:
            counts = ", ".join(f"{count} {name}" for name, count in self._deleted.items() if count)
            log.info("Deleted old messages: %s.", counts, extra={"action": "purge"})
            self._deleted.clear()

    def _leads(self, now: float) -> bool:
        """True if this relay purges: the oldest one of those that work."""
        if self._worker_state.row_id is None:
            return False
        if now >= self._leader_check_at:
            self._leader_check_at = now + LEADER_CHECK_SECONDS
            self._is_leader = self._leader() == self._worker_state.row_id
        return self._is_leader

    def _leader(self) -> int | None:
        troubled = Case(When(state=Worker.State.WORKING, then=0), default=1)
        alive = Worker.objects.using(self._using).filter(
            kind=Worker.Kind.RELAY, source=settings.source, last_seen_at__gte=DatabaseNow() - ALIVE
        )
        return alive.order_by(troubled, "id").values_list("id", flat=True).first()
