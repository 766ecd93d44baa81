"""Failures of the deliveries that a batch handler names in ``Reject`` or ``Retry``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from django_outbox.consumer.source import Claim, Item, Outcome
from django_outbox.exceptions import HandlerRequest
from django_outbox.worker.transactions import MAX_ATTEMPTS

Fail = Callable[[Item, Claim, Exception], Outcome]


class NamedFailures(Generic[Item]):
    """Divides the deliveries of a transaction into those that a handler named and others, which are handled again.

    The others are handled first, because a failure that is stored before an earlier message of its key would hold it.
    Messages behind a named one in its key are left for the next transaction, where they may have to wait for it.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._others = list(range(len(items)))
        self._end = len(items)
        self._failures: dict[int, tuple[Claim, Exception]] = {}
        self._left = MAX_ATTEMPTS

    @property
    def others(self) -> list[Item]:
        """The deliveries to handle now."""
        return [self._items[index] for index in self._others]

    def add(self, error: Exception, claims: Sequence[Claim]) -> bool:
        """Take the deliveries that an error names; False if it names none, or others were named too often.

        Args:
            claims: of ``others``.
        """
        self._left -= 1
        if not isinstance(error, HandlerRequest) or error.events is None or not self._left:
            return False
        named = {id(event) for event in error.events}
        by_index = dict(zip(self._others, claims, strict=True))
        for index, claim in by_index.items():
            if id(claim.event) in named:
                self._failures[index] = (claim, error)
        self._divide(by_index)
        return True

    def _divide(self, claims: dict[int, Claim]) -> None:
        held: set[tuple[str | None, str]] = set()
        self._others = []
        for index in range(self._end):
            claim, _ = self._failures.get(index) or (claims[index], None)
            event = claim.event
            key = None if event is None or not event.key else (event.topic, event.key)
            if index in self._failures:
                if key is not None:
                    held.add(key)
            elif key in held:
                self._end = index
                return
            else:
                self._others.append(index)

    def outcomes(self, done: Sequence[Claim], fail: Fail[Item]) -> list[Outcome]:
        """Count the failures up to the last of the others that are done, and return the outcomes so far."""
        outcomes: list[Outcome] = []
        left = iter(done)
        for index in range(self._end):
            if index in self._failures:
                outcomes.append(fail(self._items[index], *self._failures[index]))
                continue
            claim = next(left, None)
            if claim is None:
                break
            outcomes.append(claim.outcome)
        return outcomes
