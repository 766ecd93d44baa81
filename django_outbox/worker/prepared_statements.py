"""Prepared statements on PostgreSQL, with plans that fit the current size of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_outbox.worker.pooling import is_behind_pooler, may_prepare, prepares, switch_off

PLANS_SECONDS = 1.0
PREPARE_THRESHOLD = 5  # as psycopg has it by default


class PreparedStatements:
    """Has the server parse statements once, and plan them once a second.

    PostgreSQL keeps a plan until the table is analyzed. A plan for an empty table scans all of it: with 300,000 messages
    a batch of 100 took 17 s. A new plan uses the table's current size, even if its statistics are old.
    """

    def __init__(self, using: str, clock: Callable[[], float]) -> None:
        self.wanted = False
        """Prepare statements within ``used()``, although the project does not. Not for a pooler in transaction mode."""
        self._using = using
        self._clock = clock
        self._renew_at = 0.0
        self._examined: Any = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Prepare statements within the block only; the rest of the connection belongs to the project."""
        driver: Any = None
        if self.wanted and may_prepare(self._using):
            connections[self._using].ensure_connection()
            driver = connections[self._using].connection
        if not hasattr(driver, "prepare_threshold"):  # not wanted, or psycopg2
            yield
            return
        from django.db.backends.postgresql.base import ServerBindingCursor

        before = driver.cursor_factory, driver.prepare_threshold
        driver.cursor_factory = ServerBindingCursor
        driver.prepare_threshold = PREPARE_THRESHOLD if before[1] is None else before[1]
        try:
            yield
        finally:
            driver.cursor_factory, driver.prepare_threshold = before

    def renew_plans(self) -> None:
        """Discard plans once a second. Call it between two transactions.

        Raises:
            OperationalError, InterfaceError: the connection is lost.
        """
        now = self._clock()
        if now < self._renew_at:
            return
        self._renew_at = now + PLANS_SECONDS
        connection = connections[self._using]
        if not self.wanted:
            self._examine(connection)
        # psycopg 3 only, and None unless the project prepares statements.
        is_prepared = getattr(connection.connection, "prepare_threshold", None) is not None
        if (self.wanted and may_prepare(self._using)) or is_prepared:
            with connection.cursor() as cursor:
                cursor.execute("DISCARD PLANS")

    def _examine(self, connection: BaseDatabaseWrapper) -> None:
        """Check each new connection once for a pooler, before another client's statement could be executed."""
        if not prepares(connection) or not may_prepare(self._using):
            return
        connection.ensure_connection()
        if connection.connection is not self._examined:
            self._examined = connection.connection
            if is_behind_pooler(connection):
                switch_off(connection)
