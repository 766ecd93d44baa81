"""Purging by the relay: for a small share of its time, by one relay, and never at the cost of its work."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.relay import background_purge as background
from django_outbox.relay.background_purge import BEHIND, BUSY, IDLE, RECENT_SECONDS, BackgroundPurge, Pace
from django_outbox.state import purging
from django_outbox.worker import database_errors
from django_outbox.worker.heartbeat import Heartbeat
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.database_errors import caused
from tests.support.outbox import Pipeline, Status, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

MONTH = timedelta(days=30)
STEP = 0.004


class Scene:
    """A relay's worker_state with a row, and its background purge."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock(1000.0)
        self.steps = 0
        self.took = STEP
        self.handlers = Registry()
        self.handlers.load = lambda: None  # type: ignore[method-assign]
        self.worker_state = WorkerState("relay", self.clock)
        self.heartbeat = Heartbeat(self.worker_state, using="default", clock=self.clock)
        self.worker_state.record_round()
        self.heartbeat.beat()
        self.purge = BackgroundPurge(self.worker_state, using="default", handlers=self.handlers, clock=self.clock)
        delete_batch = purging.delete_batch

        def counted(*arguments: Any, **options: Any) -> list[str]:
            self.steps += 1
            self.clock.now += self.took
            return delete_batch(*arguments, **options)

        monkeypatch.setattr(purging, "delete_batch", counted)

    def turn(self, *, busy: bool = False, behind: bool = False, after: float = 0) -> int:
        """Returns how many steps there have been."""
        self.clock.now += after
        self.purge.run_if_due(busy or behind, behind)
        return self.steps


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(background, "STEP_ROWS", (2, 8))
    return Scene(monkeypatch)


def make_old(count: int, status: str = Status.CONSUMED) -> None:
    for _ in range(count):
        make_message(status)
    OutboxMessage.objects.filter(status=status).update(
        created_at=DatabaseNow() - MONTH, updated_at=DatabaseNow() - MONTH
    )


def test_an_idle_relay_purges_in_small_steps_until_nothing_is_left(scene: Scene) -> None:
    make_old(5)
    scene.took = IDLE.step_seconds
    for steps in (1, 2, 3):
        assert scene.turn(after=1) == steps
        assert len(statuses()) == max(0, 5 - 2 * steps)
    assert scene.turn(after=1) == 3


@pytest.mark.parametrize(
    ("state", "pace", "share"),
    [({}, IDLE, 10), ({"busy": True}, BUSY, 20), ({"behind": True}, BEHIND, 60)],
    ids=["idle", "busy", "behind"],
)
def test_steps_have_their_share_of_a_relays_time(scene: Scene, state: dict[str, bool], pace: Pace, share: int) -> None:
    make_old(100)
    assert pace.rest + 1 == share
    assert scene.turn(**state, after=RECENT_SECONDS) == 1
    assert scene.turn(**state, after=STEP * pace.rest * 0.9) == 1
    assert scene.turn(**state, after=STEP * pace.rest * 0.2) == 2


@pytest.mark.parametrize(
    ("minutes", "urgency"), [(0.9, 1), (1, 2), (1.9, 2), (2, 4), (3, 8), (4, 8), (60 * 24 * 365, 8)]
)
@pytest.mark.parametrize(
    ("state", "pace"), [({}, IDLE), ({"busy": True}, BUSY), ({"behind": True}, BEHIND)], ids=["idle", "busy", "behind"]
)
def test_a_walk_that_does_not_end_takes_a_larger_share(
    scene: Scene, state: dict[str, bool], pace: Pace, minutes: float, urgency: int
) -> None:
    make_old(100)
    assert scene.turn(**state, after=RECENT_SECONDS) == 1
    assert scene.turn(**state, after=minutes * 60) == 2
    rest = STEP * pace.rest / urgency
    assert scene.turn(**state, after=rest * 0.9) == 2
    assert scene.turn(**state, after=rest * 0.2) == 3


def test_a_larger_share_has_larger_steps_but_none_longer_than_an_idle_relay(scene: Scene) -> None:
    make_old(100)
    scene.took = 2 * BUSY.step_seconds  # too long for the usual share
    sizes, left = [], 100
    for after in (0, 30, 31, 1, 60, 1, 1):
        scene.turn(busy=True, after=after)
        sizes.append(left - len(statuses()))
        left = len(statuses())
    # Of 12 ms in the first minute, which allows 6; in the second, which allows 12; in the third, which allows 20.
    assert sizes == [2, 2, 2, 2, 2, 3, 5]


