"""The lanes of one consumer: they handle what it has in hand, in its own thread or in several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from itertools import takewhile
from math import ceil
from typing import Any

from django.db import connections

from django_outbox.consumer.engine import Engine
from django_outbox.consumer.in_hand import InHand
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.line import Queued
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.own_record import OwnRecord
from django_outbox.consumer.source import Kind, Outcome
from django_outbox.exceptions import MessagesLeft
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.observability.logging import LANE_THREAD
from django_outbox.serializers.outage import registry_trouble
from django_outbox.worker.database_errors import drop_broken_connections
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState


class Lane:
    """Handles batches of the queue, one after the other, over its own database connection."""

    def __init__(
        self, number: int, engine: Engine, outbox: OutboxSource, inbox: Inbox, prepared: PreparedStatements
    ) -> None:
        self.number = number
        self.engine = engine
        self.prepared = prepared
        self._outbox = outbox
        self._inbox = inbox

    def handle(self, batch: Sequence[Queued[Any]], is_stopping: Callable[[], bool]) -> list[Outcome]:
        """Handle the first item of a batch and, in the same transaction, some after it. Returns their outcomes.

        Raises:
            OperationalError, InterfaceError: the database is away; nothing changed.
        """
        first = batch[0]
        if first.kind is Kind.DUE:
            return [self._inbox.handle_due(first.item) or Outcome.SKIPPED]
        if first.kind is Kind.OWN:
            items: list[OwnRecord] = [queued.item for queued in batch]
            if not first.guarded:
                return self.engine.handle(self._outbox, items, is_stopping)
            items = items[: len(self.engine.fitting(self._outbox, items))]
            self._outbox.count_deliveries(items)
            outcomes = self.engine.handle(self._outbox, items, is_stopping)
            self._outbox.survived.discard(*[item.place for item in items[: len(outcomes)]])
            self._outbox.uncount_deliveries(items[len(outcomes) :])
            return outcomes
        if first.guarded:
            return [self._inbox.receive_counted(first.item)]
        return self._inbox.receive([queued.item for queued in batch], is_stopping)


class Lanes(InHand):
    """Handles records and stored messages, those of one topic and key in their order and never two at a time.

    One lane works in the consumer's thread, within ``work()``. Several have threads, which work all the time; their
    faults of the database are raised in the consumer's thread. That thread alone calls what is public, except ``revoke()``.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        outbox: OutboxSource,
        inbox: Inbox,
        *,
        handlers: GroupHandlers,
        worker_state: WorkerState,
        read_ahead: int,
        clock: Callable[[], float],
    ) -> None:
        """Arguments as for ``InHand``."""
        super().__init__(len(lanes), outbox, inbox, handlers=handlers, read_ahead=read_ahead, clock=clock)
        self.engines = [lane.engine for lane in lanes]
        self._lanes = lanes
        self._worker_state = worker_state
        self._clock = clock
        self._fault: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._is_stopping: Callable[[], bool] = lambda: False
        self._waiting_since: float | None = None  # for a schema registry

    def _wake(self) -> None:
        """Let messages go on whose time has come, but not those that wait for one that is still published."""
        now = self._clock()
        overdue = [queued for queued in self._queue.overdue(now) if queued.awaits]
        if overdue:
            still = self._outbox.wait_on([queued.item for queued in overdue])
            self._queue.postpone({each.number: still[each.item.id] for each in overdue if each.item.id in still})
        self._queue.wake(now)

    def _end_filling(self) -> None:
        """Let batches go on that have waited long enough."""
        with self._lock:
            self._queue.put(self._filling.take())

    def work(self, is_stopping: Callable[[], bool], deadline: float) -> None:
        """With one lane, handle what is in hand; with threads, let them work and return at once.

        Args:
            deadline: on the clock; one lane takes nothing new after it.

        Raises:
            OperationalError, InterfaceError: the database is away; what is unfinished stays in hand.
        """
        self._is_stopping = is_stopping
        self._wake()
        self._end_filling()
        self._relieve()
        if not self.are_threads:
            lane = self._lanes[0]
            while not is_stopping() and self._clock() < deadline and (batch := self._take(lane, timeout=0)):
                self._handle(lane, batch)
                self._end_filling()
            return
        with self._lock:
            fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        self._queue.release()
        self._start()

    def require_patience(self, seconds: float) -> None:
        """With ``drain``, wait for a schema registry for so many seconds, as for a broker.

        Raises:
            MessagesLeft: the registry has been away so long, and records in hand wait for it.
        """
        trouble = registry_trouble()
        if not (self and trouble):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._clock() if self._queue.parked_groups(Kind.FOREIGN) else None
        elif self._clock() - self._waiting_since >= seconds:
            raise MessagesLeft(f"Messages are left that wait for a schema registry. {trouble}")

    def wait(self, seconds: float) -> None:
        """Wait until all that lanes have begun is finished, at most so many seconds."""
        self._queue.wait_for_end(seconds)

    def finish(self) -> None:
        """Let the lanes finish what they are handling, and start nothing else."""
        self._queue.hold()
        self._queue.wait_until_ended()

    def close(self) -> None:
        """Let the lanes finish what they are handling, and end their threads."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._fault = None
        self._queue.release()
        self.clear()

    def _take(self, lane: Lane, timeout: float | None = None) -> list[Queued[Any]]:
        return self._queue.take(ceil(lane.engine.transaction_size * max(1, self._handlers.largest_batch)), timeout)

    def _handle(self, lane: Lane, batch: Sequence[Queued[Any]]) -> None:
        done = 0
        parked: dict[int, float] = {}
        held: set[Hashable] = set()  # keys of those: nothing may be stored that holds later ones
        try:
            lane.prepared.renew_plans()
            # What is left may go to another lane, unless the lane looks for the message that makes transactions fail.
            while (not done or lane.engine.is_one_by_one) and not self._is_interrupted():
                rest = list(takewhile(lambda queued: queued.key not in held, batch[done:]))
                if not rest:
                    break
                if not self.are_threads:
                    self._worker_state.record_progress()
                with self._worker_state.handling(lane.number, text_of(rest[0].key), len(rest)):
                    outcomes = lane.handle(rest, self._is_interrupted)
                self._count(batch[done : done + len(outcomes)], outcomes)
                for place, outcome in enumerate(outcomes, done):
                    if outcome is Outcome.WAITING:
                        parked[place] = self._waits_until(batch[place])
                        held.add(batch[place].key)
                done += len(outcomes)
        finally:
            if self.are_threads and self._is_stopping():
                self._queue.hold()
            self._queue.end(batch, done, parked)

    def _waits_until(self, queued: Queued[Any]) -> float:
        if queued.kind is Kind.FOREIGN:
            return self._clock() + self._inbox.take_wait(queued.item)
        wait = self._outbox.waits.find(queued.item.id)
        queued.awaits = wait.awaited
        if wait.is_placed:
            queued.by_arrival = False
        return wait.until

    def _is_interrupted(self) -> bool:
        return self._queue.is_held or self._is_stopping()

    def _start(self) -> None:
        if self._threads:
            return
        for lane in self._lanes:
            name = f"{LANE_THREAD}{lane.number}"
            self._threads.append(threading.Thread(target=self._run, args=(lane,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def _run(self, lane: Lane) -> None:
        """What the thread of a lane does until the queue is closed."""
        try:
            while batch := self._take(lane):
                try:
                    self._handle(lane, batch)
                except BaseException as error:
                    with self._lock:
                        self._fault = self._fault or error
                    self._queue.hold()
                    with suppress(Exception):  # then the next transaction fails, too
                        drop_broken_connections(error)
        finally:
            connections.close_all()

    def clear(self) -> None:
        super().clear()
        if not self.are_threads:
            self._lanes[0].engine.reset()


def text_of(key: Hashable) -> str:
    """A key of topic and bytes, for people; empty for any other key."""
    if type(key) is not tuple:
        return ""
    topic, name = key
    return f"{topic}: {name.decode(errors='replace')}"
