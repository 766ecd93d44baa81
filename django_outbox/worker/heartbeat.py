"""The heartbeat of a worker: a row that shows its state, its rate and what is wrong.

A thread writes it over its own connection: it is never part of a message's transaction, and continues while a
handler runs. An error in the heartbeat never stops the worker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from django_outbox.models.lengths import BUSY_KEY_LENGTH
from django_outbox.models.validation import clean_text
from django_outbox.state import failures
from django_outbox.worker.state import WorkerState

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 1.0
JOIN_SECONDS = 3.0
ALIVE = timedelta(seconds=60)
"""A worker counts as alive for this long after its last heartbeat."""
WORKERS_KEPT = timedelta(days=1)
ACTIVITY_KEPT = timedelta(days=2)
BEATS_BETWEEN_CLEANUPS = 360


class Heartbeat:
    """Writes a worker's state to its row, every ten seconds and when the state changes."""

    def __init__(self, worker_state: WorkerState, *, using: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker_state = worker_state
        self._using = using
        self._clock = clock
        self._beats = 0
        self._last_beat_at = clock()

    def beat(self) -> None:
        """Write the row once. Errors are logged at level DEBUG; the next beat tries again."""
        counts = self._worker_state.take_counts()
        try:
            with transaction.atomic(using=self._using):
                self._write(counts)
        except Exception:  # a heartbeat must not stop the worker
            self._worker_state.add_counts(counts)
            log.debug("The heartbeat failed.", exc_info=True, extra={"action": "heartbeat"})

    def _write(self, counts: Counter[str]) -> None:
        worker, now = self._worker_state, self._clock()
        state, trouble = worker.snapshot()
        handled = counts.total() - counts["inbox_received"]  # those still have to be consumed
        rate = round(handled / max(now - self._last_beat_at, 0.1), 1)
        busy = worker.busy
        values = {
            "state": state,
            "trouble": trouble,
            "rate": rate,
            "last_seen_at": DatabaseNow(),
            "busy_lanes": busy.lanes,
            "in_progress": busy.messages,
            "busy_since": None if busy.seconds is None else DatabaseNow() - timedelta(seconds=busy.seconds),
            "busy_key": clean_text(busy.key)[:BUSY_KEY_LENGTH],
        }
        rows = Worker.objects.using(self._using)
        if worker.row_id is None or not rows.filter(id=worker.row_id).update(**values):
            worker.row_id = rows.create(
                kind=worker.kind,
                group=worker.group,
                topics=worker.topics,
                lanes=worker.lanes,
                host=failures.host(),
                pid=os.getpid(),
                version=own_version(),
                **values,
            ).pk
        record_activity(counts, timezone.now(), using=self._using)
        if self._beats % BEATS_BETWEEN_CLEANUPS == 0:
            delete_old_heartbeats(using=self._using)
        self._beats += 1
        self._last_beat_at = now

    def remove(self) -> None:
        """Delete the row, as the worker shuts down cleanly."""
        with suppress(Exception):
            if self._worker_state.row_id is not None:
                Worker.objects.using(self._using).filter(id=self._worker_state.row_id).delete()


def delete_old_heartbeats(*, using: str) -> None:
    """Delete rows of workers that disappeared, and activity older than the overview shows."""
    Worker.objects.using(using).filter(last_seen_at__lt=DatabaseNow() - WORKERS_KEPT).delete()
    Activity.objects.using(using).filter(period__lt=timezone.now() - ACTIVITY_KEPT).delete()


@cache
def own_version() -> str:
    """Return the installed version of this package; empty if it runs from its sources."""
    try:
        return version("django-kafka-outbox")
    except PackageNotFoundError:
        return ""


def record_activity(counts: Mapping[str, int], now: datetime, *, using: str) -> None:
    """Add to the counts of the current period, and store the highest message id."""
    activities = Activity.objects.using(using)
    newest = OutboxMessage.objects.using(using).aggregate(newest=Max("id"))["newest"] or 0
    period = period_of(now)
    changes = {
        **{name: F(name) + count for name, count in counts.items()},
        "last_id": Greatest(F("last_id"), Value(newest)),
    }
    if not activities.filter(period=period).update(**changes):
        activities.bulk_create([Activity(period=period)], ignore_conflicts=True)
        activities.filter(period=period).update(**changes)


def period_of(now: datetime) -> datetime:
    """Return the start of the period that contains a time."""
    seconds = (now.minute * 60 + now.second) % Activity.SECONDS
    return now - timedelta(seconds=seconds, microseconds=now.microsecond)


@contextmanager
def beating(worker_state: WorkerState, *, using: str, has_row: bool) -> Iterator[None]:
    """Run the heartbeat of a worker within the block.

    Args:
        has_row: False for a worker that drains: only its activity is stored, at the end.
    """
    heartbeat = Heartbeat(worker_state, using=using)
    if not has_row:
        try:
            yield
        finally:
            with suppress(Exception):
                record_activity(worker_state.take_counts(), timezone.now(), using=using)
        return
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            worker_state.changed.clear()
            heartbeat.beat()
            _disconnect(using)  # holds no connection between two beats
            if not end.wait(MIN_INTERVAL_SECONDS):
                worker_state.changed.wait(INTERVAL_SECONDS - MIN_INTERVAL_SECONDS)
        heartbeat.beat()  # stores the last counts
        heartbeat.remove()
        _disconnect(using)

    thread = threading.Thread(target=run, name="outbox-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        worker_state.changed.set()
        thread.join(JOIN_SECONDS)


def _disconnect(using: str) -> None:
    with suppress(Exception):  # the connection may be lost
        connections[using].close()
