"""The queue between the thread that reads records and the lanes that handle them."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain, count
from threading import Condition, RLock
from typing import Any, Generic, TypeVar

from django_outbox.consumer.line import Line, Queued

T = TypeVar("T")


class KeyedQueue(Generic[T]):
    """Gives items to lanes: those of one key in the order of their arrival, and never to two lanes at a time.

    A lane takes a batch, handles some or all of it, and then ends the batch. Safe for threads.

    Args:
        lanes: how many lanes share the items.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        lock = RLock()
        self._offered = Condition(lock)  # lanes wait for items
        self._ended = Condition(lock)  # the consumer waits until no lane has a batch
        self._numbers = count()
        self._lines: dict[Hashable, Line[T]] = {}  # by key; those with items, or in a lane
        # Lines that lanes may take, by the number of their first item. Entries that are no longer true are skipped.
        self._ready: list[tuple[int, Line[T]]] = []
        self._parked: set[Line[T]] = set()
        self._taken: dict[int, Queued[T]] = {}  # by number; what lanes have and nobody dropped
        self._batches = 0  # that lanes have
        self._is_alone = False
        self._size = 0  # of what waits
        self.bytes = 0
        """The size of the items that wait or that lanes have."""
        self.is_held = False
        """True while lanes get nothing."""
        self._is_closed = False

    def __len__(self) -> int:
        """The number of items that wait or that lanes have."""
        with self._offered:
            return self._size + len(self._taken)

    @property
    def items(self) -> list[Queued[T]]:
        """The items that wait or that lanes have."""
        with self._offered:
            return [*chain.from_iterable(line.items for line in self._lines.values()), *self._taken.values()]

    def count_by_group(self) -> Counter[Any]:
        """The number of items by group, without those that wait for their time."""
        with self._offered:
            active = (line.items for line in self._lines.values() if line.parked_until is None)
            return Counter(queued.group for queued in chain(*active, self._taken.values()))

    @property
    def parked(self) -> int:
        """The number of items that wait for their time."""
        with self._offered:
            return sum(len(line.items) for line in self._parked)

    def put(self, items: Iterable[Queued[T]]) -> None:
        """Add items in the order of their arrival."""
        with self._offered:
            for queued in items:
                queued.number = next(self._numbers)
                if queued.key is None:
                    queued.key = queued.number
                self._size += 1
                self.bytes += queued.size
                line = self._lines.setdefault(queued.key, Line(queued.key))
                line.insert(queued)
                if line.items[0] is queued:  # the others may have waited for it
                    self._offer(line)
                    if len(line.items) > 1:  # the one that was first may have kept all lanes waiting
                        self._offered.notify_all()

    def take(self, limit: int, timeout: float | None = None) -> list[Queued[T]]:
        """Wait for items and take up to ``limit`` of them, but no more than this lane's share or one batch.

        Returns nothing if nothing is offered for ``timeout`` seconds, and as soon as the queue is closed.
        """
        with self._offered:
            while not (batch := self._take(limit)) and not self._is_closed and self._offered.wait(timeout):
                pass
            return batch

    def end(self, batch: Sequence[Queued[T]], finished: int, parked: Mapping[int, float] | None = None) -> None:
        """End a batch of which the first items are finished. The others wait again, unless they were dropped.

        Args:
            parked: by place in the batch, until when an item waits that is not finished after all, and those behind it in
                its key.
        """
        parked = parked or {}
        with self._offered:
            by_key: dict[Hashable, list[Queued[T]]] = {queued.key: [] for queued in batch}
            first_parked: dict[Hashable, tuple[Queued[T], float]] = {}
            for place, queued in enumerate(batch):
                if self._taken.pop(queued.number, None) is None:
                    continue
                if place < finished and place not in parked:
                    self.bytes -= queued.size
                    continue
                if place in parked:
                    first_parked.setdefault(queued.key, (queued, parked[place]))
                by_key[queued.key].append(queued)
            for key, left in by_key.items():
                self._give_back(self._lines[key], left, *first_parked.get(key, (None, None)))
            self._batches -= 1
            if not self._batches:
                self._is_alone = False
                self._ended.notify_all()
                if self._ready:  # one of them may have waited for the end of all batches
                    self._offered.notify_all()

    def parked_groups(self, kind: Any) -> set[Any]:
        """The groups of items of this kind that wait for their time."""
        with self._offered:
            return {line.items[0].group for line in self._parked if line.items[0].kind is kind}

    def wake(self, now: float, groups: Collection[Hashable] = (), kind: Any = None) -> None:
        """Let items go on whose time has come, or that are in these groups; None for ``kind`` means all kinds."""
        with self._offered:
            for line in list(self._parked):
                if kind is not None and line.items[0].kind is not kind:
                    continue
                if (line.parked_until or 0.0) <= now or (groups and any(each.group in groups for each in line.items)):
                    self._offer(line)

    def overdue(self, now: float) -> list[Queued[T]]:
        """The first of each line whose time has come."""
        with self._offered:
            return [line.items[0] for line in self._parked if (line.parked_until or 0.0) <= now]

    def postpone(self, until: Mapping[int, float]) -> None:
        """Let lines wait on.

        Args:
            until: by the number of their first item.
        """
        with self._offered:
            for line in self._parked:
                line.parked_until = until.get(line.items[0].number, line.parked_until)

    def drop(self, is_gone: Callable[[Queued[T]], bool]) -> None:
        """Forget items; those that lanes have will not wait again."""
        with self._offered:
            for line in list(self._lines.values()):
                kept = deque(queued for queued in line.items if not is_gone(queued))
                if len(kept) < len(line.items):
                    self._size -= len(line.items) - len(kept)
                    line.items = kept
                    self._offer(line)
                    self._forget_if_empty(line)
            self._taken = {number: queued for number, queued in self._taken.items() if not is_gone(queued)}
            waiting = (line.items for line in self._lines.values())
            self.bytes = sum(queued.size for queued in chain(*waiting, self._taken.values()))
            if self._ready:  # what is gone may have kept all lanes waiting
                self._offered.notify_all()

    def hold(self) -> None:
        """Give nothing to lanes until ``release()``."""
        self.is_held = True

    def release(self) -> None:
        """Give out items again, also after ``close()``."""
        if self.is_held or self._is_closed:
            with self._offered:
                self.is_held = self._is_closed = False
                self._offered.notify_all()

    def wait_until_ended(self) -> None:
        """Wait until no lane has a batch."""
        with self._ended:
            self._ended.wait_for(lambda: not self._batches)

    def wait_for_end(self, timeout: float) -> None:
        """Wait until the last lane that has a batch ends it, at most ``timeout`` seconds."""
        with self._ended:
            self._ended.wait(timeout)

    def close(self) -> None:
        """Give out nothing more, and end all waits."""
        with self._offered:
            self._is_closed = True
            self._offered.notify_all()

    def _take(self, limit: int) -> list[Queued[T]]:
        if self.is_held or self._is_closed or self._is_alone:
            return []
        share = max(1, -(-(self._size - self.parked) // self._lanes))
        batch: list[Queued[T]] = []
        while self._ready and len(batch) < limit:
            number, line = self._ready[0]
            if line.is_busy or line.parked_until is not None or not line.items or line.items[0].number != number:
                heapq.heappop(self._ready)
                continue
            first = line.items[0]
            if first.alone and (batch or self._batches):
                break
            if batch:
                if (
                    batch[0].alone
                    or first.kind != batch[0].kind
                    or first.most != batch[0].most
                    or len(batch) == first.most
                ):
                    break
                if len(batch) >= share and not (first.event == batch[0].event and len(batch) < first.handlers.batch):
                    break
            batch.append(line.items.popleft())
            heapq.heappop(self._ready)
            if line.items:
                heapq.heappush(self._ready, (line.items[0].number, line))
        if batch:
            self._batches += 1
            self._is_alone = batch[0].alone
            self._size -= len(batch)
            for queued in batch:
                self._taken[queued.number] = queued
                self._lines[queued.key].is_busy = True
        return batch

    def _offer(self, line: Line[T]) -> None:
        """Let lanes take a line, once no other lane has it."""
        if line.parked_until is not None:
            line.parked_until = None
            self._parked.discard(line)
        if line.items and not line.is_busy:
            heapq.heappush(self._ready, (line.items[0].number, line))
            self._offered.notify()

    def _give_back(
        self, line: Line[T], left: Sequence[Queued[T]], first_parked: Queued[T] | None, until: float | None
    ) -> None:
        """Take a line back from a lane, with what it has not finished."""
        line.is_busy = False
        if left:
            came_meanwhile, line.items = line.items, deque(left)
            self._size += len(left)
            if first_parked is not None:  # what came meanwhile goes behind what it waits for
                line.advance()
            for queued in came_meanwhile:
                line.insert(queued)
        if first_parked is not None:
            line.advance()
        if first_parked is not None and line.items[0] is first_parked:  # else what it waits for has come
            line.parked_until = until
            self._parked.add(line)
        else:
            self._offer(line)
        self._forget_if_empty(line)

    def _forget_if_empty(self, line: Line[T]) -> None:
        if not line.items and not line.is_busy:
            del self._lines[line.key]
