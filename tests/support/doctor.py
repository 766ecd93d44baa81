"""Fixtures of tests of the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def installation() -> Any:
    """The installation of these tests, in the test's own thread."""
    from django_outbox.operations.doctor.installation import Installation

    return Installation("default")


@pytest.fixture(autouse=True)
def forget_brokers() -> Iterator[None]:
    from django_outbox.brokers.memory import MemoryBroker

    MemoryBroker.clear()
    yield
    MemoryBroker.clear()


@pytest.fixture
def other_session() -> Iterator[Any]:
    """A second session with the database."""
    from django.db import connection

    other = connection.copy()
    try:
        yield other
    finally:
        other.close()
