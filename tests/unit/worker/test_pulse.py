"""The pulse: what a worker says of itself, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_outbox.relay.relay import Relay
from django_outbox.worker.state import Pulse
from tests.support.clock import Clock
from tests.support.outbox import memory_broker


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


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("relay", "the database or the broker is slow. Check both, "),
        ("consumer", "a handler is slow or hangs. Restart the consumer "),
    ],
)
def test_a_loop_that_stands_still_is_in_trouble_and_says_what_to_do(kind: str, advice: str, clock: Clock) -> None:
    pulse = Pulse(kind, clock)
    pulse.step()
    clock.now += 59
    assert pulse.now() == ("working", "")
    clock.now += 16
    state, trouble = pulse.now()
    assert state == "trouble"
    assert trouble.startswith(f"Busy with one transaction for 75 s: {advice}")
    pulse.step()
    assert pulse.now() == ("working", "")


def test_a_batch_that_takes_long_as_it_is_many_messages_is_no_trouble(pulse: Pulse, clock: Clock) -> None:
    pulse.step()
    for _ in range(100):
        clock.now += 2
        pulse.turn()
    assert pulse.now() == ("working", "")


def test_a_relay_that_waits_as_long_as_it_was_told_to_is_not_in_trouble(clock: Clock) -> None:
    relay = Relay(memory_broker(), using="default", poll_interval=300, clock=clock)
    relay.pulse.step()
    clock.now += 300
    assert relay.pulse.now() == ("working", "")
    clock.now += 100
    assert relay.pulse.now()[0] == "trouble"
