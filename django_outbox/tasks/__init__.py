"""A backend for Django's Tasks framework: a task is a message of the outbox, with retries, dead letters and metrics."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

try:
    import django.tasks  # noqa: F401
except ModuleNotFoundError:
    raise ImproperlyConfigured("django_outbox.tasks needs Django 6.0 or later, which has django.tasks.") from None

from django_outbox.tasks.backend import OutboxBackend

__all__ = ["OutboxBackend"]
