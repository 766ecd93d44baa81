"""Statements that PostgreSQL has parsed and planned before, and plans that suit the table as it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

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

    @contextmanager
    def used(self) -> Iterator[None]:
        """For the block only: other statements of this connection are the project's business."""
        driver: Any = None
        if self.wanted:
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
        # Of psycopg 3 alone, and None unless the project wants statements prepared.
        prepares = getattr(connections[self._using].connection, "prepare_threshold", None) is not None
        if self.wanted or prepares:
            with connections[self._using].cursor() as cursor:
                cursor.execute("DISCARD PLANS")
