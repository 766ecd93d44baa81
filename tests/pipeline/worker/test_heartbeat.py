"""Heartbeats: operators see who runs and what is in the way, and no worker ever stops for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from django_outbox.models import Activity, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.lengths import BUSY_KEY_LENGTH, TOPICS_LENGTH
from django_outbox.worker import heartbeat
from django_outbox.worker.heartbeat import Heartbeat, beating, period_of, record_activity
from django_outbox.worker.state import WorkerState
from tests.support.clock import Clock
from tests.support.outbox import make_message
from tests.support.processes import wait_until


@pytest.fixture
def beats(worker_state: WorkerState, clock: Clock) -> Heartbeat:
    return Heartbeat(worker_state, using="default", clock=clock)


def worker() -> Worker:
    return Worker.objects.get()


# The row


@pytest.mark.django_db
def test_row_says_who_runs_and_how_fast(worker_state: WorkerState, beats: Heartbeat, clock: Clock) -> None:
    beats.beat()
    assert (worker().kind, worker().state, worker().rate) == ("relay", "starting", 0.0)
    assert worker().pid
    assert worker().host
    worker_state.record_round(published=50)
    clock.now += 10
    beats.beat()
    assert (worker().state, worker().rate) == ("working", 5.0)


@pytest.mark.django_db
def test_row_of_a_consumer_says_its_group_and_topics() -> None:
    Heartbeat(WorkerState("consumer", group="reports", topics={"orders", "billing"}), using="default").beat()
    assert (worker().group, worker().topics) == ("reports", "billing, orders")


@pytest.mark.django_db
def test_row_of_a_consumer_says_what_its_lanes_handle(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=16)
    beats = Heartbeat(state, using="default", clock=clock)
    with state.handling(2, "orders: 42", 3), state.handling(7, "", 4):
        clock.now += 30
        beats.beat()
        row = worker()
        assert (row.lanes, row.busy_lanes, row.in_progress, row.busy_key) == (16, 2, 7, "orders: 42")
        assert row.busy_seconds == pytest.approx(30)
    beats.beat()
    row = worker()
    assert (row.lanes, row.busy_lanes, row.in_progress, row.busy_since, row.busy_key) == (16, 0, 0, None, "")
    assert row.busy_seconds is None


@pytest.mark.django_db
def test_a_worker_has_one_lane_unless_it_says_otherwise(beats: Heartbeat) -> None:
    beats.beat()
    assert (worker().lanes, worker().busy_lanes) == (1, 0)


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["\0" * 10, "x" * 100_000])
def test_a_key_that_no_column_takes_stops_no_heartbeat(worker_state: WorkerState, beats: Heartbeat, key: str) -> None:
    with worker_state.handling(1, f"orders: {key}", 1):
        beats.beat()
    assert worker().busy_key == f"orders: {key}".replace("\0", "\N{REPLACEMENT CHARACTER}")[:BUSY_KEY_LENGTH]


@pytest.mark.django_db
def test_very_many_topics_are_cut() -> None:
    Heartbeat(WorkerState("consumer", topics={f"topic-{n:04}" for n in range(200)}), using="default").beat()
    assert len(worker().topics) == TOPICS_LENGTH
    assert worker().topics.endswith("…")


@pytest.mark.django_db
def test_each_beat_is_seen_by_the_databases_clock(beats: Heartbeat) -> None:
    beats.beat()
    Worker.objects.update(last_seen_at=DatabaseNow() - timedelta(hours=1))
    beats.beat()
    assert timezone.now() - worker().last_seen_at < timedelta(seconds=60)


@pytest.mark.django_db
def test_a_row_that_somebody_deleted_is_written_anew(beats: Heartbeat) -> None:
    beats.beat()
    Worker.objects.all().delete()
    beats.beat()
    assert worker()


@pytest.mark.django_db
def test_row_is_gone_at_the_end(beats: Heartbeat) -> None:
    beats.beat()
    beats.remove()
    assert not Worker.objects.exists()


@pytest.mark.django_db
def test_rows_of_the_long_lost_are_cleaned_away(beats: Heartbeat) -> None:
    for hours in (23, 25):
        Worker.objects.create(
            kind="relay", host=f"h{hours}", pid=1, last_seen_at=DatabaseNow() - timedelta(hours=hours)
        )
    Activity.objects.create(period=timezone.now() - timedelta(days=3))
    beats.beat()
    assert not Worker.objects.filter(host="h25").exists()
    assert Worker.objects.filter(host="h23").exists()
    assert Activity.objects.count() == 1


@pytest.mark.django_db
def test_a_heartbeat_that_cannot_be_written_is_forgotten(
    worker_state: WorkerState, beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise DatabaseError("away")

    worker_state.record_round(published=3)
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "record_activity", fails)
        beats.beat()
    assert not Worker.objects.exists()
    beats.beat()
    assert Activity.objects.get().published == 3


def test_a_heartbeat_needs_no_database(beats: Heartbeat) -> None:
    beats.beat()  # a test that has no database may not use it
    beats.remove()


# Activity


@pytest.mark.django_db
def test_activity_adds_up_in_its_period() -> None:
    now = datetime(2026, 5, 1, 3, 17, 5, tzinfo=UTC)
    make_message(id=41)
    record_activity({"published": 3}, now, using="default")
    make_message(id=57)
    record_activity({"published": 4, "consumed": 2}, now + timedelta(minutes=2), using="default")
    record_activity({"consumed": 1}, now + timedelta(minutes=3), using="default")
    found = list(Activity.objects.order_by("period").values_list("period", "published", "consumed", "last_id"))
    assert found == [
        (datetime(2026, 5, 1, 3, 10, tzinfo=UTC), 7, 2, 57),
        (datetime(2026, 5, 1, 3, 20, tzinfo=UTC), 0, 1, 57),
    ]


@pytest.mark.django_db
def test_activity_of_the_inbox_is_counted_apart(worker_state: WorkerState, beats: Heartbeat, clock: Clock) -> None:
    worker_state.record_round(consumed=3, inbox_received=5, inbox_consumed=4)
    worker_state.record_round(consumed=1, inbox_received=1)
    clock.now += 10
    beats.beat()
    assert worker().rate == 0.8
    activity = Activity.objects.get()
    assert (activity.consumed, activity.inbox_received, activity.inbox_consumed) == (4, 6, 4)
    assert not worker_state.take_counts()


def test_periods_are_ten_minutes() -> None:
    now = datetime(2026, 5, 1, 3, 29, 59, 999, tzinfo=UTC)
    assert period_of(now) == datetime(2026, 5, 1, 3, 20, tzinfo=UTC)


@pytest.mark.django_db
def test_a_drain_writes_down_what_it_did_and_is_no_worker() -> None:
    worker_state = WorkerState("relay")
    with beating(worker_state, using="default", has_row=False):
        worker_state.record_round(published=5)
        assert not Worker.objects.exists()
    assert Activity.objects.get().published == 5


# The thread


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_stays_has_a_row_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MIN_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "JOIN_SECONDS", 60)
    worker_state = WorkerState("consumer")
    with beating(worker_state, using="default", has_row=True):
        wait_until(lambda: Worker.objects.filter(state="starting").exists())
        worker_state.record_round(consumed=2)
        wait_until(lambda: Worker.objects.filter(state="working").exists())
        worker_state.record_fault("The database: away")
        wait_until(lambda: Worker.objects.filter(state="trouble", trouble="The database: away").exists())
        worker_state.record_round(consumed=1)
    assert not Worker.objects.exists()
    assert sum(Activity.objects.values_list("consumed", flat=True)) == 3  # ten minutes may have ended meanwhile


# Real commands
