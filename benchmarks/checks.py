"""Whether a job has done its work: what it should have left is there."""

from __future__ import annotations

import time
from collections.abc import Callable


class WorkNotDone(AssertionError):
    """The rows or records that a job should have left are not there: its figure means nothing."""


def wait_for(count: Callable[[], int], expected: int, what: str, timeout: float = 60) -> None:
    """Wait until so many are there.

    Raises:
        WorkNotDone: if they do not come.
    """
    deadline = time.monotonic() + timeout
    while (found := count()) < expected:
        if time.monotonic() > deadline:
            raise WorkNotDone(f"{what}: {found} instead of {expected}")
        time.sleep(0.02)


def check(what: str, found: int, expected: int) -> None:
    """
    Raises:
        WorkNotDone: if the numbers differ.
    """
    if found != expected:
        raise WorkNotDone(f"{what}: {found} instead of {expected}")
