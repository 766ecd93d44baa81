"""Event types and handlers of a test's own, in place of those of the tests' app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from django_outbox.events.declared import event_types
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import registry


@contextmanager
def own_event_types() -> Iterator[None]:
    """Forget what is declared, and afterwards what the test declares."""
    with patch.object(event_types, "_declared", {}):
        yield


@contextmanager
def only_handlers(*handlers: Handler) -> Iterator[None]:
    """Let the project have these handlers only."""
    registry.load()  # or it would add those of the tests later
    with patch.object(registry, "_handlers", [*handlers]):
        yield


def handler_of(event_type: str, *, topic: str | None = None, group: str | None = None) -> Handler:
    return Handler(event_type, handle, topic, group)


def handle(event: object) -> None: ...
