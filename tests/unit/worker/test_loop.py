"""The loop of a worker: stop requests, waits, backoff, and log lines of faults."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from typing import Any

import pytest
from django.db import OperationalError

from django_outbox.exceptions import BrokerUnavailable
from django_outbox.worker.incident import RELAPSE_SECONDS, Incident, delay_of
from django_outbox.worker.loop import run_through_faults
from django_outbox.worker.stop import Stop, stop_on_signals
from tests.support.clock import Clock
from tests.support.processes import no_more_descriptors

log = logging.getLogger("django_outbox.test")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django_outbox.test")


@pytest.fixture(autouse=True)
def without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests with a database may have left connections in this process."""
    monkeypatch.setattr("django_outbox.worker.loop.drop_broken_connections", lambda error: None)


class PatientStop(Stop):
    """One whose waits pass on a clock of the test's own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []

    def wait(self, seconds: float | None) -> bool:
        assert seconds is not None
        self.waits.append(seconds)
        self.clock.now += seconds
        return self.requested


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patient(clock: Clock) -> Any:
    stop = PatientStop(clock)
    yield stop
    stop.close()


# Stop


def test_a_request_ends_a_wait_at_once(stop: Stop) -> None:
    threading.Timer(0.05, stop.request).start()

    assert stop.wait(None) is True

    assert stop.requested


def test_a_wait_ends_by_itself(stop: Stop) -> None:
    assert stop.wait(0.01) is False
    assert stop.wait(0) is False


def test_a_process_without_a_file_descriptor_left_can_wait(stop: Stop) -> None:
    with no_more_descriptors():
        assert stop.wait(0.01) is False
        threading.Timer(0.05, stop.request).start()
        assert stop.wait(None) is True


def test_a_request_may_be_made_again(stop: Stop) -> None:
    stop.request()
    stop.request()
    assert stop.wait(30) is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_the_stop_and_the_old_handler_comes_back(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)

    with stop_on_signals(log) as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(30) is True

    assert signal.getsignal(number) is before
    assert f"{number.name} received: finishing the work in hand." in caplog.text


def test_in_a_thread_there_is_a_stop_but_no_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with stop_on_signals(log) as stop:
            seen.extend([stop.requested, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)

    assert seen == [False, before]


# Backoff and trouble


def test_delays_double_up_to_thirty_seconds() -> None:
    assert [delay_of(failures, lambda: 0.0) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_delays_differ_between_processes() -> None:
    assert 0.4 <= delay_of(0) <= 0.5
    assert delay_of(0, lambda: 1.0) == 0.4


def test_trouble_is_told_when_it_starts_once_a_minute_and_when_it_ends(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    incident = Incident(log, "The broker", clock)
    for _ in range(130):
        incident.report("it is gone.")
        clock.now += 1
    assert incident.is_open
    assert incident.seconds == 130
    incident.resolve()
    incident.resolve()

    assert [record.getMessage() for record in caplog.records] == [
        "The broker: it is gone. Trying again until it works.",
        "The broker is still unavailable after 60 s: it is gone.",
        "The broker is still unavailable after 120 s: it is gone.",
        "The broker is available again after 130 s.",
    ]
    assert not incident.is_open


def test_trouble_that_is_back_at_once_was_never_over(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on with its backoff; and is over when it has stayed away for as long as it may take to come back."""
    incident = Incident(log, "The broker", clock)
    delays = []
    for _ in range(9):
        delays.append(incident.report("it is gone."))
        clock.now += delays[-1]
        incident.resolve()
        clock.now += 1
    assert delays[-1] > 20
    assert incident.seconds == clock.now
    first, over, again, *reminders = caplog.messages
    assert first == again == "The broker: it is gone. Trying again until it works."
    assert over.startswith("The broker is available again after ")
    assert [message[:26] for message in reminders] == ["The broker is still unavai"]

    incident.resolve()
    clock.now += RELAPSE_SECONDS + 1
    incident.resolve()
    assert caplog.messages[-1].startswith("The broker is available again after ")
    clock.now += RELAPSE_SECONDS + 1
    assert incident.report("it is gone.") < 1


def test_a_reason_without_a_full_stop_gets_one(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    Incident(log, "The database", clock).report(OperationalError("refused"))

    assert caplog.messages == ["The database: refused. Trying again until it works."]


# The loop


def test_the_loop_goes_on_through_faults_and_waits_between(
    patient: PatientStop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    script: list[Any] = [
        0.0,
        BrokerUnavailable("it is gone."),
        BrokerUnavailable("it is gone."),
        0.2,
        OperationalError("server closed\nthe connection"),
        0.0,
        None,
    ]

    def step() -> float | None:
        what = script.pop(0)
        if isinstance(what, Exception):
            raise what
        return what

    run_through_faults(patient, step, log=log, clock=clock)

    assert script == []
    assert [round(wait, 1) for wait in patient.waits] == pytest.approx([0.0, 0.5, 0.9, 0.2, 0.5, 0.0], abs=0.15)
    assert caplog.messages == [
        "The broker: it is gone. Trying again until it works.",
        "The broker is available again after 1 s.",
        "The database: server closed the connection. Trying again until it works.",
        "The database is available again after 0 s.",
    ]


def test_the_loop_never_spins_in_an_outage(patient: PatientStop, clock: Clock) -> None:
    steps = 0

    def step() -> float | None:
        nonlocal steps
        steps += 1
        if clock.now > 3600:
            patient.request()
        raise BrokerUnavailable("it is gone.")

    run_through_faults(patient, step, log=log, clock=clock)

    assert steps < 160  # an hour of waits near 30 s


def test_patience_ends(patient: PatientStop, clock: Clock) -> None:
    def step() -> float | None:
        raise BrokerUnavailable("it is gone.")

    with pytest.raises(BrokerUnavailable):
        run_through_faults(patient, step, log=log, clock=clock, patience=10)

    assert 10 <= clock.now < 20


def test_patience_ends_with_a_fault_that_comes_back_after_each_success(patient: PatientStop, clock: Clock) -> None:
    """As one that a consumer meets at its first poll after each join."""
    steps = itertools.count()

    def step() -> float | None:
        if next(steps) % 2:
            raise BrokerUnavailable("there is a record that cannot be read.")
        return 1.0

    with pytest.raises(BrokerUnavailable):
        run_through_faults(patient, step, log=log, clock=clock, patience=10)

    assert clock.now < 60


def test_the_loop_ends_when_asked_to(stop: Stop) -> None:
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        stop.request()
        return 30.0

    run_through_faults(stop, step, log=log)

    assert steps == [1]


def test_other_errors_are_not_hidden(stop: Stop) -> None:
    def step() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_through_faults(stop, step, log=log)
