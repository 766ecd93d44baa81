"""What of a transaction that was rolled back is handled again together, and what fails or is handled alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from django_outbox.consumer.calls import Attempt
from django_outbox.consumer.source import Claim, Item, Outcome
from django_outbox.exceptions import HandlerRequest
from django_outbox.worker.transactions import MAX_ATTEMPTS

Fail = Callable[[Item, Claim, Exception], Outcome]


class Redo(Generic[Item]):
    """Divides the deliveries of a transaction after each error.

    If a batch handler names deliveries in ``Reject`` or ``Retry``, they fail, and the others are handled again. The
    others are handled first, because a failure that is stored before an earlier message of its key would hold it.
    Messages behind a named one in its key are left for the next transaction, where they may have to wait for it.

    If a handler raises anything else, what is before its event is handled again together, and the event alone; of a list,
    one by one all from its first event to its last. What came before in the transaction may be to blame, so a failure
    counts only there. After an error outside of handlers, or too many errors, each is handled alone.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._end = len(items)
        self._alone_until = 0
        self._failures: dict[int, tuple[Claim, Exception]] = {}
        self._left = MAX_ATTEMPTS

    @property
    def _places(self) -> list[int]:
        return [place for place in range(self._end) if place not in self._failures]

    @property
    def together(self) -> list[Item]:
        """The deliveries to handle now."""
        return [self._items[place] for place in self._places]

    def name(self, error: Exception, attempt: Attempt) -> bool:
        """Take the deliveries that an error names; False if it names none, or there were too many errors.

        Args:
            attempt: to handle ``together``.
        """
        self._left -= 1
        if not isinstance(error, HandlerRequest) or error.events is None or not self._left:
            return False
        named = {id(event) for event in error.events}
        claims = dict(zip(self._places, attempt.claims, strict=True))
        self._failures |= {place: (claim, error) for place, claim in claims.items() if id(claim.event) in named}
        held: set[tuple[str | None, str]] = set()
        for place in range(self._end):
            failed = place in self._failures
            event = self._failures[place][0].event if failed else claims[place].event
            if event is None or not event.key:
                continue
            if failed:
                held.add((event.topic, event.key))
            elif (event.topic, event.key) in held:
                self._end = place
                break
        return True

    def cut(self, attempt: Attempt) -> bool:
        """End before the deliveries whose handler raised; False if there is nothing to handle together.

        That is so if one of the first two raised, if no handler did, or after too many errors. Arguments as for ``name``.
        """
        running = {id(event) for event in attempt.running}
        raised = [at for at, claim in zip(self._places, attempt.claims, strict=False) if id(claim.event) in running]
        if raised and self._left:
            self._end, self._alone_until = raised[0], raised[-1] + 1
        else:
            self._end, self._alone_until = 0, max(self._end, self._alone_until)
        return self._end > 1

    def outcomes(self, done: Sequence[Claim], fail: Fail[Item]) -> list[Outcome]:
        """Count the failures up to the last of ``together`` that is done, and return the outcomes so far."""
        outcomes: list[Outcome] = []
        left = iter(done)
        for place in range(self._end):
            if place in self._failures:
                outcomes.append(fail(self._items[place], *self._failures[place]))
                continue
            claim = next(left, None)
            if claim is None:
                break
            outcomes.append(claim.outcome)
        return outcomes

    def alone(self, handled: int) -> int:
        """How many of the deliveries behind the first ``handled`` must be handled one by one."""
        return max(0, self._alone_until - handled)
