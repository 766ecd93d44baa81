"""The state of a worker: its transitions, and when it is in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import translation

from django_outbox.models.lengths import TROUBLE_LENGTH
from django_outbox.relay.relay import Relay
from django_outbox.worker.state import WorkerState
from tests.support.clock import Clock
from tests.support.outbox import memory_broker


def test_state_follows_what_the_loop_says(worker_state: WorkerState) -> None:
    assert worker_state.snapshot() == ("starting", "")
    worker_state.record_round()
    assert worker_state.snapshot() == ("working", "")
    worker_state.record_fault("The broker: nobody is there")
    assert worker_state.snapshot() == ("trouble", "The broker: nobody is there")
    worker_state.record_round(trouble="outbox: it does not exist")
    assert worker_state.snapshot() == ("trouble", "outbox: it does not exist")
    worker_state.record_round()
    assert worker_state.snapshot() == ("working", "")
    worker_state.set_stopping()
    worker_state.record_round()
    assert worker_state.snapshot() == ("stopping", "")


@pytest.mark.parametrize("language", ["en", "zh-hans"])  # Django cuts texts in other ways there
def test_a_long_list_of_topics_is_cut_so_that_readers_notice(language: str, clock: Clock) -> None:
    with translation.override(language):
        state = WorkerState("consumer", clock, topics=[f"topic-{number}" for number in range(1000)])
    assert state.topics.endswith("…")


def test_only_a_change_of_state_is_told_at_once(worker_state: WorkerState) -> None:
    def is_told(say: Callable[[], Any]) -> bool:
        worker_state.changed.clear()
        say()
        return worker_state.changed.is_set()

    assert is_told(worker_state.record_round)
    assert not is_told(worker_state.record_round)
    assert is_told(lambda: worker_state.record_fault("away"))
    assert not is_told(lambda: worker_state.record_fault("away for 2 s"))
    assert is_told(worker_state.record_round)
    assert is_told(worker_state.set_stopping)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("relay", "the database or the broker is slow. Check both, "),
        ("consumer", "a handler is slow or hangs. Restart the consumer "),
    ],
)
def test_a_loop_that_stands_still_is_in_trouble_and_says_what_to_do(kind: str, advice: str, clock: Clock) -> None:
    worker_state = WorkerState(kind, clock)
    worker_state.record_round()
    clock.now += 59
    assert worker_state.snapshot() == ("working", "")
    clock.now += 16
    state, trouble = worker_state.snapshot()
    assert state == "trouble"
    assert trouble.startswith(f"Busy with one transaction for 75 s: {advice}")
    worker_state.record_round()
    assert worker_state.snapshot() == ("working", "")


def test_what_lanes_handle_is_summed_up_with_the_oldest(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=4)
    assert state.busy == (0, 0, None, "")
    with state.handling(2, "orders: 42", 3):
        clock.now += 5
        with state.handling(1, "orders: 7", 10):
            clock.now += 1
            assert state.busy == (2, 13, 6.0, "orders: 42")
    assert state.busy == (0, 0, None, "")


def test_of_several_lanes_those_that_hang_are_counted_and_the_key_named(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=16)
    state.record_round()
    with state.handling(5, "orders: 42", 1):
        clock.now += 5
        with state.handling(3, "orders: 7", 1):
            clock.now += 30
            with state.handling(4, "orders: 8", 1):
                clock.now += 40
                state.record_round()
                _, trouble = state.snapshot()
    assert trouble.startswith("Busy with one transaction for 75 s in 2 of 16 lanes ('orders: 42'): a handler is slow")


def test_a_lane_that_hangs_with_a_message_without_a_key_is_told(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=16)
    state.record_round()
    with state.handling(5, "", 1):
        clock.now += 75
        assert state.snapshot()[1].startswith("Busy with one transaction for 75 s in 1 of 16 lanes: a handler")


def test_one_lane_needs_no_name(clock: Clock) -> None:
    state = WorkerState("consumer", clock)
    state.record_round()
    with state.handling(1, "orders: 42", 1):
        clock.now += 75
        assert state.snapshot()[1].startswith("Busy with one transaction for 75 s: a handler")


def test_foreign_keys_cannot_forge_lines_or_hide_the_advice(clock: Clock) -> None:
    state = WorkerState("consumer", clock, lanes=2)
    state.record_round()
    with state.handling(1, "orders: \0\n\x1b[2J" + "\x1b" * 100_000, 1):
        clock.now += 75
        _, trouble = state.snapshot()
    assert trouble.isprintable()
    assert "a handler is slow or hangs" in trouble
    assert len(trouble) <= TROUBLE_LENGTH


def test_a_batch_that_takes_long_as_it_is_many_messages_is_no_trouble(worker_state: WorkerState, clock: Clock) -> None:
    worker_state.record_round()
    for _ in range(100):
        clock.now += 2
        worker_state.record_progress()
    assert worker_state.snapshot() == ("working", "")


def test_a_relay_that_waits_as_long_as_it_was_told_to_is_not_in_trouble(clock: Clock) -> None:
    relay = Relay(memory_broker(), using="default", poll_interval=300, clock=clock)
    relay.worker_state.record_round()
    clock.now += 300
    assert relay.worker_state.snapshot() == ("working", "")
    clock.now += 100
    assert relay.worker_state.snapshot()[0] == "trouble"
