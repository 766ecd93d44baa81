"""What a worker says of itself: its state, what it has moved, and what is in its way.

The loop of the worker writes its ``Pulse``; other threads read it: that of the heartbeat, and those that answer probes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from django_outbox.models import Worker
from django_outbox.models.lengths import TOPICS_LENGTH, TROUBLE_LENGTH

State = Worker.State

SLOW_SECONDS = 60.0
"""A loop that stands still for longer is in trouble."""

_SLOW = {
    Worker.Kind.RELAY: "the database or the broker is slow. Check both, and restart the relay if it does not go on.",
    Worker.Kind.CONSUMER: "a handler is slow or hangs. Restart the consumer if it does not go on. "
    'OUTBOX["HANDLER_TIMEOUT"] ends handlers that take too long.',
}


class Done(NamedTuple):
    """Messages since the last beat: as many as each of these columns of ``Activity`` counts."""

    published: int = 0
    consumed: int = 0
    inbox_received: int = 0
    inbox_consumed: int = 0

    @property
    def moved(self) -> int:
        """How many it was in all. What was received and not consumed still has its way before it."""
        return self.published + self.consumed + self.inbox_consumed

    def plus(self, other: Done) -> Done:
        return Done(*map(sum, zip(self, other, strict=True)))


class Pulse:
    """What a worker says of itself. Its loop writes it, another thread reads it."""

    def __init__(
        self,
        kind: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        group: str = "",
        topics: Collection[str] = (),
        rest: float = 0.0,
    ) -> None:
        """
        Args:
            kind: relay or consumer.
            clock: seconds, monotonic.
            group, topics: of a consumer: the group that it is a member of, and what it reads.
            rest: seconds that the loop waits of its own will when nothing is to be done.
        """
        self.kind = kind
        self.group = group
        self.topics = _in_one_line(topics)
        self.row: int | None = None
        """The id of the worker's row, once it is written."""
        self.changed = threading.Event()
        self._clock = clock
        self._rest = rest
        self._lock = threading.Lock()
        self._done = Done()
        self._trouble = ""
        self._state = State.STARTING
        self._turned_at = clock()
        self._reaches_broker = False
        self._reaches_database = True  # until it is missed
        self._on_turn: list[Callable[[], object]] = []

    def turn(self) -> None:
        """Say that the loop goes on: a round is over, or one transaction of it, or a fault is waited out."""
        self._turned_at = self._clock()
        for tell in self._on_turn:
            tell()

    def call_at_turns(self, function: Callable[[], object]) -> None:
        """Have a function called, in the loop's own thread, whenever the loop goes on."""
        self._on_turn.append(function)

    @property
    def still_for(self) -> float:
        """Seconds since the loop last went on."""
        return self._clock() - self._turned_at

    @property
    def reaches_broker(self) -> bool:
        """Whether the broker was there when it was last needed."""
        return self._reaches_broker

    @property
    def reaches_database(self) -> bool:
        """Whether the database was there when it was last needed."""
        return self._reaches_database

    @property
    def is_stopping(self) -> bool:
        """Whether the work in hand is the last."""
        return self._state == State.STOPPING

    def step(self, *, trouble: str = "", **moved: int) -> None:
        """Say that one round of the loop is over.

        Args:
            trouble: what is in the way of others, if anything.
            moved: messages that this round moved on, by the names of ``Done``.
        """
        self.turn()
        with self._lock:
            self._done = self._done.plus(Done(**moved))
            self._reaches_broker = self._reaches_database = True
            self._become(State.TROUBLE if trouble else State.WORKING, trouble)

    def trouble(self, reason: str, is_broker: bool = True) -> None:
        """Say that nothing moves, and why, and whether it is the broker that is away, or the database."""
        with self._lock:
            if is_broker:
                self._reaches_broker = False
            else:
                self._reaches_database = False
            self._become(State.TROUBLE, reason)
        self.turn()

    def stopping(self) -> None:
        """Say that the work in hand is the last."""
        with self._lock:
            self._become(State.STOPPING, "")

    def _become(self, state: State, trouble: str) -> None:
        if self._state == State.STOPPING:
            return
        if state != self._state or bool(trouble) != bool(self._trouble):
            self.changed.set()
        self._state, self._trouble = state, trouble

    def now(self) -> tuple[State, str]:
        """The state, and what is in the way."""
        with self._lock:
            still = self.still_for
            if self._state == State.WORKING and still > SLOW_SECONDS + self._rest:
                return State.TROUBLE, f"Busy with one transaction for {still:.0f} s: {_SLOW[Worker.Kind(self.kind)]}"
            return self._state, self._trouble[:TROUBLE_LENGTH]

    def take(self) -> Done:
        """What was done since this was last asked."""
        with self._lock:
            done, self._done = self._done, Done()
            return done

    def give_back(self, done: Done) -> None:
        """Count again what could not be written down."""
        with self._lock:
            self._done = self._done.plus(done)


def _in_one_line(topics: Collection[str]) -> str:
    text = ", ".join(sorted(topics))
    return text if len(text) <= TOPICS_LENGTH else f"{text[: TOPICS_LENGTH - 1]}…"
