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
        self._began_at = 0.0
        self._waiting_since: float | None = None

    def commit(self, offsets: Offsets) -> bool:
        """Return True once these offsets are committed, False as long as that is not known. Then call again.

        Raises:
            TimeoutError: there was no answer for ``COMMIT_SECONDS``.
            Exception: the answer; one that is late only after attempts for ``COMMIT_SECONDS``. Another call begins anew.
        """
        if self._asked.keys().isdisjoint(offsets):  # this member has lost those partitions
            self._answer = self._waiting_since = None
        committed: Offsets = {}
        if self._answer is not None:
            if not self._has_succeeded(self._answer):
                return False
            committed = self._asked
        left = {place: offset for place, offset in offsets.items() if committed.get(place) != offset}
        if not left:
            return True
        self._began_at = time.monotonic()
        self._waiting_since = self._waiting_since or self._began_at
        self._asked, self._answer = left, self._begin(left)
        return self._has_succeeded(self._answer)

    def _has_succeeded(self, answer: Future[None]) -> bool:
        """True if the commit under way has succeeded; False if it has no answer yet, or a late one."""
        if not answer.done():
            if time.monotonic() - self._began_at >= COMMIT_SECONDS:
                raise TimeoutError("no answer to a commit")
            return False
        self._answer = None
        error = answer.exception()
        if error is None:
            self._waiting_since = None
            return True
        # Not by the time of now: this may be called long after the answer came.
        if self._is_late(error) and self._began_at - (self._waiting_since or 0.0) < COMMIT_SECONDS:
            return False
        self._waiting_since = None
        raise error