def test_a_walk_begins_with_half_of_the_share_that_the_one_before_ended_with(scene: Scene) -> None:
    """Where messages always come fast, each walk would have to find its share again; where they did once, it goes."""

    def assert_urgency(urgency: int, *, steps: int) -> None:
        rest = STEP * BUSY.rest / urgency
        assert scene.turn(busy=True, after=rest * 0.9) == steps
        assert scene.turn(busy=True, after=rest * 0.2) == steps + 1

    def walk(seconds: float, *, begins_with: int) -> None:
        make_old(30)
        before = scene.steps
        assert scene.turn(busy=True, after=61) == before + 1
        assert_urgency(begins_with, steps=before + 1)
        scene.turn(busy=True, after=seconds)
        while statuses():
            scene.turn(busy=True, after=1)
        scene.turn(busy=True, after=1)  # the end of the walk

    walk(190, begins_with=1)
    walk(190, begins_with=4)
    walk(10, begins_with=4)
    walk(10, begins_with=2)
    walk(10, begins_with=1)
    walk(130, begins_with=1)
    walk(10, begins_with=2)
    walk(10, begins_with=1)


@pytest.mark.parametrize("state", [{"busy": True}, {"behind": True}], ids=["busy", "behind"])
def test_a_relay_that_had_work_just_now_is_not_idle(scene: Scene, state: dict[str, bool]) -> None:
    make_old(100)
    assert scene.turn(**state, after=RECENT_SECONDS) == 1
    assert scene.turn(after=STEP * BUSY.rest * 0.9) == 1
    assert scene.turn(after=STEP * BUSY.rest * 0.2) == 2


def test_a_relay_that_keeps_up_sends_the_rest_before_a_step(scene: Scene) -> None:
    """At some hundred messages a second, each poll finds a full batch and a small one."""
    make_old(100)
    scene.turn(busy=True)
    steps = 1
    for _ in range(10):
        assert scene.turn(behind=True, after=0.2) == steps
        assert scene.turn(busy=True, after=0.05) == steps + 1
        steps += 1


def test_a_relay_is_behind_once_all_batches_of_a_second_were_full(scene: Scene) -> None:
    make_old(100)
    assert scene.turn(busy=True) == 1
    assert scene.turn(behind=True, after=RECENT_SECONDS * 0.9) == 1
    assert scene.turn(behind=True, after=RECENT_SECONDS * 0.2) == 2
    assert scene.turn(behind=True, after=STEP * BEHIND.rest * 0.9) == 2
    assert scene.turn(behind=True, after=STEP * BEHIND.rest * 0.2) == 3
    assert scene.turn(busy=True, after=STEP * BUSY.rest * 1.1) == 4
    assert scene.turn(behind=True, after=RECENT_SECONDS * 0.9) == 4


@pytest.mark.parametrize(
    ("busy", "took", "sizes"),
    [
        (False, [0.001, 0.001, 0.001, 0.02, 0.2, 0.2, 0.2], [2, 4, 8, 8, 8, 4, 2]),
        (True, [0.001, 0.001, 0.001, 0.006, 0.2, 0.2, 0.2], [2, 4, 8, 8, 8, 4, 2]),
    ],
    ids=["idle", "busy"],
)
def test_steps_grow_where_the_database_is_fast_and_shrink_where_it_is_slow(
    scene: Scene, busy: bool, took: list[float], sizes: list[int]
) -> None:
    make_old(100)
    left, found = 100, []
    for scene.took in took:
        scene.turn(busy=busy, after=5)
        found.append(left - len(statuses()))
        left = len(statuses())
    assert found == sizes


def test_it_asks_for_its_next_step_while_a_walk_is_under_way(scene: Scene) -> None:
    make_old(6)
    rest = scene.purge.run_if_due(True, False)
    assert rest == pytest.approx(STEP * BUSY.rest)
    scene.clock.now += rest / 2
    assert scene.purge.run_if_due(True, False) == pytest.approx(rest / 2)
    scene.clock.now += rest
    assert scene.purge.run_if_due(False, False) == pytest.approx(STEP * BUSY.rest)  # busy a moment ago
    assert scene.steps == 2
    scene.clock.now += 1
    assert scene.purge.run_if_due(False, False) == pytest.approx(STEP * IDLE.rest)
    assert not statuses()
    scene.clock.now += 1
    assert scene.purge.run_if_due(False, False) == math.inf  # the walk has ended
    assert scene.purge.run_if_due(False, False) == math.inf


