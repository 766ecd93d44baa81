"""The current state of a worker: what it does, what it has handled, and what is wrong.

The worker's loop writes it. Other threads read it: the heartbeat, and the HTTP server that answers probes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from django.utils.text import Truncator

from django_outbox.models import Worker
from django_outbox.models.lengths import TOPICS_LENGTH, TROUBLE_LENGTH

State = Worker.State

SLOW_SECONDS = 60.0
"""A worker that makes no progress for longer is in trouble."""

LONGEST_KEY = 100

_SLOW = {
    Worker.Kind.RELAY: "the database or the broker is slow. Check both, and restart the relay if it does not continue.",
    Worker.Kind.CONSUMER: "a handler is slow or hangs. Restart the consumer if it does not continue. "
    'OUTBOX["HANDLER_TIMEOUT"] ends handlers that take too long.',
}


class Handling(NamedTuple):
    """What one lane of a consumer is handling in one transaction.

    Attributes:
        started_at: on the clock of the worker's state.
        messages: how many.
        key: topic and key of the first; empty if it has no key.
    """

    started_at: float
    messages: int
    key: str


class Busy(NamedTuple):
    """What all lanes together are handling.

    Attributes:
        lanes: how many are busy.
        messages: how many they are handling.
        seconds: how long the longest busy one has been busy; None if none is.
        key: of that one, as in ``Handling``.
    """

    lanes: int = 0
    messages: int = 0
    seconds: float | None = None
    key: str = ""


class WorkerState:
    """The state of one worker. Methods may be called from any thread."""

    def __init__(
        self,
        kind: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        group: str = "",
        topics: Collection[str] = (),
        poll_interval: float = 0.0,
        lanes: int = 1,
    ) -> None:
        """
        Args:
            poll_interval: seconds that the loop waits when nothing is due.
            lanes: how many messages a consumer handles at the same time.
        """
        self.kind = kind
        self.group = group
        self.topics = Truncator(", ".join(sorted(topics))).chars(TOPICS_LENGTH, "…")  # not a translated one
        self.row_id: int | None = None
        """The id of the worker's row, once there is one."""
        self.changed = threading.Event()
        self._clock = clock
        self.poll_interval = poll_interval
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._trouble = ""
        self._state = State.STARTING
        self._progress_at = clock()
        self.reaches_broker = False
        """True if the last use of the broker succeeded."""
        self.reaches_database = True  # until it fails
        """True if the last use of the database succeeded."""
        self._callbacks: list[Callable[[], object]] = []
        self.lanes = lanes
        self._handling: dict[int, Handling] = {}  # by the lane's number

    def record_progress(self) -> None:
        """Record that the loop is alive: a transaction is over, or it waits out a fault.

        A lane whose transaction does not end counts as no progress, whatever other lanes do.
        """
        now = self._clock()
        with self._lock:
            at = min((each.started_at for each in self._handling.values()), default=now)
        if at < now and at <= self._progress_at:
            return
        self._progress_at = at
        for callback in self._callbacks:
            callback()

    @contextmanager
    def handling(self, lane: int, key: str, messages: int) -> Iterator[None]:
        """A lane handles messages within the block; ``key`` is that of the first, as in ``Handling``."""
        with self._lock:
            self._handling[lane] = Handling(self._clock(), messages, key)
        try:
            yield
        finally:
            with self._lock:
                del self._handling[lane]

    @property
    def in_progress(self) -> list[Handling]:
        """What lanes are handling, the oldest first."""
        with self._lock:
            return sorted(self._handling.values())

    @property
    def busy(self) -> Busy:
        """What lanes are handling now."""
        handling = self.in_progress
        if not handling:
            return Busy()
        oldest = handling[0]
        seconds = max(0.0, self._clock() - oldest.started_at)
        return Busy(len(handling), sum(each.messages for each in handling), seconds, oldest.key)

    def on_progress(self, callback: Callable[[], object]) -> None:
        """Register a function to call, in the loop's own thread, whenever there is progress."""
        self._callbacks.append(callback)

    @property
    def seconds_without_progress(self) -> float:
        return self._clock() - self._progress_at

    @property
    def is_stopping(self) -> bool:
        """True if the worker finishes its work in hand and ends."""
        return self._state == State.STOPPING

    def record_round(self, *, trouble: str = "", **counts: int) -> None:
        """Record that one round of the loop is over.

        Args:
            trouble: what keeps other messages from being handled, if anything.
            counts: messages that this round handled, by the columns of ``Activity``.
        """
        self.record_progress()
        with self._lock:
            self._counts.update(counts)
            self.reaches_broker = self.reaches_database = True
            self._set(State.TROUBLE if trouble else State.WORKING, trouble)

    def record_fault(self, reason: str, is_broker: bool = True) -> None:
        """Record that the broker, or else the database, is unavailable."""
        with self._lock:
            if is_broker:
                self.reaches_broker = False
            else:
                self.reaches_database = False
            self._set(State.TROUBLE, reason)
        self.record_progress()

    def set_stopping(self) -> None:
        """Record that the worker was told to stop. The state does not change any more."""
        with self._lock:
            self._set(State.STOPPING, "")

    def _set(self, state: State, trouble: str) -> None:
        if self._state == State.STOPPING:
            return
        if state != self._state or bool(trouble) != bool(self._trouble):
            self.changed.set()
        self._state, self._trouble = state, trouble

    def snapshot(self) -> tuple[State, str]:
        """Return the state and what is wrong."""
        with self._lock:
            seconds = self.seconds_without_progress
            if self._state == State.WORKING and seconds > SLOW_SECONDS + self.poll_interval:
                trouble = f"Busy with one transaction for {seconds:.0f} s{self._slow_lanes()}: {_SLOW[Worker.Kind(self.kind)]}"
                return State.TROUBLE, trouble[:TROUBLE_LENGTH]
            return self._state, self._trouble[:TROUBLE_LENGTH]

    def _slow_lanes(self) -> str:
        """Of several lanes, how many are slow, and the key of the slowest. Called with the lock held."""
        before = self._clock() - SLOW_SECONDS
        slow = sorted(each for each in self._handling.values() if each.started_at < before)
        if self.lanes == 1 or not slow:
            return ""
        key = f" ({slow[0].key[:LONGEST_KEY]!r})" if slow[0].key else ""
        return f" in {len(slow)} of {self.lanes} lanes{key}"

    def take_counts(self) -> Counter[str]:
        """Return the counts since the last call, and start from zero."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            return counts

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add counts that could not be stored, or of a round that failed in the middle."""
        with self._lock:
            self._counts.update(counts)
