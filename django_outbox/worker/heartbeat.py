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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from django.db import connections, transaction
from django.db.models import F, Max, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from django_outbox.models import Activity, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import failures
from django_outbox.worker.state import Done, Pulse

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
LEAST_SECONDS = 1.0
FAREWELL_SECONDS = 3.0
ALIVE = timedelta(seconds=60)
"""Whoever was seen within this time counts as alive."""
FORGOTTEN = timedelta(days=1)
ACTIVITY_KEPT = timedelta(days=2)
BEATS_BETWEEN_CLEANINGS = 360


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
