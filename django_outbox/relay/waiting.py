"""How the relay waits for work: for a notification where PostgreSQL delivers them, otherwise for the poll interval."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import connections

from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line
from django_outbox.worker.database_errors import UNAVAILABLE
from django_outbox.worker.incident import Incident
from django_outbox.worker.notify import ALERT_FOR_SECONDS, ALERT_SECONDS, Listener
from django_outbox.worker.stop import Stop

log = logging.getLogger("django_outbox.relay")


class WorkWaiter:
    """Waits between two passes. After a notification it waits only a moment, as one may stand for several commits."""

    def __init__(self, using: str, clock: Callable[[], float]) -> None:
        self._using = using
        self._clock = clock
        self._listener = Listener(using)
        self._can_listen = settings.notify and connections[using].vendor == "postgresql"
        self._incident = Incident(log, "Listening for NOTIFY", clock, level=logging.WARNING)
        self._listen_at = 0.0
        self._alert_until = 0.0
        self.is_listening = False
        """True if notifications arrive. So there is no pooler that gives each transaction another session."""

    def listen_if_due(self) -> None:
        """Listen for notifications. If the server has no connection left, poll and try again later.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        if not self._can_listen or self._listener.is_open or self._clock() < self._listen_at:
            return
        with connections[self._using].cursor() as cursor:  # raises if the database is away altogether
            cursor.execute("SELECT 1")
        try:
            self._can_listen = self.is_listening = self._listener.open()
        except UNAVAILABLE as error:
            self._listen_at = self._clock() + self._incident.report(f"Polling meanwhile. {in_one_line(error)}")
        else:
            self._incident.resolve()

    def seconds(self, pass_began_at: float, poll_interval: float) -> float:
        """Return how long to wait after a pass, which may have missed messages committed while it ran."""
        return ALERT_SECONDS if pass_began_at < self._alert_until else poll_interval

    def wait(self, stop: Stop, seconds: float) -> bool:
        """Wait; return True if there was a notification.

        Raises:
            OperationalError, InterfaceError: the connection is lost.
        """
        try:
            is_notified = self._listener.wait(stop, seconds)
        except UNAVAILABLE:
            self.close()
            raise
        if is_notified:
            self._alert_until = self._clock() + ALERT_FOR_SECONDS
        return is_notified

    def close(self) -> None:
        self.is_listening = False
        self._listener.close()
