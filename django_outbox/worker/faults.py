"""Telling passing faults of the database from errors that a message causes, and trying again after them."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connections, transaction

from django_outbox.exceptions import text_of
from django_outbox.worker.pinned_reads import pinned_reads
from django_outbox.worker.pooling import is_pooler_fault, stop_preparing

log = logging.getLogger(__name__)

Result = TypeVar("Result")

UNAVAILABLE = (InterfaceError, OperationalError)
TRIES = 5
MOST_SUSPECTS = 1000

# Source: PostgreSQL's manual, appendix A. Classes of SQLSTATE that speak of the connection or of
# the server's resources, and single codes that say "run the transaction again".
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
# That the server takes no writes, as during a failover: from PostgreSQL (read_only_sql_transaction), MySQL and MariaDB.
_READ_ONLY = ("25006", 1290, 1836)
_ASK_FOR_READ_ONLY = {"postgresql": "SHOW transaction_read_only", "mysql": "SELECT @@global.read_only"}
_SQLITE_TEXTS = ("database is locked", "database table is locked", "database schema is locked")


def session_of(using: str) -> object:
    """The session with the database, connected if it was not; another one after it was lost."""
    connections[using].ensure_connection()
    return connections[using].connection


def is_passing(error: BaseException, using: str, session: object = None) -> bool:
    """True if the same work may succeed later, so that no message is to blame.

    Args:
        error: what was raised, by the ORM or around it.
        using: alias of the database that the work ran on.
        session: the ``session_of`` it in which the work began, where that is known. A server that just goes
            away gives no code, and Django connects anew by itself at the end of ``atomic()``.
    """
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    if is_pooler_fault(error):
        return True
    code = _code_of(error)
    if code in _READ_ONLY:
        return _is_read_only(using)  # or else the error is of another database, or of a transaction made so
    if isinstance(code, str):
        return code in _SQLSTATES or code[:2] in _SQLSTATE_CLASSES
    if code is not None:
        return code in _MYSQL_CODES
    if any(text in text_of(error) for text in _SQLITE_TEXTS):
        return True
    if not isinstance(error, UNAVAILABLE):
        return False
    return not is_connected(using) or (session is not None and connections[using].connection is not session)


def is_outage(error: BaseException, using: str, session: object = None) -> bool:
    """True if nothing can be done until the database is back, or takes writes; takes what ``is_passing`` does."""
    return is_passing(error, using, session) and (says_read_only(error) or not is_connected(using))


def is_unavailable(error: BaseException) -> bool:
    """True for what is raised when a database is away, or takes no writes."""
    return isinstance(error, UNAVAILABLE) or says_read_only(error)


def says_read_only(error: BaseException) -> bool:
    """True if the error is that a server takes no writes."""
    return _code_of(error) in _READ_ONLY


def is_refusal(error: BaseException) -> bool:
    """True if PostgreSQL does not let this role do it (insufficient_privilege)."""
    return _code_of(error) == "42501"


def _code_of(error: BaseException) -> str | int | None:
    """PostgreSQL's SQLSTATE, or the number that MySQL and MariaDB give an error."""
    cause = error.__cause__ or error
    sqlstate: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if sqlstate:
        return sqlstate
    return cause.args[0] if cause.args and isinstance(cause.args[0], int) else None


def _is_read_only(using: str) -> bool:
    """True if this database takes no writes now. Asks the server."""
    connection = connections[using]
    if connection.vendor not in _ASK_FOR_READ_ONLY:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute(_ASK_FOR_READ_ONLY[connection.vendor])
            (answer,) = cursor.fetchone()
    except Error:  # it is not even there
        return True
    return str(answer).lower() not in ("off", "0")


def _raise(error: Exception) -> NoReturn:
    raise error