def test_after_a_walk_it_rests_for_a_minute(scene: Scene) -> None:
    scene.turn()
    make_old(1)
    assert scene.turn(after=59) == 0
    scene.clock.now += 0.5
    assert scene.purge.run_if_due(False, False) == math.inf  # no walk is under way
    assert scene.turn(after=0.6) == 1


def test_a_second_after_its_last_message_a_relay_is_idle(scene: Scene) -> None:
    make_old(6)
    scene.turn(busy=True)
    scene.clock.now = 1000.0 + RECENT_SECONDS
    assert scene.purge.run_if_due(False, False) == pytest.approx(STEP * IDLE.rest)


def test_what_was_deleted_is_told_once_a_walk(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox")
    make_old(5)
    for _ in range(6):
        scene.turn(after=1)
    assert [record.getMessage() for record in caplog.records] == ["Deleted old messages: 5 consumed."]
    for _ in range(3):
        scene.turn(after=100)
    assert len(caplog.records) == 1


def test_what_retention_and_handlers_keep_is_kept(scene: Scene) -> None:
    scene.handlers.register("order.created", lambda event: None)
    for status in Status.values:
        make_old(2, status)
    for _ in range(20):
        scene.turn(after=1)
    assert set(statuses()) == {"pending", "published", "dead"}


def test_handlers_that_cannot_be_loaded_keep_what_is_published_and_nothing_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported")

    scene.handlers.load = load  # type: ignore[method-assign]
    make_old(1, Status.PUBLISHED)
    make_old(1)
    for _ in range(5):
        scene.turn(after=1)
    for _ in range(5):
        scene.turn(after=100)
    assert statuses() == ["published"]
    reports = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [(record.getMessage(), record.__dict__["action"]) for record in reports] == [
        ("Published messages are kept, as handlers are unknown: shop.handlers cannot be imported", "purge")
    ]

    scene.handlers.load = lambda: None  # type: ignore[method-assign]
    for _ in range(5):
        scene.turn(after=100)
    assert statuses() == []
    scene.handlers.load = load  # type: ignore[method-assign]
    for _ in range(5):
        scene.turn(after=100)
    assert caplog.text.count("Published messages are kept") == 2


# One relay at a time


def worker(**fields: Any) -> Worker:
    known = {"kind": "relay", "source": "tests", "state": "working", **fields}
    return Worker.objects.create(host="h", pid=1, version="", **known)


def test_only_the_relay_that_has_been_alive_for_longest_purges(monkeypatch: pytest.MonkeyPatch) -> None:
    first = worker()
    scene = Scene(monkeypatch)
    Worker.objects.filter(id=first.id).update(last_seen_at=DatabaseNow())  # its row is the last one that was written
    make_old(1)
    assert scene.turn(after=1) == 0
    first.delete()  # as it ends
    assert scene.turn(after=background.LEADER_CHECK_SECONDS - 0.25) == 0  # that is not asked all the time
    assert scene.turn(after=0.25) == 1


@pytest.mark.parametrize(
    "other", [{"state": "trouble"}, {"last_seen_at": DatabaseNow() - timedelta(minutes=2)}], ids=["trouble", "lost"]
)
def test_a_relay_that_is_lost_or_in_trouble_leaves_it_to_others(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    worker(**other)
    scene = Scene(monkeypatch)
    make_old(1)
    assert scene.turn(after=1) == 1


@pytest.mark.parametrize("other", [{"kind": "consumer"}, {"source": "another"}], ids=["consumer", "other service"])
def test_consumers_and_relays_of_other_services_do_not_count(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    worker(**other)
    scene = Scene(monkeypatch)
    make_old(1)
    assert scene.turn() == 1


def test_a_relay_without_a_heartbeat_does_not_purge(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.worker_state.row_id = None
    make_old(1)
    assert scene.turn(after=1) == 0


def test_between_steps_it_asks_the_database_nothing(scene: Scene) -> None:
    make_old(10)
    scene.turn()
    with CaptureQueriesContext(connection) as queries:
        scene.turn(busy=True, after=STEP)
    assert len(queries) == 0


# Faults


def test_a_fault_that_passes_ends_the_walk_for_a_minute_without_a_word(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> list[str]:
        scene.steps += 1
        raise caused(OperationalError("deadlock"), Exception(1213))

    monkeypatch.setattr(purging, "delete_batch", fail)
    make_old(1)
    assert scene.turn() == 1
    assert scene.turn(after=59) == 1
    assert scene.turn(after=1.1) == 2
    assert caplog.text == ""


def test_a_message_that_a_project_protects_stops_no_relay(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any, **options: Any) -> list[str]:
        scene.steps += 1
        raise IntegrityError("a foreign key says no")

    monkeypatch.setattr(purging, "delete_batch", refuse)
    make_old(1)
    assert scene.turn() == 1
    assert "Next attempt in one hour. IntegrityError: a foreign key says no" in caplog.text
    assert scene.turn(after=3599) == 1
    assert scene.turn(after=2) == 2


def test_a_lost_connection_is_the_relays_own_trouble(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: Any, **options: Any) -> list[str]:
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(purging, "delete_batch", lost)
    monkeypatch.setattr(database_errors, "is_connected", lambda using: False)
    make_old(1)
    with pytest.raises(DatabaseError, match="server closed"):
        scene.turn()


def test_a_machine_that_slept_in_a_step_does_not_rest_for_days(scene: Scene) -> None:
    make_old(10)
    scene.took = 3600.0
    assert scene.turn() == 1
    assert scene.turn(after=background.BETWEEN_WALKS_SECONDS) == 2


# In the relay


def run(
    pipeline: Pipeline, turns: int, *, drain: bool = False, rest: float = math.inf, poll_interval: float = 0.001
) -> list[tuple[bool, bool]]:
    """Let the relay's loop turn; returns what it told its background each time: is it busy, is it behind?"""
    told: list[tuple[bool, bool]] = []
    stop = Stop()

    def turn(busy: bool, behind: bool) -> float:
        told.append((busy, behind))
        if len(told) == turns:
            stop.request()
        return rest

    pipeline.relay.background = turn
    pipeline.relay.poll_interval = poll_interval
    pipeline.relay.run(stop, drain=drain)
    stop.close()
    return told


def test_the_relay_lets_its_background_work_between_batches_and_says_how_busy_it_is() -> None:
    messages = [make_message() for _ in range(3)]
    pipeline = Pipeline()
    pipeline.relay.batch_size = 2
    full, partial, none = (True, True), (True, False), (False, False)
    assert run(pipeline, 3) == [full, partial, none]
    assert {row(message).status for message in messages} == {"published"}


def counted_passes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each pass of the relay."""
    passes: list[int] = []
    run_once = pipeline.relay.run_once
    monkeypatch.setattr(pipeline.relay, "run_once", lambda: passes.append(1) or run_once())
    return passes


def test_the_background_works_while_the_relay_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    make_message()
    pipeline = Pipeline()
    passes = counted_passes(pipeline, monkeypatch)
    busy, idle = (True, False), (False, False)
    assert run(pipeline, 5, rest=0.001, poll_interval=3600) == [busy, *[idle] * 4]
    assert len(passes) == 2


def test_a_background_that_rests_longer_waits_for_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline()
    waits: list[float] = []
    monkeypatch.setattr(pipeline.relay.listener, "wait", lambda stop, seconds: waits.append(seconds))
    assert run(pipeline, 3, rest=3600) == [(False, False)] * 3
    assert waits == [0.001] * 3


def test_a_notification_comes_before_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline()
    passes = counted_passes(pipeline, monkeypatch)
    monkeypatch.setattr(pipeline.relay.listener, "wait", lambda stop, seconds: True)
    assert run(pipeline, 3, rest=0.001, poll_interval=3600) == [(False, False)] * 3
    assert len(passes) == 3


def test_a_drain_has_no_background() -> None:
    make_message()
    assert run(Pipeline(), 1, drain=True) == []


def test_the_setting_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from django_outbox.management.commands import outbox_relay

    backgrounds: list[Any] = []
    monkeypatch.setattr(outbox_relay.Relay, "run", lambda self, stop, drain: backgrounds.append(self.background))
    from django.core.management import call_command

    call_command("outbox_relay", "--drain")
    with outbox_settings(PURGE=False):
        call_command("outbox_relay", "--drain")
    assert [each is None for each in backgrounds] == [False, True]
