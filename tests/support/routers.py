"""Notices statements and transactions of relay, consumer and state machine that name no database.

With one database Django's choice is right, and with two it is wrong; the tests have one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMING = ("django_outbox.consumer", "django_outbox.relay", "django_outbox.state")
"""Packages that get the alias of their database from the command or the call, and pass it on to Django each time."""
BETWEEN = ("django.db", "contextlib")

unnamed: list[str] = []
"""What has failed: a worker may take the failure for that of a handler."""


class NoDefaultDatabase:
    """A database router that fails where Django would have to choose the database itself."""

    def db_for_read(self, model: type[Any], **hints: Any) -> None:
        self._check(model, hints)

    def db_for_write(self, model: type[Any], **hints: Any) -> None:
        self._check(model, hints)

    def _check(self, model: type[Any], hints: dict[str, Any]) -> None:
        instance = hints.get("instance")
        if instance is None or not instance._state.db:  # a row says itself where it is
            check(sys._getframe(), f"a statement for {model.__name__}")


def naming(get_connection: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``transaction.atomic`` and its like fail where they would take the default database."""

    def get_named_connection(using: str | None = None) -> Any:
        if using is None:
            check(sys._getframe(), "a transaction")
        return get_connection(using)

    return get_named_connection


def check(frame: FrameType, what: str) -> None:
    """Fail if the nearest caller outside of Django is of a package that names its databases."""
    caller = __name__
    here: FrameType | None = frame
    while here and (caller == __name__ or caller.startswith(BETWEEN)):
        here = here.f_back
        caller = here.f_globals["__name__"] if here else ""
    if caller.startswith(NAMING):
        unnamed.append(f"{caller} does not name the database of {what}")
        raise AssertionError(unnamed[-1])
