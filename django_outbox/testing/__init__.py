"""Helpers for the tests of projects: what was published, and the whole pipeline in the test's process."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_outbox.testing.capturing import (
        PublishedMessages,
        assert_nothing_published,
        assert_published,
        captured_messages,
    )
    from django_outbox.testing.delivering import deliver
    from django_outbox.testing.draining import drain
    from django_outbox.testing.failing import fail_once
    from django_outbox.testing.results import DrainResult, Waiting
    from django_outbox.testing.tools import Outbox, OutboxTestMixin

__all__ = [
    "DrainResult",
    "Outbox",
    "OutboxTestMixin",
    "PublishedMessages",
    "Waiting",
    "assert_nothing_published",
    "assert_published",
    "captured_messages",
    "deliver",
    "drain",
    "fail_once",
]

# Imported at first use: pytest loads the plugin beside this module before Django is set up.
_MODULES = {
    "DrainResult": "results",
    "Outbox": "tools",
    "OutboxTestMixin": "tools",
    "PublishedMessages": "capturing",
    "Waiting": "results",
    "assert_nothing_published": "capturing",
    "assert_published": "capturing",
    "captured_messages": "capturing",
    "deliver": "delivering",
    "drain": "draining",
    "fail_once": "failing",
}


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
