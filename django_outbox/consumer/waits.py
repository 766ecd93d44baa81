"""Messages that wait in the consumer's hand for an earlier one of their key, so that the relay need not send them again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from django_outbox.brokers.base import TopicPartition

HOLD_SECONDS = 60.0
"""How long a message may wait: the earlier one may be far behind, or lost, which is found out after half a minute at least."""
RETRY_SECONDS = 10.0
"""The longest wait for a retry of the earlier one: its first four. Before a later retry, the message is sent again."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 1.0
"""Between two looks whether its turn has come, doubled each time."""
LOOKS_A_SECOND = 500
"""Of all messages that wait. The more there are, the longer each waits between two looks."""


@dataclass(slots=True)
class Wait:
    """A message waits at most until ``deadline``, now until ``until``, both on the clock. The rest: see ``may_wait()``."""

    deadline: float
    until: float = 0.0
    looks: int = 0
    awaited: int | None = None
    is_placed: bool = False


_OVER = Wait(0.0)


class Waits:
    """The messages that wait, by id. Lanes share it: a message is in one lane at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.most = 0
        """How many may wait."""
        self.refused: Collection[TopicPartition] = ()
        """Partitions whose messages may not wait."""
        self._clock = clock
        self._lock = threading.Lock()  # for what follows
        self._waits: dict[int, Wait] = {}
        self._searched_at = 0.0

    def may_wait(
        self,
        id: int,
        partition: TopicPartition,
        until: datetime | timedelta,
        *,
        awaited: int | None = None,
        is_placed: bool = False,
    ) -> bool:
        """True if the message may wait in hand instead of being sent again.

        Args:
            partition: of its record.
            until: when the earlier one is due, if that is known.
            awaited: the id of the earlier one; 0 if its row is not visible yet; None if it comes later in the same
                batch, or if the message waits for its own row.
            is_placed: the relay sent the message, so it comes after all with lower ids.
        """
        now = self._clock()
        with self._lock:
            if self._accepts(id, partition, now) and self._wait(id, until, now):
                self._waits[id].awaited, self._waits[id].is_placed = awaited, is_placed
                return True
            self._waits.pop(id, None)
            return False

    def wait_on(self, id: int, partition: TopicPartition) -> float | None:
        """Until when the message waits on for the same one, on the clock; None if that would be too long."""
        now = self._clock()
        with self._lock:
            wait = self._waits.get(id)
            if wait is None or not self._accepts(id, partition, now) or not self._wait(id, timedelta(0), now):
                return None
            return wait.until

    def _accepts(self, id: int, partition: TopicPartition, now: float) -> bool:
        if not self.most or partition in self.refused:
            return False
        if len(self._waits) >= self.most and now >= self._searched_at + LONGEST_WAIT_SECONDS:
            self._searched_at = now  # for messages of partitions that another consumer has now
            self._waits = {each: wait for each, wait in self._waits.items() if wait.deadline >= now or each == id}
        return id in self._waits or len(self._waits) < self.most

    def _wait(self, id: int, until: datetime | timedelta, now: float) -> bool:
        """Set how long it waits now; False if that would be too long."""
        wait = self._waits.setdefault(id, Wait(now + HOLD_SECONDS))
        longest = max(LONGEST_WAIT_SECONDS, len(self._waits) / LOOKS_A_SECOND)
        seconds = min(FIRST_WAIT_SECONDS * 2**wait.looks, longest)
        if isinstance(until, datetime):
            # By this worker's clock: if it is wrong, the message is looked at too early, or sent again. Order is not at stake.
            due_in = (until - timezone.now()).total_seconds()
            if due_in > RETRY_SECONDS:
                return False
            seconds = max(seconds, due_in)
        wait.looks += 1
        wait.until = now + seconds
        return wait.until <= wait.deadline

    def find(self, id: int) -> Wait:
        """The wait of a message; one that is over if the message does not wait."""
        with self._lock:
            return self._waits.get(id, _OVER)

    def end(self, id: int) -> None:
        with self._lock:
            self._waits.pop(id, None)
