"""The threads of several lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer import lanes as lanes_module
from tests.support.clock import Clock
from tests.support.hand import Hand
from tests.support.inbox import received
from tests.support.processes import wait_until


@pytest.fixture
def hand(clock: Clock) -> Iterator[Hand]:
    hand = Hand(clock, lanes=2)
    yield hand
    hand.lanes.close()


def test_threads_of_lanes_have_names_and_keep_no_process_alive(hand: Hand) -> None:
    seen: list[threading.Thread] = []
    hand.on_handle = lambda names: seen.append(threading.current_thread())
    hand.add(received())
    hand.work()
    wait_until(lambda: seen)
    assert seen[0].name in {"outbox-lane-1", "outbox-lane-2"}
    assert seen[0].daemon
    hand.lanes.close()
    assert not seen[0].is_alive()


def test_a_fault_in_a_thread_is_raised_by_the_next_call_and_nothing_is_lost(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = OperationalError("the server is read-only")
    asked: list[Any] = []
    monkeypatch.setattr(lanes_module, "drop_broken_connections", asked.append)

    def fail(names: list[Any]) -> None:
        raise fault

    hand.on_handle = fail
    hand.add(received(offset=0))
    hand.work()
    wait_until(lambda: asked)
    assert asked == [fault], "it says which connections are of no use"
    with pytest.raises(OperationalError, match="read-only"):
        hand.work()

    hand.on_handle = lambda names: None
    hand.work()
    wait_until(lambda: not len(hand.lanes))
    assert hand.lanes.take_offsets() == {TopicPartition("elsewhere", 0): 1}
