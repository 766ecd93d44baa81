"""Messages that wait in the consumer's hand for an earlier one of their key, so that the relay need not send them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

HOLD_SECONDS = 60.0
"""How long a message may wait: the earlier one may be far behind in another partition, and be lost after half a minute."""
RETRY_SECONDS = 10.0
"""How long it waits at a time for a retry of the earlier one: for two or three retries."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 1.0
"""Between two looks whether its turn has come, doubled each time."""
LOOKS_A_SECOND = 500
"""Of all messages that wait. The more there are, the longer each waits between two looks."""


@dataclass(slots=True)
class _Wait:
    """A message waits at most until ``deadline``, now until ``until``, both on the clock."""

    deadline: float
    until: float = 0.0
    looks: int = 0


class Waits:
    """The messages that wait, by id. Lanes share it: a message is in one lane at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.most = 0
        """How many may wait."""
        self._clock = clock
        self._waits: dict[int, _Wait] = {}

    def may_wait(self, id: int, until: datetime | timedelta) -> bool:
        """True if a message waits, rather than to be sent again. ``until``: when the earlier one is due, if that is known."""
        now = self._clock()
        if id not in self._waits and len(self._waits) >= self.most > 0:
            for each in [each for each, wait in self._waits.items() if wait.deadline < now]:
                self.end(each)  # of partitions that another consumer has now
        if not self.most or (id not in self._waits and len(self._waits) >= self.most):
            self.end(id)
            return False
        wait = self._waits.setdefault(id, _Wait(now + HOLD_SECONDS))
        longest = max(LONGEST_WAIT_SECONDS, len(self._waits) / LOOKS_A_SECOND)
        seconds = min(FIRST_WAIT_SECONDS * 2**wait.looks, longest)
        is_far = False
        if isinstance(until, datetime):
            due_in = (until - timezone.now()).total_seconds()
            seconds, is_far = max(seconds, due_in), due_in > RETRY_SECONDS
        wait.looks += 1
        wait.until = now + seconds
        if wait.until <= wait.deadline and not is_far:
            return True
        self.end(id)
        return False

    def until(self, id: int) -> float:
        """When to look again, on the clock."""
        wait = self._waits.get(id)
        return 0.0 if wait is None else wait.until

    def end(self, id: int) -> None:
        self._waits.pop(id, None)

    def clear(self) -> None:
        self._waits.clear()
