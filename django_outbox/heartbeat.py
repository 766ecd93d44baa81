"""A worker's sign of life: a row that says who runs, how fast, and what is in the way.

The loop of the worker says what it does to its ``Pulse``; a thread of its own writes that down,
over a connection of its own, so that a heartbeat is never part of a message's transaction and a
handler that takes long does not keep it from beating. It never stops the worker: what goes wrong
in writing it is forgotten.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from django.db import connections, transaction
from django.db.models import F, Max, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from django_outbox import failures
from django_outbox.fields import DatabaseNow
from django_outbox.models import Activity, OutboxMessage, Worker
from django_outbox.operations import TOPICS_LENGTH, TROUBLE_LENGTH

log = logging.getLogger(__name__)

State = Worker.State

INTERVAL_SECONDS = 10.0
LEAST_SECONDS = 1.0
SILENT_SECONDS = 60.0
FAREWELL_SECONDS = 3.0
ALIVE = timedelta(seconds=60)
"""Whoever was seen within this time counts as alive."""
FORGOTTEN = timedelta(days=1)
ACTIVITY_KEPT = timedelta(days=2)
BEATS_BETWEEN_CLEANINGS = 360


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
    ) -> None:
        """
        Args:
            kind: relay or consumer.
            clock: seconds, monotonic.
            group, topics: of a consumer: the group that it is a member of, and what it reads.
        """
        self.kind = kind
        self.group = group
        self.topics = _in_one_line(topics)
        self.row: int | None = None
        """The id of the worker's row, once it is written."""
        self.changed = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._done = Done()
        self._trouble = ""
        self._state = State.STARTING
        self._moved_at = self._turned_at = clock()
        self._reaches_broker = False
        self._reaches_database = True  # commands look for their tables before all else
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
        with self._lock:
            self._done = self._done.plus(Done(**moved))
            self._moved_at = self._clock()
            self._reaches_broker = self._reaches_database = True
            self._become(State.TROUBLE if trouble else State.WORKING, trouble)
        self.turn()

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
            silent = self._clock() - self._moved_at
            if self._state == State.WORKING and silent > SILENT_SECONDS:
                return State.TROUBLE, f"Busy with one batch for {silent:.0f} s: a handler is slow, or hangs."
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


class Heartbeat:
    """Writes a pulse to the worker's row, every ten seconds and when the state changes."""

    def __init__(self, pulse: Pulse, *, using: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._pulse = pulse
        self._using = using
        self._clock = clock
        self._row: int | None = None
        self._beats = 0
        self._last_beat_at = clock()

    def beat(self) -> None:
        """Write the row once. Whatever goes wrong is forgotten; the next beat comes."""
        done = self._pulse.take()
        try:
            with transaction.atomic(using=self._using):
                self._write(done)
        except Exception:  # a worker does not stop for its heartbeat
            self._pulse.give_back(done)
            log.debug("No heartbeat this time.", exc_info=True, extra={"action": "heartbeat"})

    def _write(self, done: Done) -> None:
        now = self._clock()
        seconds = max(now - self._last_beat_at, 0.1)
        state, trouble = self._pulse.now()
        values = {
            "state": state,
            "trouble": trouble,
            "rate": round(done.moved / seconds, 1),
            "last_seen_at": DatabaseNow(),
        }
        workers = Worker.objects.using(self._using)
        if self._row is None or not workers.filter(id=self._row).update(**values):
            self._row = workers.create(
                kind=self._pulse.kind,
                group=self._pulse.group,
                topics=self._pulse.topics,
                host=failures.host(),
                pid=os.getpid(),
                version=own_version(),
                **values,
            ).pk
            self._pulse.row = self._row
        record_activity(done, timezone.now(), using=self._using)
        if self._beats % BEATS_BETWEEN_CLEANINGS == 0:
            forget(using=self._using)
        self._beats += 1
        self._last_beat_at = now

    def remove(self) -> None:
        """Take the row away: this worker ends as it should."""
        with suppress(Exception):
            if self._row is not None:
                Worker.objects.using(self._using).filter(id=self._row).delete()


def forget(*, using: str) -> None:
    """Delete the rows of workers that are long gone, and what was done longer ago than the overview shows."""
    Worker.objects.using(using).filter(last_seen_at__lt=DatabaseNow() - FORGOTTEN).delete()
    Activity.objects.using(using).filter(period__lt=timezone.now() - ACTIVITY_KEPT).delete()


@cache
def own_version() -> str:
    """The version of this package that is installed; empty if it is run from its sources."""
    try:
        return version("django-kafka-outbox")
    except PackageNotFoundError:  # run from its sources
        return ""


def record_activity(done: Done, now: datetime, *, using: str) -> None:
    """Add to what was done in this period, and note how far the table's ids have come."""
    activities = Activity.objects.using(using)
    newest = OutboxMessage.objects.using(using).aggregate(newest=Max("id"))["newest"] or 0
    period = period_of(now)
    changes = {
        **{name: F(name) + count for name, count in done._asdict().items()},
        "last_id": Greatest(F("last_id"), Value(newest)),
    }
    if not activities.filter(period=period).update(**changes):
        activities.bulk_create([Activity(period=period)], ignore_conflicts=True)
        activities.filter(period=period).update(**changes)


def period_of(now: datetime) -> datetime:
    """The beginning of the period that a time lies in."""
    seconds = (now.minute * 60 + now.second) % Activity.SECONDS
    return now - timedelta(seconds=seconds, microseconds=now.microsecond)


@contextmanager
def beating(pulse: Pulse, *, using: str, stays: bool) -> Iterator[None]:
    """Let a pulse beat while a worker works.

    Args:
        pulse: what the worker says of itself.
        using: alias of the database.
        stays: False for a worker that only drains: it has no row, only what it did is written down.
    """
    heartbeat = Heartbeat(pulse, using=using)
    if not stays:
        try:
            yield
        finally:
            with suppress(Exception):
                record_activity(pulse.take(), timezone.now(), using=using)
        return
    end = threading.Event()
    thread = threading.Thread(target=_beat, args=(heartbeat, pulse, end, using), name="outbox-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        pulse.changed.set()
        thread.join(FAREWELL_SECONDS)


def _beat(heartbeat: Heartbeat, pulse: Pulse, end: threading.Event, using: str) -> None:
    while not end.is_set():
        pulse.changed.clear()
        heartbeat.beat()
        _disconnect(using)  # no connection is held between two beats
        if not end.wait(LEAST_SECONDS):
            pulse.changed.wait(INTERVAL_SECONDS - LEAST_SECONDS)
    heartbeat.beat()  # what was done since the last
    heartbeat.remove()
    _disconnect(using)


def _disconnect(using: str) -> None:
    with suppress(Exception):  # of a connection that is lost already
        connections[using].close()
