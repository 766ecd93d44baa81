"""Fixtures of the tests of the state machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest


@pytest.fixture
def at_most() -> Callable[[int], AbstractContextManager[None]]:
    """Refuse more statements than so many, so that a search that would never end fails."""
    from django.db import connection

    @contextmanager
    def limited(most: int) -> Iterator[None]:
        count = 0

        def execute(execute: Any, *arguments: Any) -> Any:
            nonlocal count
            count += 1
            assert count <= most, f"more than {most} statements"
            return execute(*arguments)

        with connection.execute_wrapper(execute):
            yield

    return limited
