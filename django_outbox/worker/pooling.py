"""Detects poolers in transaction mode, such as PgBouncer, where psycopg must not prepare statements.

Each transaction may get another session there, where the name of a prepared statement is unknown or means another one.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

log = logging.getLogger(__name__)

WARNING = (
    "The database %r is behind a pooler such as PgBouncer; prepared statements fail there in transaction mode "
    '(transaction pooling), so this process prepares none: remove "prepare_threshold" from its OPTIONS.'
)

# The statement exists already, does not exist, or has other parameters.
_SQLSTATES = ("42P05", "26000", "08P01")
_NAMES = "_pg3_"  # prefix of psycopg's names
# Poolers that support prepared statements replace their names.
_PROBE = f"""
    SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_prepared_statements WHERE starts_with(name, '{_NAMES}'))
"""  # noqa: S608  # a constant

_unprepared: set[str] = set()


def may_prepare(using: str) -> bool:
    """False after a pooler in transaction mode was detected for this database."""
    return using not in _unprepared


def is_pooler_fault(error: BaseException) -> bool:
    """True if a session does not have a statement that psycopg prepared."""
    cause = error.__cause__ or error
    return getattr(cause, "sqlstate", None) in _SQLSTATES and _NAMES in str(cause)


def stop_preparing(error: BaseException, using: str) -> bool:
    """After an error of a pooler, prepare no more statements; True if the same work can be done again.

    The error does not name its connection; ``using`` is the most likely one.
    """
    if not is_pooler_fault(error):
        return False
    suspects = [
        each
        for each in connections.all(initialized_only=True)
        if each.vendor == "postgresql" and (may_prepare(each.alias) or _still_prepares(each))
    ]
    if not suspects:
        return False
    suspect = min(suspects, key=lambda each: (not prepares(each), each.alias != using))
    if may_prepare(suspect.alias):
        switch_off(suspect)
    else:  # another thread did so; this connection is older
        _end_prepared(suspect)
    return True


def _still_prepares(connection: BaseDatabaseWrapper) -> bool:
    return getattr(connection.connection, "prepare_threshold", None) is not None


def switch_off(connection: BaseDatabaseWrapper) -> None:
    """Prepare no more statements, on this and later connections of this process to the same database."""
    log.warning(WARNING, connection.alias, extra={"action": "pooler"})
    _unprepared.add(connection.alias)
    settings = connection.settings_dict  # shared by all threads
    settings["OPTIONS"] = {**settings["OPTIONS"], "prepare_threshold": None}
    _end_prepared(connection)
    if settings["OPTIONS"].get("pool") and not connection.in_atomic_block:
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL only


def _end_prepared(connection: BaseDatabaseWrapper) -> None:
    """End a session that has prepared statements: after a rollback, psycopg would deallocate them in another one."""
    if connection.in_atomic_block:
        prepare_nothing(connection)
    else:
        connection.close()


def prepare_nothing(connection: BaseDatabaseWrapper) -> None:
    """Prepare no statements on this connection."""
    connection.ensure_connection()
    if hasattr(connection.connection, "prepare_threshold"):  # psycopg 3
        connection.connection.prepare_threshold = None


def prepares(connection: BaseDatabaseWrapper) -> bool:
    """True if OPTIONS let psycopg prepare statements, which also requires server-side binding."""
    options = connection.settings_dict["OPTIONS"]
    return options.get("prepare_threshold") is not None and bool(options.get("server_side_binding"))


def is_behind_pooler(connection: BaseDatabaseWrapper) -> bool:
    """True if there is a pooler that does not support prepared statements.

    A pooler in session mode looks the same, although statements would work there.

    Raises:
        OperationalError, InterfaceError: the connection is lost.
    """
    from psycopg import Cursor

    driver: Any = connection.connection
    before, driver.prepare_threshold = driver.prepare_threshold, 0
    try:
        with connection.wrap_database_errors, driver.transaction():
            ((pid, is_named),) = Cursor(driver).execute(_PROBE)
    except Exception as error:
        if is_pooler_fault(error):
            return True
        raise
    finally:
        driver.prepare_threshold = before
    return bool(is_named and pid != driver.info.backend_pid)  # a pooler invents the latter
