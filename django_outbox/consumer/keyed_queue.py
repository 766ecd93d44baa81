"""The queue between the thread that reads records and the lanes that handle them."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from threading import Condition
from typing import Any, Generic, TypeVar

from django_outbox.consumer.filling import Filling
from django_outbox.handlers.handler import NO_HANDLERS, Handlers

T = TypeVar("T")


@dataclass(slots=True)
class Queued(Generic[T]):
    """An item in the queue.

    Attributes:
        item: what a lane handles.
        key: items with the same key are handled one after the other; None for an item without order.
        kind: the items of a batch are of one kind.
        group: what it is dropped with, such as its partition.
        size: in bytes.
        generation: when it was read.
        guarded: it may have killed the previous process.
        most: how many of its like a batch has at most; None for as many as a lane takes.
        alone: it is a batch of its own, and other lanes handle nothing meanwhile.
        rank: it comes before items of its key with a higher rank, whatever arrived first; None for the order of arrival.
        event, handlers: see ``Arrival``.
        number: its place in the order of arrival, given by the queue.
    """

    item: T
    key: Hashable
    kind: Any
    group: Any
    size: int = 0
    generation: int = 0
    guarded: bool = False
    most: int | None = None
    alone: bool = False
    rank: int | None = None
    event: Hashable = None
    handlers: Handlers = NO_HANDLERS
    number: int = -1


class KeyedQueue(Generic[T]):
    """Gives items to lanes: those of one key in the order of their arrival, and never to two lanes at a time.

    A lane takes a batch, handles some or all of it, and then ends the batch. Safe for threads.

    Args:
        lanes: how many lanes share the items.
        clock: in seconds.
        limit: items that may wait for a full batch.
    """

    def __init__(self, lanes: int, *, clock: Callable[[], float] = time.monotonic, limit: int = 100) -> None:
        self._lanes = lanes
        self._filling: Filling[Queued[T]] = Filling(clock, limit)
        self._changed = Condition()
        self._numbers = count()
        self._waiting: dict[Hashable, deque[Queued[T]]] = {}
        # The first waiting item of each key that no lane has. Entries that are no longer true are skipped.
        self._ready: list[tuple[int, Hashable]] = []
        self._taken: dict[int, Queued[T]] = {}
        self._busy: set[Hashable] = set()
        self._parked: dict[Hashable, float] = {}  # by key, until when no lane gets its items
        self._is_alone = False
        self._size = 0
        self._bytes = 0
        self._is_held = False
        self._is_closed = False

    def __len__(self) -> int:
        """The number of items that wait or that lanes have."""
        with self._changed:
            return self._size + len(self._taken) + len(self._filling)

    def count_by_group(self) -> Counter[Any]:
        """The number of items by group, without those that wait for their time."""
        with self._changed:
            active = (queued for key, waiting in self._waiting.items() if key not in self._parked for queued in waiting)
            return Counter(queued.group for queued in chain(active, self._taken.values()))

    @property
    def filling(self) -> int:
        """The number of items that lanes do not get yet, as their batch is not full."""
        with self._changed:
            return len(self._filling)

    @property
    def seconds_left(self) -> float:
        """How long until lanes get the first of these; infinite if there are none."""
        with self._changed:
            return self._filling.seconds_left

    @property
    def bytes(self) -> int:
        """The size of the items that wait or that lanes have."""
        return self._bytes

    @property
    def parked(self) -> int:
        """The number of items that wait for their time."""
        with self._changed:
            return self._count_parked()

    @property
    def is_held(self) -> bool:
        """True while lanes get nothing."""
        return self._is_held

    def put(self, items: Iterable[Queued[T]]) -> None:
        """Add items in the order of their arrival."""
        with self._changed:
            items = list(items)
            if not items:
                return
            for queued in items:
                queued.number = next(self._numbers)
                if queued.key is None:
                    queued.key = queued.number
                self._bytes += queued.size
            self._fill(items)
            self._changed.notify_all()

    def take(self, limit: int, timeout: float | None = None) -> list[Queued[T]]:
        """Wait for items and take up to ``limit`` of them, but no more than this lane's share or one batch.

        Returns nothing after ``timeout`` seconds, and as soon as the queue is closed.
        """
        with self._changed:
            batch = self._take(limit)

            def is_over() -> bool:
                batch.extend(self._take(limit))
                return bool(batch) or self._is_closed

            if not batch and timeout != 0:
                self._changed.wait_for(is_over, timeout)
            return batch

    def end(self, batch: Sequence[Queued[T]], finished: int, parked: Mapping[int, float] | None = None) -> None:
        """End a batch of which the first items are finished. The others wait again, unless they were dropped.

        Args:
            parked: by place in the batch, until when an item waits that is not finished after all, and those behind it in
                its key.
        """
        parked = parked or {}
        with self._changed:
            by_key: dict[Hashable, list[Queued[T]]] = {queued.key: [] for queued in batch}
            first_of: dict[Hashable, Queued[T]] = {}  # that waits
            for place, queued in enumerate(batch):
                if self._taken.pop(queued.number, None) is None:
                    continue
                if place < finished and place not in parked:
                    self._bytes -= queued.size
                    continue
                if place in parked and first_of.setdefault(queued.key, queued) is queued:
                    self._parked[queued.key] = parked[place]
                by_key[queued.key].append(queued)
            self._busy -= by_key.keys()
            self._is_alone = False
            for key, left in by_key.items():
                self._wait(key, left, first=True)
                if key in first_of and self._waiting[key][0] is not first_of[key]:  # what it waits for has come
                    self._parked.pop(key, None)
                    self._wait(key, [])
            self._changed.notify_all()

    def wake(self, now: float) -> None:
        """Let items go on whose time has come."""
        with self._changed:
            for key in [key for key, until in self._parked.items() if until <= now]:
                del self._parked[key]
                self._wait(key, [])
                self._changed.notify_all()

    def drop(self, groups: Collection[Hashable] | None = None) -> None:
        """Forget the items of these groups, or all; those that lanes have will not wait again."""
        with self._changed:
            for key, waiting in list(self._waiting.items()):
                left = deque(queued for queued in waiting if groups is not None and queued.group not in groups)
                del self._waiting[key]
                self._size -= len(waiting) - len(left)
                if left:
                    self._waiting[key] = left
                    heapq.heappush(self._ready, (left[0].number, key))
            self._parked = {key: until for key, until in self._parked.items() if key in self._waiting}
            for queued in list(self._taken.values()):
                if groups is None or queued.group in groups:
                    del self._taken[queued.number]
            self._filling.drop(lambda queued: groups is None or queued.group in groups)
            kept = [queued for waiting in self._waiting.values() for queued in waiting]
            self._bytes = sum(queued.size for queued in (*kept, *self._filling, *self._taken.values()))
            self._changed.notify_all()

    def hold(self) -> None:
        """Give nothing to lanes until ``release()``."""
        with self._changed:
            self._is_held = True
            self._changed.notify_all()

    def release(self) -> None:
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def wait_until_ended(self, timeout: float | None = None) -> bool:
        """Wait until no lane has a batch; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def wait_for_change(self, timeout: float) -> None:
        """Wait until a batch ends, or something else changes."""
        with self._changed:
            self._changed.wait(timeout)

    def close(self) -> None:
        """Give out nothing more, and end all waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def open(self) -> None:
        """Give out items again, once no lane waits any more."""
        with self._changed:
            self._is_closed = self._is_held = False

    def _take(self, limit: int) -> list[Queued[T]]:
        if self._is_held or self._is_closed:
            return []
        self._fill()
        share = -(-(self._size - self._count_parked()) // self._lanes)
        batch: list[Queued[T]] = []
        while self._ready and len(batch) < limit and not self._is_alone:
            number, key = self._ready[0]
            waiting = self._waiting.get(key)
            if key in self._busy or key in self._parked or not waiting or waiting[0].number != number:
                heapq.heappop(self._ready)
                continue
            first = waiting[0]
            is_of_batch = bool(batch) and first.event == batch[0].event and len(batch) < first.handlers.batch
            if len(batch) >= max(share, 1) and not is_of_batch:
                break
            if first.alone and (batch or self._busy):
                break
            if batch and (first.most != batch[0].most or len(batch) == first.most or first.kind != batch[0].kind):
                break
            heapq.heappop(self._ready)
            waiting.popleft()
            batch.append(first)
            if waiting:
                heapq.heappush(self._ready, (waiting[0].number, key))
            else:
                del self._waiting[key]
            self._is_alone = first.alone
        self._size -= len(batch)
        for queued in batch:
            self._taken[queued.number] = queued
            self._busy.add(queued.key)
        return batch

    def _fill(self, items: Sequence[Queued[T]] = ()) -> None:
        for queued in self._filling.take(items):
            self._wait(queued.key, [queued])

    def _wait(self, key: Hashable, items: Sequence[Queued[T]], *, first: bool = False) -> None:
        waiting = self._waiting.setdefault(key, deque())
        if first:
            came_meanwhile = list(waiting)
            waiting.clear()
            waiting.extend(items)
            for queued in came_meanwhile:
                waiting.insert(_place(waiting, queued), queued)
        else:
            for queued in items:
                place = _place(waiting, queued)
                waiting.insert(place, queued)
                if not place:  # the others may have waited for it
                    self._parked.pop(key, None)
        self._size += len(items)
        if not waiting:
            del self._waiting[key]
        elif key not in self._busy and key not in self._parked:
            heapq.heappush(self._ready, (waiting[0].number, key))

    def _count_parked(self) -> int:
        return sum(len(self._waiting.get(key, ())) for key in self._parked)


def _place(waiting: deque[Queued[T]], queued: Queued[T]) -> int:
    """Where an item belongs among those of its key."""
    place = len(waiting)
    while place and queued.rank is not None:
        before = waiting[place - 1].rank
        if before is None or before <= queued.rank:
            break
        place -= 1
    return place
