"""Fixtures of tests of the doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def installation() -> Any:
    """The installation of these tests, in the test's own thread."""
    from django_outbox.operations.doctor.base import Installation

    return Installation("default")


def limited(find: Any, installation: Any, **limits: Any) -> list[Any]:
    """The findings of a check with other constants in its module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(sys.modules[find.__module__], name, value)
        return list(find(installation))


@pytest.fixture
def other_session() -> Iterator[Any]:
    """A second session with the database."""
    from django.db import connection

    other = connection.copy()
    try:
        yield other
    finally:
        other.close()
