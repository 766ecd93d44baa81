"""Threads that wait, perhaps for ever if something is wrong."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from tests.support.processes import wait_until

T = TypeVar("T")


def soon(call: Callable[[], T]) -> T:
    """What a call in another thread returns; fail if it does not end."""
    results: list[T] = []
    threading.Thread(target=lambda: results.append(call()), daemon=True).start()
    wait_until(lambda: results, what="the call ends")
    return results[0]


def waits(thread: threading.Thread) -> bool:
    """True if a thread waits for a condition."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__
