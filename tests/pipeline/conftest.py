"""Fixtures of the tests with a database and the memory broker."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a consumer without records look again soon, as a drain waits for two empty polls."""
    monkeypatch.setattr("django_outbox.consumer.consumer.POLL_SECONDS", 0.01)
