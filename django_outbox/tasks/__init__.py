"""A backend for Django's Tasks framework: a task is a message of the outbox, with retries, dead letters and metrics."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_outbox.tasks.backend import OutboxBackend

__all__ = ["OutboxBackend"]


if not TYPE_CHECKING:  # a type checker would accept any name
    # At first use: Celery and others import the module ``tasks`` of each app, also where Django has no tasks.
    def __getattr__(name: str) -> Any:
        if name != "OutboxBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if find_spec("django.tasks") is None:
            from django.core.exceptions import ImproperlyConfigured

            raise ImproperlyConfigured("django_outbox.tasks.OutboxBackend needs Django 6.0 or later.")
        from django_outbox.tasks.backend import OutboxBackend

        return OutboxBackend
