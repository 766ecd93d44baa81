"""Classifies database errors: transient faults and outages, as opposed to errors that a message causes."""

from __future__ import annotations

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connections

from django_outbox.exceptions import text_of
from django_outbox.worker.pooling import is_pooler_fault

UNAVAILABLE = (InterfaceError, OperationalError)

# Source: PostgreSQL's manual, appendix A. Classes of SQLSTATE about the connection or
# the server's resources, and single codes that mean: run the transaction again.
_SQLSTATE_CLASSES = ("08", "53", "58")
_SQLSTATES = frozenset(
    {
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # lock not available
        "57P01",  # the administrator ended the connection
        "57P02",  # crash shutdown
        "57P03",  # the server is starting or stopping
        "57P05",  # idle session ended
    }
)
# Source: MySQL's and MariaDB's error references.
_MYSQL_CODES = frozenset(
    {
        1020,  # the record has changed since it was read (MariaDB's snapshot isolation)
        1040,  # too many connections
        1053,  # the server is shutting down
        1205,  # lock wait timeout
        1213,  # deadlock
        1927,  # the connection was killed
        2002,  # cannot connect
        2003,
        2006,  # the server has gone away
        2013,  # the connection was lost
        2055,
        4031,  # ended for inactivity
    }
)
# The server is read-only, as during a failover: PostgreSQL (read_only_sql_transaction), MySQL and MariaDB.
_READ_ONLY_CODES = ("25006", 1290, 1836)
# PostgreSQL has ended the session, as its transaction was idle, or open, for too long. Its drivers call that an InternalError.
_ENDED_CODES = ("25P03", "25P04")
_READ_ONLY_QUERIES = {"postgresql": "SHOW transaction_read_only", "mysql": "SELECT @@global.read_only"}
_SQLITE_TEXTS = ("database is locked", "database table is locked", "database schema is locked")


def session_of(using: str) -> object:
    """Return the driver's connection, and connect if necessary. After a lost connection it is another object."""
    connections[using].ensure_connection()
    return connections[using].connection


def is_transient(error: BaseException, using: str, session: object = None) -> bool:
    """True if the same work may succeed later, so the message did not cause the error.

    ``session`` is ``session_of`` the database when the work began, if known: a server that disappears sends no error
    code, and Django reconnects at the end of ``atomic()``.
    """
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    if is_pooler_fault(error):
        return True
    code = _code_of(error)
    if code in _READ_ONLY_CODES:
        return _is_read_only(using)  # otherwise it is another database, or a transaction that was set read-only
    if isinstance(code, str):
        return code in _SQLSTATES or code[:2] in _SQLSTATE_CLASSES
    if code is not None:
        return code in _MYSQL_CODES
    if any(text in text_of(error) for text in _SQLITE_TEXTS):
        return True
    if not isinstance(error, UNAVAILABLE):
        return False
    return not is_connected(using) or (session is not None and connections[using].connection is not session)


def is_outage(error: BaseException, using: str) -> bool:
    """True if no work is possible until the database is back or accepts writes."""
    return is_transient(error, using) and (is_read_only_error(error) or not is_connected(using))


def is_unavailable(error: BaseException) -> bool:
    """True for errors of a database that is unavailable or read-only, or has ended the session."""
    return isinstance(error, UNAVAILABLE) or is_read_only_error(error) or _code_of(error) in _ENDED_CODES


def is_read_only_error(error: BaseException) -> bool:
    """True if the server rejected a write because it is read-only."""
    return _code_of(error) in _READ_ONLY_CODES


def is_permission_denied(error: BaseException) -> bool:
    """True if PostgreSQL denied this role the permission (insufficient_privilege)."""
    return _code_of(error) == "42501"


def is_connected(using: str) -> bool:
    """True if the connection still works. Queries the server."""
    connection = connections[using]
    if connection.connection is None:
        return False
    try:
        return connection.is_usable()
    except Exception:  # drivers raise errors of any class here
        return False


def drop_broken_connections(after: BaseException | None = None) -> None:
    """Close connections that no longer work, so that the next query reconnects.

    Connections within ``atomic()``, as in a ``TestCase``, stay open: Django's ``close_old_connections`` would end
    that transaction. After the error of a read-only server, all are closed, as a failover may have replaced it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        if after is not None and is_read_only_error(after):
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()


def _code_of(error: BaseException) -> str | int | None:
    """Return PostgreSQL's SQLSTATE, or the error number of MySQL and MariaDB."""
    cause = error.__cause__ or error
    sqlstate: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if sqlstate:
        return sqlstate
    return cause.args[0] if cause.args and isinstance(cause.args[0], int) else None


def _is_read_only(using: str) -> bool:
    """True if this database is read-only now. Queries the server."""
    connection = connections[using]
    if connection.vendor not in _READ_ONLY_QUERIES:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute(_READ_ONLY_QUERIES[connection.vendor])
            (answer,) = cursor.fetchone()
    except Error:  # the server is away
        return True
    return str(answer).lower() not in ("off", "0")