class Outages:
    """How often the same work met an outage of the database, and never came to its end.

    It may be what brings them about: a statement may have the kernel end the server's process, and PostgreSQL
    restarts all of them then. Were such work always the first when the database is back, nothing else would be done.
    """

    def __init__(self) -> None:
        self._met: dict[Hashable, tuple[int, Exception]] = {}

    def note(self, work: Hashable, outage: Exception) -> None:
        if len(self._met) >= MOST_SUSPECTS:
            self._met.clear()
        count, _ = self._met.get(work, (0, outage))
        self._met[work] = count + 1, outage

    def forget(self, work: Hashable) -> None:
        if self._met:
            self._met.pop(work, None)

    def of(self, work: Hashable) -> Exception | None:
        """The last of them if they are too many, so that something else has its turn."""
        count, outage = self._met.get(work, (0, None))
        return outage if count >= TRIES else None


def try_again(
    work: Callable[[], Result],
    *,
    using: str,
    fail: Callable[[Exception], Result] = _raise,
    give_up: Callable[[Exception], Result] = _raise,
    tell: Callable[[Exception], object] = lambda fault: None,
    outages: Outages | None = None,
    name: Hashable = None,
) -> Result:
    """What a transaction of its own returns, made anew after a fault that passes, such as a deadlock.

    Args:
        work: the transaction.
        using: alias of the database.
        fail: called with an error that does not pass, for what is returned instead.
        give_up: the same after so many tries as ``TRIES``, with the fault of the last.
        tell: called with each fault that passes.
        outages: remembers those that this work met; after so many as ``TRIES``, ``give_up`` is called instead of ``work``.
        name: of this work, in ``outages``.

    Raises:
        OperationalError, InterfaceError, InternalError: the connection is lost, or the server takes no writes.
    """
    if outages is not None and (outage := outages.of(name)):
        result = give_up(outage)
        outages.forget(name)
        return result
    for _ in range(TRIES):
        session = session_of(using)  # without one, the work is not to blame
        try:
            result = work()
            if outages is not None:
                outages.forget(name)
            return result
        except Exception as error:
            if stop_preparing(error, using):
                tell(error)
                fault = error
                continue
            if is_outage(error, using, session):
                if outages is not None:
                    outages.note(name, error)
                raise
            if not is_passing(error, using, session):
                return fail(error)
            tell(error)
            fault = error
    return give_up(fault)


@contextmanager
def handling(using: str) -> Iterator[None]:
    """A transaction for handlers and the marks of what they handled.

    InnoDB ends the whole transaction at a deadlock, and what follows would be another one. If a handler
    goes on after such an error as if nothing had been, the savepoint is gone, and releasing it raises.

    What handlers do on commit comes when all is written down. If it raises, that is logged and changes nothing.

    A replica would not show what the transaction of the event has written, nor what this one writes.
    """
    connection = connections[using]
    with pinned_reads(using), transaction.atomic(using=using):
        others = len(connection.run_on_commit)
        if connection.vendor == "mysql":
            with transaction.atomic(using=using):
                yield
        else:
            yield
        hooks: list[Any] = connection.run_on_commit
        hooks[others:] = [(savepoints, _apart(function), robust) for savepoints, function, robust in hooks[others:]]


def _apart(hook: Callable[[], object]) -> Callable[[], None]:
    """A hook whose error keeps no other from running: Django runs none after one that raises.

    Its own ``robust=True`` does not do: it wants the name of the function, which a ``partial`` does not have.
    """

    def run() -> None:
        try:
            hook()
        except (Exception, CancelledError):
            # Without the error's own words, which stand in the traceback, and may be what raises next.
            log.exception("What a handler does on commit raised: %s.", _name_of(hook), extra={"action": "on_commit"})

    return run


def _name_of(hook: Callable[[], object]) -> str:
    function = getattr(hook, "func", hook)  # of a partial
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', '')}.{name}"


def is_connected(using: str) -> bool:
    """True if the connection still works. Asks the server."""
    connection = connections[using]
    if connection.connection is None:
        return False
    try:
        return connection.is_usable()
    except Exception:  # drivers raise whatever they like here
        return False


def drop_broken_connections(after: BaseException | None = None) -> None:
    """Close connections that no longer work, so that the next query makes new ones.

    Not those within ``atomic()``, as in a ``TestCase``: Django's own ``close_old_connections``
    would end that transaction.

    Args:
        after: the error; if it is that a server takes no writes, all are closed, as another server may be in its place.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        if after is not None and says_read_only(after):
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()
