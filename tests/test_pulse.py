"""The pulse: what a worker says of itself, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_outbox.pulse import Pulse
from tests.clock import Clock


def test_state_follows_what_the_loop_says(pulse: Pulse) -> None:
    assert pulse.now() == ("starting", "")
    pulse.step()
    assert pulse.now() == ("working", "")
    pulse.trouble("The broker: nobody is there")
    assert pulse.now() == ("trouble", "The broker: nobody is there")
    pulse.step(trouble="outbox: it does not exist")
    assert pulse.now() == ("trouble", "outbox: it does not exist")
    pulse.step()
    assert pulse.now() == ("working", "")
    pulse.stopping()
    pulse.step()
    assert pulse.now() == ("stopping", "")


def test_only_a_change_of_state_is_told_at_once(pulse: Pulse) -> None:
    def is_told(say: Callable[[], Any]) -> bool:
        pulse.changed.clear()
        say()
        return pulse.changed.is_set()

    assert is_told(pulse.step)
    assert not is_told(pulse.step)
    assert is_told(lambda: pulse.trouble("away"))
    assert not is_told(lambda: pulse.trouble("away for 2 s"))
    assert is_told(pulse.step)
    assert is_told(pulse.stopping)


def test_a_loop_that_does_not_come_round_is_in_trouble(pulse: Pulse, clock: Clock) -> None:
    pulse.step()
    clock.now += 59
    assert pulse.now() == ("working", "")
    clock.now += 16
    assert pulse.now() == ("trouble", "Busy with one batch for 75 s: a handler is slow, or hangs.")
    pulse.step()
    assert pulse.now() == ("working", "")
