"""PostgreSQL's LISTEN and NOTIFY, which wake the relay between two polls.

A writer notifies after its commit: within the transaction, PostgreSQL would serialize commits. A process notifies at
most a hundred times a second, so a notification may stand for several commits. The relay polls at short intervals for a
moment after it.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from functools import partial
from typing import Any

from django.db import Error, connections, transaction

from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line
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


def notify_after_commit(using: str) -> None:
    """Notify the relays of this database after the current transaction commits."""
    if settings.notify and connections[using].vendor == "postgresql":
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
    """A separate connection of the relay that receives notifications while the relay waits."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._connection: Any = None

    def open(self) -> bool:
        """Start to listen; False, with a warning, if notifications do not arrive.

        A pooler in transaction mode accepts LISTEN and delivers nothing, so this sends a notification and waits for it.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        self.close()
        try:
            return self._open()
        except BaseException:  # not connected, or not tested
            self.close()
            raise

    def _open(self) -> bool:
        self._connection = connections[self._using].copy()
        with self._connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        with connections[self._using].cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
        if self._is_readable(SELF_TEST_SECONDS) and self._take():
            return True
        log.warning(
            "NOTIFY does not arrive through this connection to the database. Is it a pooler in transaction mode? "
            "The relay polls every %g s instead.",
            settings.poll_interval,
            extra={"action": "notify"},
        )
        self.close()
        return False

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def wait(self, stop: Stop, seconds: float) -> bool:
        """Wait up to this many seconds; True if there was a notification.

        Raises:
            OperationalError, InterfaceError: the connection is lost.
        """
        if not self.is_open:
            stop.wait(seconds)
            return False
        stop.wait(seconds, self._connection.connection)
        return self._take()

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
