"""Has handlers read from the database of the outbox, not from a replica that may lag."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import router

_database: ContextVar[str | None] = ContextVar("django_outbox_pinned_reads", default=None)


class _Router:
    """Precedes ``DATABASE_ROUTERS``, which decide for models that are written to another database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        alias = _database.get()
        return alias if alias is not None and router.db_for_write(model, **hints) == alias else None


_ROUTER = _Router()


@contextmanager
def pinned_reads(using: str) -> Iterator[None]:
    """Within the block, read models from this database if they are written to it, unless a query names another."""
    routers = router.routers
    if routers and routers[0] is not _ROUTER:
        routers.insert(0, _ROUTER)  # at each use, as override_settings creates a new list
    token = _database.set(using)
    try:
        yield
    finally:
        _database.reset(token)
