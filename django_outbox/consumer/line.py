"""The items of one key in the queue of the lanes, and the order among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
        by_arrival: among others with this flag, the order of arrival counts, not the rank.
        awaits: the rank of the item that it waits for, which comes before it in any case. Without ``by_arrival``, so do all
            with a lower rank.
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
    by_arrival: bool = False
    awaits: int | None = None
    event: Hashable = None
    handlers: Handlers = NO_HANDLERS
    number: int = -1

    def waits_for(self, other: Queued[T]) -> bool:
        """True if the other one is handled before this one, also if it comes later."""
        if self.awaits is None or self.rank is None or other.rank is None:
            return False
        return other.rank == self.awaits or (other.rank < self.rank and not self.by_arrival)


@dataclass(slots=True, eq=False)
class Line(Generic[T]):
    """The items of one key that wait, in order."""

    key: Hashable
    items: deque[Queued[T]] = field(default_factory=deque)
    is_busy: bool = False
    """A lane has items of this key."""
    parked_until: float | None = None
    """No lane gets its items before."""

    def insert(self, queued: Queued[T]) -> None:
        """Add an item behind the others, or before those that wait for it or that it comes before by its rank."""
        if queued.rank is None:
            self.items.append(queued)
            return
        for place, waiting in enumerate(self.items):
            if waiting.awaits is None:  # those that wait were the first
                break
            if waiting.waits_for(queued):
                self.items.insert(place, queued)
                return
        place = len(self.items)
        while place:
            before = self.items[place - 1]
            if before.rank is None or before.rank <= queued.rank or (before.by_arrival and queued.by_arrival):
                break
            place -= 1
        self.items.insert(place, queued)

    def advance(self) -> None:
        """Move what the first item waits for, as far as it is here already, before it."""
        first = self.items[0]
        if first.awaits is None:
            return
        awaited: list[Queued[T]] = []  # in the order of the queue: it may be that of arrival
        others: list[Queued[T]] = []
        for queued in self.items:
            (awaited if first.waits_for(queued) else others).append(queued)
        if awaited:
            self.items = deque([*awaited, *others])
