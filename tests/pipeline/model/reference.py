"""The reference model: what must be true of messages, from what was published and done to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

FINISHED = ("consumed", "dead")


@dataclass
class Message:
    """What the model knows of a message.

    Attributes:
        inserted_at, committed_at: numbers of events; None while its transaction is open.
        event_id: of its event.
        plan: by attempt, what its handler does.
        failures: the attempts that failed, and the answers of the broker, since an operator retried it.
        reprocessed: how often an operator had it handled again after it was consumed.
        may_die: it was rejected, refused or cancelled.
        was_dead: once it was, others may have passed it.
        final: the status that only an operator may change; None if there is none.
    """

    n: int
    key: str
    is_own: bool
    inserted_at: int
    committed_at: int | None = None
    event_id: str = ""
    plan: list[str | None] = field(default_factory=list)
    failures: set[Any] = field(default_factory=set)
    reprocessed: int = 0
    may_die: bool = False
    was_dead: bool = False
    final: str | None = None

    def precedes(self, other: Message) -> bool:
        """True if it must be handled first: it was committed, or written in the same transaction, before the other."""
        if not self.key or (self.key, self.is_own) != (other.key, other.is_own) or self.committed_at is None:
            return False
        is_same = self.committed_at == other.committed_at and self.inserted_at < other.inserted_at
        return is_same or self.committed_at < other.inserted_at

    def revive(self) -> None:
        """An operator retries it."""
        self.final = None
        self.may_die = False
        self.failures.clear()


@dataclass(frozen=True)
class Row:
    """What the database has of a message."""

    n: int
    status: str
    is_due: bool
    is_consumed_at: bool
    retry_count: int
    max_retry: int


class Model:
    """All messages, and the checks after each step."""

    def __init__(self, *, holds_behind_dead: bool) -> None:
        self.messages: dict[int, Message] = {}
        self._numbers = count()
        self._events = count()
        self._holds_behind_dead = holds_behind_dead
        self._effects_seen = 0

    def add(self, key: str, *, is_own: bool, plan: list[str | None]) -> Message:
        n = next(self._numbers)
        message = Message(n, key, is_own, next(self._events), plan=plan)
        self.messages[n] = message
        return message

    def commit(self, messages: Sequence[Message]) -> None:
        at = next(self._events)
        for message in messages:
            message.committed_at = at

    def roll_back(self, messages: Sequence[Message]) -> None:
        for message in messages:
            del self.messages[message.n]

    def planned(self, n: int, attempt: int) -> str | None:
        """What the handler does. A death happens once."""
        plan = self.messages[n].plan
        if attempt > len(plan):
            return None
        outcome = plan[attempt - 1]
        if outcome == "die":
            plan[attempt - 1] = None
        return outcome

    def by_event(self, event_id: str) -> Message:
        return next(message for message in self.messages.values() if message.event_id == event_id)

    @property
    def committed(self) -> set[int]:
        return {n for n, message in self.messages.items() if message.committed_at is not None}

    # Checks

    def check(
        self,
        rows: dict[int, Row],
        effects: Sequence[tuple[int, str]],
        runs: Sequence[tuple[int, int, str | None]],
        *,
        arrived: set[int],
        sent: Sequence[str],
    ) -> None:
        """Check a state.

        Args:
            rows: by message.
            effects: message and event id, in the order in which they came.
            runs: calls of handlers in the last step.
            arrived: messages of other services that the inbox must have by now.
            sent: the ids of the events that relays have sent.
        """
        for n, attempt, outcome in runs:
            if outcome in ("fail", "retry"):
                self.messages[n].failures.add(attempt)
            self.messages[n].may_die |= outcome == "reject"
        committed = {n for n in self.committed if self.messages[n].is_own}
        stored = {n for n in rows if self.messages.get(n) is None or self.messages[n].is_own}
        assert stored == committed, "committed messages are in the outbox, and no others"
        assert arrived <= rows.keys(), "no record is passed before its message is stored"
        counts = Counter(n for n, _ in effects)
        for n, event_id in effects:
            assert self.messages[n].event_id == event_id, f"the event of message {n}"
        for n, message in self.messages.items():
            row = rows.get(n)
            expected = message.reprocessed + (row is not None and row.status == "consumed")
            assert counts[n] == expected, f"effects of message {n}: {counts[n]}, not {expected} ({row})"
            if row is not None:
                self._check_row(message, row)
        self._check_order(rows, [n for n, _ in effects[self._effects_seen :]], [n for n, *_ in runs])
        self._effects_seen = len(effects)
        self._check_log(rows, sent)

    def _check_row(self, message: Message, row: Row) -> None:
        assert row.is_due == (row.status == "pending"), f"due exactly when pending: {row}"
        assert row.is_consumed_at == (row.status == "consumed"), f"consumed_at exactly when consumed: {row}"
        assert message.final in (None, row.status), f"{message.final} is final: {row}"
        message.was_dead |= row.status == "dead"
        message.final = row.status if row.status in FINISHED else None
        assert row.retry_count <= len(message.failures), f"only its own failures count: {row}"
        if row.status == "dead" and not message.may_die:
            assert row.retry_count == row.max_retry, f"dead without a reason: {row}"

    def _check_order(self, rows: dict[int, Row], new: Sequence[int], runs: Sequence[int]) -> None:
        """What had an effect in this step was handled after all that precede it."""
        last_run = {n: place for place, n in enumerate(runs)}
        for n in new:
            for earlier in self.messages.values():
                if not earlier.precedes(self.messages[n]):
                    continue
                row = rows.get(earlier.n)
                finished = ("consumed",) if self._holds_behind_dead else FINISHED
                status = None if row is None else row.status
                assert status in finished, f"message {n} overtook {earlier.n}, which is {status}"
                assert last_run.get(earlier.n, -1) < last_run[n], f"message {n} was handled before {earlier.n}"

    def _check_log(self, rows: dict[int, Row], sent: Sequence[str]) -> None:
        """Who reads the topic finds each message behind one of each that precedes it."""
        first = {event_id: place for place, event_id in reversed(list(enumerate(sent)))}
        last = {event_id: place for place, event_id in enumerate(sent)}
        there = [m for m in self.messages.values() if m.is_own and not m.was_dead and m.n in rows]
        there = [message for message in there if rows[message.n].status in ("published", "consumed")]
        for message in there:
            for earlier in there:
                if earlier.precedes(message):
                    is_behind = first.get(earlier.event_id, len(sent)) < last.get(message.event_id, -1)
                    assert is_behind, f"message {message.n} was sent before {earlier.n}"
