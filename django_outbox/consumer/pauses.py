"""The pauses of a consumer group: what they cover, and what to do when they begin, last and end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import Pause
from django_outbox.state import pauses as state
from django_outbox.state.pauses import ActivePause

REFRESH_SECONDS = 2.0


class Pauses:
    """The pauses of one consumer group, read from the database every two seconds."""

    def __init__(self, using: str, handlers: GroupHandlers, clock: Callable[[], float]) -> None:
        self._using = using
        self._handlers = handlers
        self._clock = clock
        self._active: tuple[ActivePause, ...] = ()
        self._read_at = float("-inf")
        self._time: tuple[datetime, float]  # by the database's clock and by this process's, when pauses were last read
        self._ended: dict[int, ActivePause] = {}
        self._postponed: dict[int, datetime] = {}

    def refresh(self) -> None:
        """Read the pauses, unless that was less than two seconds ago. One query; also in the transaction of handlers."""
        if self._clock() - self._read_at < REFRESH_SECONDS:
            return
        found = tuple(state.active(Pause.objects.using(self._using).filter(group=self._handlers.group)))
        self._read_at = self._clock()
        if found:
            self._time = found[0].now, self._read_at
        ids = {pause.id for pause in found}
        self._ended.update({pause.id: pause for pause in self._active if pause.id not in ids})
        self._active = found

    def due_at(self, event_type: str, topic: str) -> datetime | None:
        """When a message of this type is due if it is put back now; None if it is not paused."""
        if not self._active:
            return None
        names = [handler.name for handler in self._handlers.find(event_type, topic)]
        pause = next((pause for pause in self._active if pause.covers(event_type, names)), None)
        return None if pause is None else pause.due_at(self._now())

    def maintain(self) -> None:
        """Read the pauses, and take care of the messages that wait for them. Not in a transaction.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        self.refresh()
        # This process may have put messages back after the end of a pause.
        for pause in list(self._ended.values()):
            state.release(pause, self._now(), using=self._using)
            del self._ended[pause.id]
        for pause in self._active:
            following, _ = pause.check_times(self._now())
            if following - self._now() <= state.AHEAD and self._postponed.get(pause.id) != following:
                state.postpone(pause, self._now(), using=self._using)
                self._postponed[pause.id] = following

    def _now(self) -> datetime:
        """The time by the database's clock."""
        at, read_at = self._time
        return at + timedelta(seconds=self._clock() - read_at)
