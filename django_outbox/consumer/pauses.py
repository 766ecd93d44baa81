"""The pauses of a consumer group: what they cover, and what to do when they begin, last and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Lock, local

from django_outbox.conf import settings
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import Pause
from django_outbox.state import pauses as state
from django_outbox.state.pauses import ActivePause

REFRESH_SECONDS = 2.0
LONGEST_TRANSACTION_SECONDS = 60.0
"""For so long after the end of a pause, messages are looked for that wait for it. Others wait for their check time."""
FIRST = 10
"""So many messages are due at the end of the circuit breaker's pause, so that one can be tried. Others wait for a check time."""
TRY_EVERY = timedelta(seconds=30)
"""Between two messages that are tried, if ``CIRCUIT_BREAKER`` has been removed since."""


class _Trials(local):
    """Pauses of which the transaction of this thread tries a message, as they were and as they are in it."""

    def __init__(self) -> None:
        self.by_id: dict[int, tuple[ActivePause, ActivePause]] = {}


class Pauses:
    """The pauses of one consumer group, read from the database every two seconds. Lanes share it."""

    def __init__(self, using: str, handlers: GroupHandlers, clock: Callable[[], float]) -> None:
        self._using = using
        self._handlers = handlers
        self._clock = clock
        self._active: tuple[ActivePause, ...] = ()
        self._read_at = float("-inf")
        self._time: tuple[datetime, float]  # by the database's clock and by this process's, when pauses were last read
        self._ended: dict[int, tuple[ActivePause, float]] = {}  # and when that was read, by this process's clock
        self._is_to_release = False
        self._postponed: dict[int, datetime] = {}
        self._trials = _Trials()
        self._first: Counter[datetime] = Counter()  # by the end of a pause
        self._lock = Lock()  # of this count

    def refresh(self) -> None:
        """Read the pauses, unless that was less than two seconds ago. One query; also in the transaction of handlers.

        Call it at the beginning of each of these transactions: another one may have been rolled back.
        """
        self._trials.by_id.clear()
        if self._clock() - self._read_at < REFRESH_SECONDS:
            return
        found = tuple(state.active(Pause.objects.using(self._using).filter(group=self._handlers.group)))
        self._read_at = self._clock()
        if found:
            self._time = found[0].now, self._read_at
        ids = {pause.id for pause in found}
        self._ended.update({pause.id: (pause, self._read_at) for pause in self._active if pause.id not in ids})
        self._active, self._is_to_release = found, True

    def expire(self) -> None:
        """Read the pauses again at the next refresh."""
        self._read_at = float("-inf")

    def due_at(self, event_type: str, topic: str, *, has_failed: bool = False) -> datetime | None:
        """When a message of this type is due if it is put back now; None if it may be handled.

        In the transaction that handles it, as that may be the one that tries a message after the circuit breaker.
        """
        if not self._active:
            return None
        names = self._names(event_type, topic)
        covering = [self._current(pause) for pause in self._active if pause.covers(event_type, names)]
        now = self._now()
        # None is tried unless all are half-open: the message would wait for the others anyway.
        closed = next((pause for pause in covering if not pause.is_half_open(now)), None)
        if closed is None:
            if not covering or self._try(covering):
                return None
            closed = covering[0]
        if closed.until is not None and closed.until > now:
            if has_failed:
                return closed.until + state.AFTER_OTHERS
            with self._lock:
                self._first[closed.until] += 1
                is_first = self._first[closed.until] <= FIRST
            if is_first:
                return closed.until
        return closed.due_at(now)

    def leave(self, event_type: str, topic: str) -> None:
        """Let another message be tried, if a message of this type was to be and there was no time for it.

        In the transaction of its ``due_at``.
        """
        if not self._trials.by_id:
            return
        names = self._names(event_type, topic)
        for before, tried in list(self._trials.by_id.values()):
            if tried.covers(event_type, names):
                state.leave_trial(before, using=self._using)
                del self._trials.by_id[before.id]

    def _names(self, event_type: str, topic: str) -> list[str]:
        return [handler.name for handler in self._handlers.find(event_type, topic)]

    def _current(self, pause: ActivePause) -> ActivePause:
        _, current = self._trials.by_id.get(pause.id, (pause, pause))
        return current

    def _try(self, pauses: Sequence[ActivePause]) -> bool:
        breaker = settings.circuit_breaker
        length = TRY_EVERY if breaker is None else breaker.pause
        tried = state.try_one(pauses, length, using=self._using)
        if tried is None:
            return False
        self._trials.by_id.update({after.id: (before, after) for before, after in zip(pauses, tried, strict=True)})
        return True

    def by_breaker(self, handler: str) -> int | None:
        """The id of the circuit breaker's pause of a handler; None if there is none."""
        return next((each.id for each in self._active if each.handler == handler and each.until is not None), None)

    def maintain(self) -> None:
        """Read the pauses, and take care of the messages that wait for them. Not in a transaction.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        self.refresh()
        if self._is_to_release:
            self._is_to_release = False
            # Transactions of this process that began before the end of the pause may put messages back after it.
            for pause, ended_at in list(self._ended.values()):
                state.release(pause, self._now(), using=self._using)
                if self._clock() - ended_at >= LONGEST_TRANSACTION_SECONDS:
                    del self._ended[pause.id]
        for pause in self._active:
            following, _ = pause.check_times(self._now())
            if pause.is_half_open(self._now()):
                continue  # one of the messages must be tried
            if following - self._now() <= state.AHEAD and self._postponed.get(pause.id) != following:
                state.postpone(pause, self._now(), using=self._using)
                self._postponed[pause.id] = following

    def _now(self) -> datetime:
        """The time by the database's clock."""
        at, read_at = self._time
        return at + timedelta(seconds=self._clock() - read_at)
