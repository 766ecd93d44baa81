"""Tasks in the outbox, with a registry that has no other handlers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

collect_ignore_glob = [] if find_spec("django.tasks") else ["test_*.py"]  # Django 5.2

Configure = Callable[..., Any]


@pytest.fixture
def configure(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Make the outbox the backend of ``TASKS``, with these options, and register the tasks; returns the registry."""
    from django_outbox.handlers.registry import Registry
    from django_outbox.tasks.loading import load_tasks
    from django_outbox.testing import draining

    def use(*queues: str, **options: Any) -> Registry:
        settings.TASKS = {
            "default": {
                "BACKEND": "django_outbox.tasks.OutboxBackend",
                "QUEUES": ["default", *queues],
                "OPTIONS": options,
            },
            "immediate": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
        }
        own = Registry()
        load_tasks(own)
        own.load = lambda: None  # type: ignore[method-assign]
        monkeypatch.setattr(draining, "registry", own)
        return own

    return use


@pytest.fixture
def registry(configure: Configure) -> Any:
    """The handlers of tasks in the outbox, without options."""
    return configure()
