"""Purging by the relay, beside its work: for a small share of its time, by one relay at a time."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.db.models import Case, IntegerField, Value, When

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
    """How much of a relay's time purging may have.

    Attributes:
        rest: a step is followed by a rest of so many times as long as it took.
        step_seconds: what a step should take: the next has more rows or fewer, if it took less or more.
    """

    rest: float
    step_seconds: float


IDLE = Pace(rest=9.0, step_seconds=0.020)
BUSY = Pace(rest=19.0, step_seconds=0.006)
"""Something was sent within the last second: there is time, but a message may come during a step and wait for it."""
BEHIND = Pace(rest=59.0, step_seconds=0.006)
"""Within the last second more was due than a batch holds: what purging takes, sending lacks."""
RECENT_SECONDS = 1.0
STEP_ROWS = (20, 1000)
BETWEEN_WALKS_SECONDS = 60.0
BETWEEN_LOOKS_SECONDS = 10.0
AFTER_A_FAULT_SECONDS = 3600.0


class BackgroundPurge:
    """Deletes what ``RETENTION`` no longer keeps, step by step, when the relay's loop lets it.

    A step is one short transaction, on the relay's own connection, between two looks at the outbox. So a message
    waits for one step at most, and a signal as well. Of several relays of a service the one that has been alive for longest
    does it; if two take themselves for that one, they pass over what the other has locked.
    """

    def __init__(
        self,
        worker_state: WorkerState,
        *,
        using: str,
        handlers: Registry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            worker_state: of the relay.
            using: alias of the database.
            handlers: of the project: what they want is never deleted before it is handled.
            clock: seconds, monotonic.
        """
        self._worker_state = worker_state
        self._using = using
        self._handlers = handlers
        self._clock = clock
        self._steps: Iterator[Step] | None = None
        self._rows = STEP_ROWS[0]
        self._not_before = self._ended = self._busy_until = self._behind_until = self._look_at = clock()
        self._took = 0.0
        self._is_first = False
        self._deleted: Counter[str] = Counter()
        self._unknown = False

    def turn(self, busy: bool, behind: bool) -> None:
        """Do a step if it is time for one. Whatever goes wrong in it does not stop the relay.

        Args:
            busy: True if there was something to send just now.
            behind: True if that was as much as a batch holds, so that there may be more.

        Raises:
            OperationalError, InterfaceError: the connection to the database is lost; call again later.
        """
        now = self._clock()
        pace = self._pace(now, busy, behind)
        # No longer than between two walks: a machine may have slept during a step.
        if now < max(self._not_before, self._ended + min(self._took * pace.rest, BETWEEN_WALKS_SECONDS)):
            return
        try:
            if not self._is_mine(now):
                return
            goes_on = self._step()
        except Exception as error:
            self._steps = None
            if is_outage(error, self._using):
                raise
            self._fail(error)
            return
        self._ended = self._clock()
        self._took = self._ended - now
        if goes_on:
            self._adapt(pace.step_seconds)
        else:
            self._end_walk()

    def _pace(self, now: float, busy: bool, behind: bool) -> Pace:
        if busy:
            self._busy_until = now + RECENT_SECONDS
        if behind:
            self._behind_until = now + RECENT_SECONDS
        if now < self._behind_until:
            return BEHIND
        return BUSY if now < self._busy_until else IDLE

    def _fail(self, error: Exception) -> None:
        """Such as by a foreign key of the project's own that protects a message, or a deadlock with a stranger."""
        if stop_preparing(error, self._using) or is_transient(error, self._using):
            self._rest(BETWEEN_WALKS_SECONDS)
            return
        self._rest(AFTER_A_FAULT_SECONDS)
        log.warning(
            "Old messages could not be deleted, which is tried again in an hour. %s: %s",
            type(error).__name__,
            in_one_line(error),
            extra={"action": "purge"},
        )

    def _step(self) -> bool:
        """Do a step of the walk, of a new one if there is none; False if it is over."""
        if self._steps is None:
            self._steps = self._new_walk()
        step = next(self._steps, None)
        if step is None:
            return False
        self._deleted += step.counts
        return True

    def _new_walk(self) -> Iterator[Step]:
        for expiry in expiries(settings.retention, self._loaded()):
            yield from Walk(expiry, using=self._using).steps(lambda: self._rows)

    def _loaded(self) -> Registry | None:
        try:
            self._handlers.load()
        except HandlersNotImportable as error:
            if not self._unknown:  # told once
                log.warning(
                    "Published messages are kept, since it is not known which of them have a handler: %s",
                    in_one_line(error),
                    extra={"action": "purge"},
                )
            self._unknown = True
            return None
        self._unknown = False
        return self._handlers

    def _end_walk(self) -> None:
        self._steps = None
        self._rest(BETWEEN_WALKS_SECONDS)
        if self._deleted:
            counts = ", ".join(f"{count} {name}" for name, count in self._deleted.items() if count)
            log.info("Deleted old messages: %s.", counts, extra={"action": "purge"})
            self._deleted.clear()

    def _adapt(self, wanted: float) -> None:
        least, most = STEP_ROWS
        factor = max(0.5, min(wanted / max(self._took, 0.001), 2.0))
        self._rows = max(least, min(round(self._rows * factor), most))

    def _rest(self, seconds: float) -> None:
        self._not_before = self._clock() + seconds

    def _is_mine(self, now: float) -> bool:
        """Whether this is the relay that purges: of those that work, the first that was started."""
        if self._worker_state.row_id is None:
            return False
        if now >= self._look_at:
            self._look_at = now + BETWEEN_LOOKS_SECONDS
            self._is_first = self._first() == self._worker_state.row_id
        return self._is_first

    def _first(self) -> int | None:
        troubled = Case(When(state=Worker.State.WORKING, then=Value(0)), default=Value(1), output_field=IntegerField())
        alive = Worker.objects.using(self._using).filter(
            kind=Worker.Kind.RELAY, source=settings.source, last_seen_at__gte=DatabaseNow() - ALIVE
        )
        return alive.order_by(troubled, "id").values_list("id", flat=True).first()
