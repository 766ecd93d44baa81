"""The loop of the relay: what it does between two passes, how long it waits, and what it is told to do with faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from django_outbox.conf import settings as outbox
from django_outbox.relay import relay as module
from django_outbox.relay.relay import Relay
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import make_message, memory_broker, statuses

pytestmark = pytest.mark.django_db


class Loop:
    """A relay that waits for a second after a pass, by a clock that moves with each wait; it is stopped after some.

    Attributes:
        waits: how long it wanted to wait each time.
        passes: for each, whether the relay was idle before it.
    """

    def __init__(self, clock: Clock, stop: Stop, *, waits: int) -> None:
        self.relay = Relay(memory_broker(), using="default", poll_interval=1.0, clock=clock)
        self.waits: list[float] = []
        self.passes: list[bool] = []
        self.is_notified = False
        run_once = self.relay.run_once

        def counted() -> Any:
            self.passes.append(self.relay.is_idle)
            return run_once()

        def wait(stop: Stop, seconds: float) -> bool:
            self.waits.append(seconds)
            clock.now += seconds
            if len(self.waits) >= waits:
                stop.request()
            return self.is_notified

        self.relay.run_once = counted  # type: ignore[method-assign]
        self.relay.listener.wait = wait  # type: ignore[method-assign]
        self._stop = stop

    def run(self, **options: Any) -> None:
        self.relay.run(self._stop, **options)


def resting(seconds: float, calls: list[tuple[bool, bool]]) -> Callable[[bool, bool], float]:
    """A background that always rests for this long."""

    def background(busy: bool, behind: bool) -> float:
        calls.append((busy, behind))
        return seconds

    return background


@pytest.mark.parametrize(
    ("rest", "waits"),
    [
        (0.375, [0.375, 0.375, 0.25, 0.375]),
        (1.0, [1.0] * 4),
        (math.inf, [1.0] * 4),
    ],
)
def test_the_background_divides_a_wait_and_does_not_make_it_longer(
    clock: Clock, stop: Stop, rest: float, waits: list[float]
) -> None:
    loop = Loop(clock, stop, waits=4)
    calls: list[tuple[bool, bool]] = []
    loop.relay.background = resting(rest, calls)
    loop.run()
    assert loop.waits == waits
    assert len(loop.passes) == (2 if rest < 1 else 4)
    assert len(calls) == 4


def test_a_background_that_takes_longer_than_the_wait_ends_it(clock: Clock, stop: Stop) -> None:
    loop = Loop(clock, stop, waits=3)

    def background(busy: bool, behind: bool) -> float:
        clock.now += 2
        return 0.5

    loop.relay.background = background
    loop.run()
    assert loop.waits == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("is_notified", [False, True])
def test_after_a_notification_the_relay_claims_without_a_look_before(
    clock: Clock, stop: Stop, is_notified: bool
) -> None:
    loop = Loop(clock, stop, waits=3)
    loop.is_notified = is_notified
    make_message()
    loop.run()
    assert loop.passes == [False, not is_notified, not is_notified]


def test_a_drain_ends_without_a_rest_once_nothing_is_due(clock: Clock, stop: Stop) -> None:
    make_message()
    loop = Loop(clock, stop, waits=3)
    loop.run(drain=True)
    assert (loop.waits, statuses(), stop.requested) == ([0.0], ["published"], False)


@pytest.mark.parametrize(("drain", "opened"), [(False, 3), (True, 0)], ids=["run", "drain"])
def test_only_a_relay_that_goes_on_listens(clock: Clock, stop: Stop, drain: bool, opened: int) -> None:
    loop = Loop(clock, stop, waits=3)
    calls: list[None] = []
    loop.relay.listener.open_if_due = lambda: calls.append(None)  # type: ignore[method-assign]
    loop.run(drain=drain)
    assert len(calls) == opened


def test_the_listener_goes_by_the_clock_of_its_relay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "Listener", lambda *args: made.append(args))
    Relay(memory_broker(), using="default", clock=clock)
    assert made == [("default", clock)]


def test_the_heartbeat_hears_what_was_published(clock: Clock, stop: Stop) -> None:
    for _ in range(3):
        make_message()
    loop = Loop(clock, stop, waits=1)
    loop.run()
    assert loop.relay.worker_state.take_counts() == {"published": 3}


@pytest.mark.parametrize("drain", [False, True], ids=["run", "drain"])
def test_faults_are_waited_out_for_ever_except_by_a_drain(
    clock: Clock, stop: Stop, monkeypatch: pytest.MonkeyPatch, drain: bool
) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(module, "run_through_faults", lambda stop, step, **options: heard.update(options))
    relay = Relay(memory_broker(), using="default", clock=clock)
    relay.using = "archive"
    relay.run(stop, drain=drain)
    assert heard["patience"] == (outbox.publish_timeout if drain else None)
    assert (heard["using"], heard["clock"]) == ("archive", clock)


def test_what_was_repeated_is_told_at_the_end_at_the_latest(
    clock: Clock, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, bool]] = []
    monkeypatch.setattr(module, "repeats", type("Repeats", (), {"sum_up": lambda **options: calls.append(options)}))
    Loop(clock, stop, waits=2).run()
    assert calls == [{}, {}, {"now": True}]
