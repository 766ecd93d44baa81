"""Commits of a group's member that goes on reading meanwhile. Shared by the client libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.calls import COMMIT_SECONDS

Offsets = Mapping[TopicPartition, int]


class Commits:
    """One commit at a time, repeated until it has an answer. Used from one thread."""

    def __init__(self, begin: Callable[[Offsets], Future[None]], is_late: Callable[[BaseException], bool]) -> None:
        """
        Args:
            begin: begins a commit; the future ends with its answer.
            is_late: whether a commit that ended with this error may succeed if it is repeated.
        """
        self._begin = begin
        self._is_late = is_late
        self._asked: Offsets = {}
        self._answer: Future[None] | None = None
        self._waiting_since: float | None = None
        self._committed: Offsets = {}  # by the last commit that succeeded

    def commit(self, offsets: Offsets) -> bool:
        """Return True once these offsets are committed, False as long as that is not known. Then call again.

        Raises:
            TimeoutError: there was no answer for ``COMMIT_SECONDS``.
            Exception: the answer, unless it is late; another call begins another commit.
        """
        if self._answer is not None and not self._has_succeeded(self._answer):
            return False
        left = {place: offset for place, offset in offsets.items() if self._committed.get(place) != offset}
        if not left:
            return True
        self._waiting_since = self._waiting_since or time.monotonic()
        self._asked, self._answer = left, self._begin(left)
        return self._has_succeeded(self._answer)

    def _has_succeeded(self, answer: Future[None]) -> bool:
        """True if the commit under way has succeeded; False if it is not answered yet, or too late."""
        is_overdue = time.monotonic() - (self._waiting_since or 0.0) >= COMMIT_SECONDS
        if not answer.done():
            if is_overdue:
                raise TimeoutError("no answer to a commit")
            return False
        self._answer = None
        error = answer.exception()
        if error is None:
            self._waiting_since, self._committed = None, self._asked
            return True
        if self._is_late(error) and not is_overdue:
            return False
        self._waiting_since = None
        raise error
