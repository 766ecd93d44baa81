"""Health: alive while the loop goes on, whatever is away; ready while both ends are there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from django_outbox.brokers.base import Producer
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.events.event import Event
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.observability.health import default_limit, heartbeat_file, liveness, outage_limit, readiness
from django_outbox.relay.relay import Relay
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, make_message, memory_broker
from tests.support.overrides import outbox_settings

# Alive


def test_alive_while_the_loop_turns_and_not_when_it_stands_still(worker_state: WorkerState, clock: Clock) -> None:
    assert liveness(worker_state, 60).ok, "it has just started"
    clock.now += 61
    assert not liveness(worker_state, 60).ok
    assert "no loop iteration for 61 s" in liveness(worker_state, 60).text
    worker_state.record_round()
    assert liveness(worker_state, 60).ok


def test_an_outage_is_no_standstill(worker_state: WorkerState, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 30
        worker_state.record_fault("The broker: away", is_broker=True)
        worker_state.record_fault("The database: away", is_broker=False)
        assert liveness(worker_state, 60).ok
    assert not readiness(worker_state).ok


def test_a_loop_that_rests_of_its_own_will_is_alive(worker_state: WorkerState, clock: Clock) -> None:
    clock.now += 650
    assert liveness(worker_state, 660).ok
    clock.now += 20
    assert not liveness(worker_state, 660).ok


@pytest.mark.parametrize(("timeout", "limit"), [(None, 300), (60, 300), (600, 630)])
def test_a_handler_may_take_as_long_as_its_timeout(timeout: float | None, limit: float) -> None:
    with outbox_settings(HANDLER_TIMEOUT=timeout):
        assert default_limit() == limit


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_a_batch_of_slow_handlers_is_alive_as_long_as_one_message_after_the_other_is_handled(
    steady: bool, clock: Clock
) -> None:
    pipeline = Pipeline(steady=steady, clock=clock)
    stills: list[float] = []

    def slow(event: Event) -> None:
        stills.append(pipeline.consumer.worker_state.seconds_without_progress)
        clock.now += 20

    pipeline.on("order.created", slow)
    for _ in range(10):
        make_message()
    pipeline.relay.run_once()
    for _ in range(4):  # one for each minute
        pipeline.consumer.run_once()

    assert len(stills) >= 10
    assert max(stills) <= 20


class Away(MemoryBroker):
    def producer(self, timeout: float) -> Producer:
        raise BrokerUnavailable("nobody is there")


@pytest.mark.django_db(transaction=True)
def test_a_relay_whose_broker_is_away_is_alive_and_not_ready(clock: Clock) -> None:
    relay = Relay(Away(memory_broker().settings), using="default", clock=clock)
    stop = PatientStop(clock, turns=20)

    relay.run(stop)
    stop.close()

    assert stop.waited > 60 * 5
    assert liveness(relay.worker_state, 60).ok
    assert readiness(relay.worker_state).text == "not ready: no connection to the broker"


@pytest.mark.django_db(transaction=True)
def test_the_shortest_limit_that_is_not_warned_of_lasts_from_one_slow_try_to_the_next(clock: Clock) -> None:
    stills: list[float] = []

    class SlowlyAway(Away):
        def producer(self, timeout: float) -> Producer:
            clock.now += timeout + 5  # as much as it may take to connect and to give that up
            stills.append(relay.worker_state.seconds_without_progress)
            return super().producer(timeout)

    relay = Relay(SlowlyAway(memory_broker().settings), using="default", clock=clock)
    stop = PatientStop(clock, turns=20)
    relay.run(stop)
    stop.close()

    assert len(stills) == 20
    assert 30 < max(stills) <= outage_limit() <= default_limit()


@pytest.mark.parametrize(("timeout", "least", "limit"), [(10, 90, 300), (60, 140, 300), (600, 680, 680)])
def test_a_batch_that_may_take_longer_needs_a_longer_limit(timeout: float, least: float, limit: float) -> None:
    with outbox_settings(PUBLISH_TIMEOUT=timeout):
        assert (outage_limit(), default_limit()) == (least, limit)


class PatientStop(Stop):
    """Waits by a clock of the test's, and requests the end after so many waits."""

    def __init__(self, clock: Clock, turns: int) -> None:
        super().__init__()
        self._clock = clock
        self._turns = turns
        self.waited = 0.0

    def wait(self, seconds: float | None, *others: Any) -> bool:
        self.waited += seconds or 0.0
        self._clock.now += seconds or 0.0
        self._turns -= 1
        if self._turns <= 0:
            self.request()
        return self.requested


# Ready


def test_ready_once_connected_and_until_told_to_end(worker_state: WorkerState) -> None:
    assert not readiness(worker_state).ok
    worker_state.record_round()
    assert readiness(worker_state) == (True, "ready: connected")
    worker_state.record_fault("The broker: away", is_broker=True)
    assert readiness(worker_state).text == "not ready: no connection to the broker"
    worker_state.record_round()
    worker_state.record_fault("The database: away", is_broker=False)
    assert readiness(worker_state).text == "not ready: no connection to the database"
    worker_state.record_round()
    assert readiness(worker_state).ok
    worker_state.set_stopping()
    assert readiness(worker_state) == (False, "not ready: shutting down")
    assert liveness(worker_state, 60).ok, "what ends is alive"


def test_a_topic_in_trouble_leaves_it_ready(worker_state: WorkerState) -> None:
    worker_state.record_round(trouble="orders: it does not exist")
    assert readiness(worker_state).ok


# The file


def test_the_file_is_touched_at_turns_once_a_second_at_most(
    tmp_path: Path, worker_state: WorkerState, clock: Clock
) -> None:
    path = tmp_path / "alive"

    def touched() -> bool:
        """Whether a turn touches it."""
        if path.exists():
            os.utime(path, (1, 1))
        worker_state.record_progress()
        return path.exists() and path.stat().st_mtime > 1

    with heartbeat_file(path, clock) as touch:
        worker_state.on_progress(touch)
        assert touched()
        assert not touched()
        clock.now += 1.1
        assert touched()
        clock.now += 1.1
        worker_state.record_round()
        worker_state.record_fault("The broker: away", is_broker=True)
        assert not touched(), "a step is a turn"
        clock.now += 1.1
        os.utime(path, (1, 1))
        worker_state.record_fault("The broker: away", is_broker=True)
        assert path.stat().st_mtime > 1, "and so is a fault that is waited out"


def test_the_file_is_there_from_the_start_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    with heartbeat_file(path):
        assert path.exists()
    assert not path.exists()


def test_a_file_that_cannot_be_touched_any_more_is_told_once_and_stops_nothing(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "alive"
    with heartbeat_file(path, clock) as touch:
        path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", full)
            for _ in range(5):
                clock.now += 2
                touch()
        assert len(caplog.messages) == 1
        assert f"The heartbeat file {tmp_path}/alive: No space left on device." in caplog.text
        clock.now += 2
        touch()
        assert path.exists()
