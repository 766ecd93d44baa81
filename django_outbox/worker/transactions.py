"""Transactions of handlers, and retries of a transaction after a transient fault of the database."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from django.db import connections, router, transaction

from django_outbox.worker.database_errors import is_outage, is_transient, session_of
from django_outbox.worker.pooling import stop_preparing

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_ATTEMPTS = 5
MAX_SUSPECTS = 1000


class OutageCounts:
    """Counts how often the same work met an outage of the database and never completed.

    The work may cause the outage: PostgreSQL restarts all sessions after the kernel kills one of them. After
    ``MAX_ATTEMPTS`` other work must have its turn.
    """

    def __init__(self) -> None:
        self._outages: dict[Hashable, tuple[int, Exception]] = {}

    def add(self, work: Hashable, outage: Exception) -> None:
        if len(self._outages) >= MAX_SUSPECTS:
            self._outages.clear()
        count, _ = self._outages.get(work, (0, outage))
        self._outages[work] = count + 1, outage

    def reset(self, work: Hashable) -> None:
        self._outages.pop(work, None)

    def limit_reached(self, work: Hashable) -> Exception | None:
        """Return the last outage of this work if there were ``MAX_ATTEMPTS``, else None."""
        count, outage = self._outages.get(work, (0, None))
        return outage if count >= MAX_ATTEMPTS else None


def _raise(error: Exception) -> NoReturn:
    raise error


def retry_transaction(
    work: Callable[[], Result],
    *,
    using: str,
    on_error: Callable[[Exception], Result] = _raise,
    on_exhausted: Callable[[Exception], Result] = _raise,
    on_retry: Callable[[Exception], object] = lambda fault: None,
    outages: OutageCounts | None = None,
    work_id: Hashable = None,
) -> Result:
    """Run a transaction, again after a transient fault such as a deadlock, and return its result.

    Args:
        on_error: called with an error that is not transient; its result is returned instead.
        on_exhausted: the same for the last fault after ``MAX_ATTEMPTS``.
        on_retry: called with each transient fault.
        outages: counts the outages of this work. At the limit, ``on_exhausted`` is called instead of ``work``.
        work_id: key of this work in ``outages``.

    Raises:
        OperationalError, InterfaceError, InternalError: the connection is lost, or the server is read-only.
    """
    outages = outages or OutageCounts()
    if outage := outages.limit_reached(work_id):
        result = on_exhausted(outage)
        outages.reset(work_id)
        return result
    for _ in range(MAX_ATTEMPTS):
        session = session_of(using)  # if this raises, the work did not cause it
        try:
            result = work()
            outages.reset(work_id)
            return result
        except Exception as error:
            if not stop_preparing(error, using):
                if is_outage(error, using):
                    outages.add(work_id, error)
                    raise
                if not is_transient(error, using, session):
                    return on_error(error)
            on_retry(error)
            fault = error
    return on_exhausted(fault)


_pinned: ContextVar[str | None] = ContextVar("django_outbox_pinned_reads", default=None)


class _Router:
    """Has handlers read from the database of the outbox, not from a replica that may lag.

    It precedes ``DATABASE_ROUTERS``, which decide for models that are written to another database.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        alias = _pinned.get()
        return alias if alias is not None and router.db_for_write(model, **hints) == alias else None


_ROUTER = _Router()


@contextmanager
def _pinned_reads(using: str) -> Iterator[None]:
    routers = router.routers
    if routers and routers[0] is not _ROUTER:
        routers.insert(0, _ROUTER)  # at each use, as override_settings creates a new list
    token = _pinned.set(using)
    try:
        yield
    finally:
        _pinned.reset(token)


def handler_database() -> str:
    """The alias of the database whose message is handled now; for handlers."""
    alias = _pinned.get()
    if alias is None:
        raise RuntimeError("No message is handled now.")
    return alias


@contextmanager
def handler_transaction(using: str) -> Iterator[None]:
    """A transaction for handlers and the state of their messages.

    Reads go to this database: a replica may not have the event's transaction yet. ``on_commit`` functions of
    handlers run after the commit; an error in one is logged.
    """
    connection = connections[using]
    with _pinned_reads(using), transaction.atomic(using=using):
        existing = len(connection.run_on_commit)
        if connection.vendor == "mysql":
            # InnoDB ends the whole transaction at a deadlock. If a handler ignores that error, releasing this
            # savepoint raises, so nothing is committed in a second transaction.
            with transaction.atomic(using=using):
                yield
        else:
            yield
        hooks: list[Any] = connection.run_on_commit
        hooks[existing:] = [(ids, _logging_errors(function), robust) for ids, function, robust in hooks[existing:]]


def _logging_errors(hook: Callable[[], object]) -> Callable[[], None]:
    """Wrap an ``on_commit`` function so that its error is logged, and later functions still run.

    Django's ``robust=True`` needs the function's ``__qualname__``, which a ``partial`` does not have.
    """

    def run() -> None:
        try:
            hook()
        except (Exception, CancelledError):
            # The error's text is in the traceback; formatting it here could raise again.
            log.exception(
                "An on_commit function of a handler raised: %s.", _name_of(hook), extra={"action": "on_commit"}
            )

    return run


def _name_of(hook: Callable[[], object]) -> str:
    function = getattr(hook, "func", hook)  # of a partial
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', '')}.{name}"
