"""Lets batches fill up: records for batch handlers with ``wait`` are held until their batch is full, or has waited."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from django_outbox.handlers.handler import Handlers


class Arrival(Protocol):
    """A record that was read.

    Attributes:
        key: records of one key keep their order; None for a record without order.
        event: its type and topic; those of one batch are the same.
        handlers: for its event.
    """

    key: Hashable
    event: Hashable
    handlers: Handlers


A = TypeVar("A", bound=Arrival)


@dataclass(slots=True)
class _Batch(Generic[A]):
    """Records of one type and topic that are held."""

    until: float
    items: list[A] = field(default_factory=list)
    keys: set[Hashable] = field(default_factory=set)


class Filling(Generic[A]):
    """Holds records until they are a batch, but none that comes before another one of its key.

    Args:
        clock: in seconds.
        limit: records to hold at most; then all are handled.
    """

    def __init__(self, clock: Callable[[], float], limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._batches: dict[Hashable, _Batch[A]] = {}

    def __iter__(self) -> Iterator[A]:
        """The records that are held."""
        return (item for batch in self._batches.values() for item in batch.items)

    def __len__(self) -> int:
        return sum(len(batch.items) for batch in self._batches.values())

    @property
    def seconds_left(self) -> float:
        """How long the first batch still waits; infinite if nothing is held."""
        until = min((batch.until for batch in self._batches.values()), default=float("inf"))
        return max(0.0, until - self._clock())

    def take(self, arrivals: Iterable[A] = ()) -> list[A]:
        """Add records in the order of their arrival, and return what is to be handled now, in order."""
        ready: list[A] = []
        for arrival in arrivals:
            for event, batch in list(self._batches.items()):
                if event != arrival.event and arrival.key is not None and arrival.key in batch.keys:
                    ready += self._batches.pop(event).items
            if not arrival.handlers.wait:
                ready.append(arrival)
                continue
            batch = self._batches.setdefault(arrival.event, _Batch(self._clock() + arrival.handlers.wait))
            batch.items.append(arrival)
            batch.keys.add(arrival.key)
            if len(batch.items) >= arrival.handlers.batch:
                ready += self._batches.pop(arrival.event).items
        if self._batches:
            now, is_full = self._clock(), len(self) >= self._limit
            for event in [event for event, batch in self._batches.items() if is_full or now >= batch.until]:
                ready += self._batches.pop(event).items
        return ready

    def drop(self, is_gone: Callable[[A], bool]) -> None:
        """Forget records that this consumer no longer has to handle."""
        for event, batch in list(self._batches.items()):
            batch.items = [item for item in batch.items if not is_gone(item)]
            if not batch.items:
                del self._batches[event]
