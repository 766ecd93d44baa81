"""Makes each statement, commit and rollback of this process a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from tests.support.watched.steps import statement_of, watch


def watch_database() -> None:
    """From now on. Statements of psycopg itself, such as those of a pooler's examination, are no steps."""
    connection_created.connect(_watch_statements, weak=False)
    for name, verb in (("connect", "CONNECT"), ("_commit", "COMMIT"), ("_rollback", "ROLLBACK")):
        setattr(BaseDatabaseWrapper, name, _as_step(getattr(BaseDatabaseWrapper, name), verb))


def _watch_statements(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if _execute not in connection.execute_wrappers:
        connection.execute_wrappers.append(_execute)


def _execute(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    with watch.passing(watch.name(statement_of(str(sql)))):
        return execute(sql, params, many, context)


def _as_step(method: Callable[..., Any], verb: str) -> Callable[..., Any]:
    @wraps(method)
    def call(self: BaseDatabaseWrapper, *args: Any, **options: Any) -> Any:
        if verb != "CONNECT" and self.connection is None:
            return method(self, *args, **options)
        with watch.passing(watch.name(verb)):
            return method(self, *args, **options)

    return call
