"""Fixtures of the tests with a database and the memory broker."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.logs import Checking
from tests.support.routers import naming, unnamed

OTHER = "other"


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a consumer without records look again soon, as a drain waits for two empty polls."""
    monkeypatch.setattr("django_outbox.consumer.consumer.POLL_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def named_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a statement or transaction of relay, consumer or state machine would take the default database."""
    from django.db import transaction

    monkeypatch.setattr(transaction, "get_connection", naming(transaction.get_connection))
    yield
    found = list(unnamed)
    unnamed.clear()
    assert not found


@pytest.fixture(autouse=True)
def checked_logs() -> Iterator[None]:
    """Log as in production, and fail if a line cannot be formatted or has no known action."""
    log, checking = logging.getLogger("django_outbox"), Checking()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(checking)
    yield
    log.removeHandler(checking)
    log.setLevel(level)
    assert not checking.wrong


@pytest.fixture
def other(transactional_db: None) -> Iterator[str]:
    """A second alias for the same database."""
    from django.db import connection, connections

    connections.settings[OTHER] = dict(connection.settings_dict)
    connections[OTHER].connect()  # past Django's guard, which knows only what was there at the start
    yield OTHER
    connections[OTHER].close()
    del connections[OTHER]
    del connections.settings[OTHER]
