"""Handlers of the test's own for the testing kit."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of the project's handlers; ``handlers.register("order.created", function)`` adds one."""
    from django_outbox.handlers.registry import Registry
    from django_outbox.testing import delivering, draining, failing

    own = Registry()
    own.load = lambda: None  # type: ignore[method-assign]
    for module in (delivering, draining, failing):
        monkeypatch.setattr(module, "registry", own)
    return own
