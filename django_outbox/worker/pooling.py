"""Poolers that give each transaction another session, as PgBouncer in transaction mode: nothing may be prepared there.

psycopg names the statements that it prepares by number. On another session the same name is unknown, or is another
client's statement.
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

# Such a statement exists already, does not exist, or takes other parameters.
_SQLSTATES = ("42P05", "26000", "08P01")
_NAMES = "_pg3_"  # of psycopg
# The name is to be seen unless the pooler replaces it, as those do that keep track of what their clients prepare.
_PROBE = f"""
    SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_prepared_statements WHERE starts_with(name, '{_NAMES}'))
"""  # noqa: S608  # of a constant

_unprepared: set[str] = set()


def may_prepare(using: str) -> bool:
    """False once this database has been found behind such a pooler."""
    return using not in _unprepared


def is_pooler_fault(error: BaseException) -> bool:
    """True if a session did not have the prepared statement that psycopg has made."""
    cause = error.__cause__ or error
    return getattr(cause, "sqlstate", None) in _SQLSTATES and _NAMES in str(cause)


def stop_preparing(error: BaseException, using: str) -> bool:
    """Prepare nothing more behind the pooler that an error shows; True if the same work can then be done again.

    Args:
        error: what was raised. It does not say by which connection.
        using: alias of the database that is the most likely.
    """
    if not is_pooler_fault(error):
        return False
    suspects = [
        each
        for each in connections.all(initialized_only=True)
        if each.vendor == "postgresql" and may_prepare(each.alias)
    ]
    if not suspects:
        return False
    switch_off(min(suspects, key=lambda each: (not prepares(each), each.alias != using)))
    return True


def switch_off(connection: BaseDatabaseWrapper) -> None:
    """Prepare nothing more, on this connection and on those that this process will make to the same database."""
    log.warning(WARNING, connection.alias, extra={"action": "pooler"})
    _unprepared.add(connection.alias)
    settings = connection.settings_dict  # which all threads share
    settings["OPTIONS"] = {**settings["OPTIONS"], "prepare_threshold": None}
    if connection.in_atomic_block:
        prepare_nothing(connection)
        return
    connection.close()  # at a rollback, psycopg would tell some session to forget what another has prepared
    if settings["OPTIONS"].get("pool"):
        connection.close_pool()  # type: ignore[attr-defined]  # of PostgreSQL alone


def prepare_nothing(connection: BaseDatabaseWrapper) -> None:
    """Prepare nothing for as long as this connection lives."""
    connection.ensure_connection()
    if hasattr(connection.connection, "prepare_threshold"):  # psycopg 3
        connection.connection.prepare_threshold = None


def prepares(connection: BaseDatabaseWrapper) -> bool:
    """True if OPTIONS have psycopg prepare statements, which it does only where the server binds parameters."""
    options = connection.settings_dict["OPTIONS"]
    return options.get("prepare_threshold") is not None and bool(options.get("server_side_binding"))


def is_behind_pooler(connection: BaseDatabaseWrapper) -> bool:
    """True if there is a pooler that does not keep track of prepared statements.

    It cannot be told whether it is in session mode, where they would do no harm, until it gives another session.

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
    return bool(is_named and pid != driver.info.backend_pid)  # which a pooler makes up
