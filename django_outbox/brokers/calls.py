"""Calls of client libraries that may wait too long for a broker."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Generic, TypeVar

Result = TypeVar("Result")

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 1.0
# A commit has no answer until the cluster notices that one of its brokers hangs, which takes less than this.
COMMIT_SECONDS = 30.0
# How often a wait checks whether to go on.
SLICE_SECONDS = 0.1
# A stopping process waits for outstanding answers as long as one arrives at least this often.
GRACE_SECONDS = 0.3

# A socket option that makes the kernel drop unsent data when the socket is closed or the process dies.
DROP_UNSENT = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Call(Generic[Result]):
    """A call in a thread that does not keep the process alive."""

    def __init__(self, call: Callable[[], Result], undo: Callable[[Result], object] | None = None) -> None:
        """``call`` starts at once; ``undo`` gets its result if the caller no longer waits for it."""
        self._call = call
        self._undo = undo
        self.future: Future[Result] = Future()
        """Ends with what the call returns or raises."""
        threading.Thread(target=self._run, name="outbox-call", daemon=True).start()

    def _run(self) -> None:
        try:
            self.future.set_result(self._call())
        except BaseException as error:
            self.future.set_exception(error)

    @property
    def is_done(self) -> bool:
        return self.future.done()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end, but at most ``seconds``."""
        wait([self.future], seconds)

    def result(self, seconds: float, given_up: Callable[[], bool]) -> Result:
        """What the call returns or raises; TimeoutError if it has not ended after ``seconds``, or is given up."""
        deadline = time.monotonic() + seconds
        while not self.is_done:
            left = deadline - time.monotonic()
            if left <= 0 or given_up():
                if self.future.done():  # just now
                    break
                self.future.add_done_callback(self._undo_result)
                raise TimeoutError(f"no answer within {seconds:g} s" if left <= 0 else "no time left for an answer")
            self.wait(min(SLICE_SECONDS, left))
        return self.future.result()

    def _undo_result(self, future: Future[Result]) -> None:
        if self._undo is not None and future.exception() is None:
            with suppress(Exception):
                self._undo(future.result())


class Patience:
    """How long to wait for answers: until a deadline, but not in vain once the process is stopping."""

    def __init__(self, deadline: float, interrupted: Callable[[], bool]) -> None:
        """``deadline`` is on the monotonic clock."""
        self._deadline = deadline
        self._interrupted = interrupted
        self._unanswered: int | None = None
        self._heard_at = 0.0

    @property
    def is_late(self) -> bool:
        """True after the deadline."""
        return time.monotonic() >= self._deadline

    def is_over(self, unanswered: int = 1) -> bool:
        """True if waiting is over; ``unanswered``: how many answers are missing."""
        now = time.monotonic()
        if now >= self._deadline:
            return True
        if not self._interrupted():
            return False
        if self._unanswered is None or unanswered < self._unanswered:
            self._unanswered, self._heard_at = unanswered, now
        return now - self._heard_at >= GRACE_SECONDS


def close_in_time(close: Callable[[], object], seconds: float = CLOSE_SECONDS) -> None:
    """Close a client, but wait at most ``seconds`` for it. Never raises."""
    Call(close).wait(seconds)
