"""PostgreSQL's LISTEN and NOTIFY, which wake the relay between two polls.

A writer notifies after its commit: within the transaction, PostgreSQL would serialize commits. A process notifies at
most a hundred times a second, so a notification may stand for several commits. The relay polls at short intervals for a
moment after it.
"""

from __future__ import annotations

import logging
import math
import selectors
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import Error, connections, transaction

from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line
from django_outbox.worker.database_errors import UNAVAILABLE
from django_outbox.worker.incident import Incident
from django_outbox.worker.stop import Selector, Stop

log = logging.getLogger(__name__)

CHANNEL = "django_outbox"
# At most a hundred in any second: a burst, and a rate after it.
BURST = 10
PER_SECOND = 90
ALERT_SECONDS = 0.003  # between two passes of a relay that was notified
ALERT_FOR_SECONDS = 2 / PER_SECOND  # for which it polls at that interval
SELF_TEST_SECONDS = 2.0

_lock = threading.Lock()
_allowed: dict[str, tuple[float, float]] = {}  # by alias: notifications left, and when that was counted


def _is_used(using: str) -> bool:
    return settings.notify and connections[using].vendor == "postgresql"


def notify_after_commit(using: str) -> None:
    """Notify the relays of this database after the current transaction commits."""
    if _is_used(using):
        transaction.on_commit(partial(_notify, using), using=using)


def _notify(using: str) -> None:
    if not _may_notify(using, time.monotonic()):
        return
    try:
        with connections[using].cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
    except Error as error:
        # The message is committed, and the relay polls: the caller must not fail.
        log.warning("The relay was not notified: %s", in_one_line(error), extra={"action": "notify"})


def _may_notify(using: str, now: float) -> bool:
    with _lock:
        left, at = _allowed.get(using, (BURST, now))
        left = min(BURST, left + (now - at) * PER_SECOND)
        _allowed[using] = (left - 1 if left >= 1 else left, now)
        return left >= 1


class Listener:
    """A separate connection of the relay that receives notifications while the relay waits.

    Where there are none, it waits for the poll interval.
    """

    def __init__(self, using: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._using = using
        self._clock = clock
        self._connection: Any = None
        self._incident = Incident(
            logging.getLogger("django_outbox.relay"), "Listening for NOTIFY", clock, level=logging.WARNING
        )
        self._open_at = 0.0 if _is_used(using) else math.inf
        self._alert_until = 0.0

    @property
    def is_open(self) -> bool:
        """True if notifications arrive. So there is no pooler that gives each transaction another session."""
        return self._connection is not None

    def open_if_due(self) -> None:
        """Start to listen where NOTIFY is used. If the server has no connection left, try again later.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        if self.is_open or self._clock() < self._open_at:
            return
        with connections[self._using].cursor() as cursor:  # raises if the database is away altogether
            cursor.execute("SELECT 1")
        try:
            self._open_at = 0.0 if self.open() else math.inf
        except UNAVAILABLE as error:
            self._open_at = self._clock() + self._incident.report(f"Polling meanwhile. {in_one_line(error)}")
        else:
            self._incident.resolve()

    def open(self) -> bool:
        """Start to listen; False, with a warning, if notifications do not arrive.

        A pooler in transaction mode accepts LISTEN and delivers nothing, so this sends a notification and waits for it.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        self.close()
        arrives = False
        try:
            self._connection = connections[self._using].copy()
            with self._connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            with connections[self._using].cursor() as cursor:
                cursor.execute(f"NOTIFY {CHANNEL}")
            arrives = self._is_readable(SELF_TEST_SECONDS) and self._take()
        finally:
            if not arrives:
                self.close()
        if not arrives:
            log.warning(
                "NOTIFY does not arrive through this connection to the database. Is it a pooler in transaction mode? "
                "The relay polls every %g s instead.",
                settings.poll_interval,
                extra={"action": "notify"},
            )
        return arrives

    def seconds_to_wait(self, pass_began_at: float, poll_interval: float) -> float:
        """How long to wait after a pass: not long after a notification, which may stand for commits that the pass missed."""
        return ALERT_SECONDS if pass_began_at < self._alert_until else poll_interval

    def wait(self, stop: Stop, seconds: float) -> bool:
        """Wait up to this many seconds; True if there was a notification.

        Raises:
            OperationalError, InterfaceError: the connection is lost.
        """
        if not self.is_open:
            stop.wait(seconds)
            return False
        try:
            stop.wait(seconds, self._connection.connection)
            is_notified = self._take()
        except UNAVAILABLE:
            self.close()
            raise
        if is_notified:
            self._alert_until = self._clock() + ALERT_FOR_SECONDS
        return is_notified

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_readable(self, seconds: float) -> bool:
        with Selector() as selector:
            selector.register(self._connection.connection, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _take(self) -> bool:
        """Consume received notifications; True if there were any."""
        with self._connection.wrap_database_errors:
            driver = self._connection.connection
            if hasattr(driver, "poll"):  # psycopg2
                driver.poll()
                taken = bool(driver.notifies)
                driver.notifies.clear()
                return taken
            # psycopg's notifies() creates a selector, even without a timeout.
            driver.pgconn.consume_input()
            taken = False
            while driver.pgconn.notifies() is not None:
                taken = True
            return taken
