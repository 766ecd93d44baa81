"""Statements that PostgreSQL has parsed and planned before, and plans that suit the table as it is now."""

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
    """Statements that the server parses once, and plans once a second.

    Without a limit, PostgreSQL keeps their plans until the table is analyzed, and those that it made for an empty table
    read all of it: with 300,000 messages more, a batch of 100 took 17 s. A plan that is made anew goes by the
    table's present size, be its statistics old.

    Attributes:
        wanted: prepare those within ``used()``, though the project has psycopg prepare none. Not for a pooler in
            transaction mode, where the next transaction may meet another session.
    """

    def __init__(self, using: str, clock: Callable[[], float]) -> None:
        """
        Args:
            using: alias of a database of any vendor.
            clock: seconds, monotonic.
        """
        self.wanted = False
        self._using = using
        self._clock = clock
        self._renew_at = 0.0
        self._examined: Any = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """For the block only: other statements of this connection are the project's business."""
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

    def plan_anew(self) -> None:
        """Do so if it is time; call it between two transactions.

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
        # Of psycopg 3 alone, and None unless the project wants statements prepared.
        is_prepared = getattr(connection.connection, "prepare_threshold", None) is not None
        if (self.wanted and may_prepare(self._using)) or is_prepared:
            with connection.cursor() as cursor:
                cursor.execute("DISCARD PLANS")

    def _examine(self, connection: BaseDatabaseWrapper) -> None:
        """Look once whether a new connection goes through a pooler, before another client's statement is executed."""
        if not prepares(connection) or not may_prepare(self._using):
            return
        connection.ensure_connection()
        if connection.connection is not self._examined:
            self._examined = connection.connection
            if is_behind_pooler(connection):
                switch_off(connection)
