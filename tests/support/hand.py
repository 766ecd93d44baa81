"""The hand of a consumer and its lanes, without a database: deliveries are looked at instead of being handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.lanes import Lanes
from django_outbox.consumer.line import Queued
from django_outbox.consumer.source import Outcome
from django_outbox.consumer.waits import Waits
from django_outbox.events.event import Event
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.worker.state import WorkerState
from tests.support.clock import Clock
from tests.support.inbox import received


def own(id: int, *, key: str | None = None, partition: int = 0, attempt: int = 1, **given: Any) -> ReceivedRecord:
    """A record of this service's outbox."""
    ids = {"source": "tests", "outboxid": str(id), "outboxattempt": str(attempt)}
    return received(key=key, topic="outbox", partition=partition, **ids, **given)


class Hand:
    """Lanes whose deliveries are looked at instead of being handled.

    Attributes:
        batches: what lanes got, as ids of own messages, offsets of other records, and names of stored messages.
        outcome: of a delivery, by such a name; CONSUMED by default.
        due: stored messages that are due; those with the same first letter have the same key.
        mapped: whether a mapper reads the records of others.
        partial: how many of a batch a lane handles at a time; None for all.
        on_handle: called with the names of each batch.
        still: until when messages wait on, by id.
    """

    def __init__(self, clock: Clock, lanes: int = 1, read_ahead: int = 100, registry: Registry | None = None) -> None:
        self.batches: list[list[Any]] = []
        self.queued: list[Queued[Any]] = []
        self.suspects: set[str] = set()
        self.outcome: dict[Any, Outcome] = {}
        self.due: list[str] = []
        self.mapped = False
        self.partial: int | None = None
        self.on_handle: Callable[[list[Any]], object] = lambda names: None
        self.still: dict[int, float] = {}
        self.looked_for: list[int] = []
        self.resets = 0
        self.interrupted = False
        self.clock = clock
        self.waits = Waits(clock)
        self.outbox: Any = SimpleNamespace(
            waits=self.waits, cost=lambda item: 1.0, counted=lambda ids: set(), wait_on=self._wait_on
        )
        self.inbox: Any = SimpleNamespace(
            takes_all=False,
            uses_mapper=lambda record: self.mapped,
            due=self._due,
            take_wait=lambda record: 10.0,
        )
        self.engine = SimpleNamespace(transaction_size=100.0, is_one_by_one=False, reset=self._reset)
        self.lane: Any = SimpleNamespace(
            number=1, engine=self.engine, prepared=SimpleNamespace(renew_plans=lambda: None), handle=self._handle
        )
        self.worker_state = WorkerState("consumer", clock)
        self.lanes = Lanes(
            [self.lane] * lanes,
            self.outbox,
            self.inbox,
            handlers=GroupHandlers(registry or Registry(), "tests"),
            worker_state=self.worker_state,
            read_ahead=read_ahead,
            clock=clock,
        )

    def _due(self, most: int, in_hand: set[str]) -> list[Any]:
        free = [id for id in self.due if id not in in_hand]
        keys = {id: ("inbox", id[0].encode()) for id in free}
        return [SimpleNamespace(id=id, key=keys[id], is_suspect=id in self.suspects) for id in free[:most]]

    def _handle(self, batch: Sequence[Any], is_stopping: Callable[[], bool]) -> list[Outcome]:
        names = [_name_of(queued.item) for queued in batch]
        self.queued += batch
        self.on_handle(names)
        names = names[: self.partial]
        self.batches.append(names)
        return [self.outcome.get(name, Outcome.CONSUMED) for name in names]

    def _wait_on(self, items: Sequence[Any]) -> dict[int, float]:
        self.looked_for += [item.id for item in items]
        return self.still

    def _reset(self) -> None:
        self.resets += 1

    def add(self, *records: ReceivedRecord) -> None:
        self.lanes.add_records(records, [])

    def work(self) -> list[Any]:
        """Let the lane handle what it gets; returns that."""
        self.batches.clear()
        self.lanes.work(lambda: self.interrupted, self.clock.now + 1)
        return [name for batch in self.batches for name in batch]


def _name_of(item: Any) -> Any:
    if isinstance(item, ReceivedRecord):
        return item.offset
    return getattr(item, "id", item)


def batches(wait: float, size: int = 3) -> Registry:
    """A batch handler of ``order.created`` with these options."""

    def handle(events: list[Event]) -> None: ...

    registry = Registry()
    registry.register("order.created", handle, batch=size, wait=wait)
    return registry
