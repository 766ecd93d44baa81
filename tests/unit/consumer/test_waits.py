"""Messages that wait in hand: how many, of which partitions, and for how long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.waits import HOLD_SECONDS, LONGEST_WAIT_SECONDS, LOOKS_A_SECOND, Waits
from tests.support.clock import Clock

PLACE, OTHER = TopicPartition("orders", 0), TopicPartition("orders", 1)
NOW = timedelta(0)


@pytest.fixture
def busy_switches() -> Iterator[None]:
    """Threads take turns after nearly every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def waits(most: int) -> tuple[Waits, Clock]:
    clock = Clock(1000.0)
    made = Waits(clock)
    made.most = most
    return made, clock


def test_only_so_many_wait_until_others_are_past_their_time() -> None:
    some, clock = waits(2)
    assert [some.may_wait(id, PLACE, NOW) for id in (1, 2, 3)] == [True, True, False]
    clock.now += HOLD_SECONDS + 1
    assert some.may_wait(3, PLACE, NOW)
    assert some.find(1).until == 0.0


def test_nobody_waits_before_it_is_said_how_many_may() -> None:
    assert not Waits(Clock(1000.0)).may_wait(1, PLACE, NOW)


def test_those_past_their_time_are_looked_for_once_a_second() -> None:
    some, clock = waits(1)
    assert some.may_wait(1, PLACE, NOW)
    clock.now += HOLD_SECONDS
    assert not some.may_wait(2, PLACE, NOW), "it is the last moment of the first"
    for seconds, expected in [(0.5, False), (0.5, True)]:
        clock.now += seconds
        assert some.may_wait(2, PLACE, NOW) is expected


def test_the_time_of_a_message_does_not_begin_anew_while_there_is_room() -> None:
    some, clock = waits(10)
    assert some.may_wait(1, PLACE, NOW)
    clock.now += HOLD_SECONDS + 1
    assert some.may_wait(2, PLACE, NOW)
    assert not some.may_wait(1, PLACE, NOW)


def test_a_message_waits_up_to_the_last_moment_and_is_not_placed_unless_that_is_said() -> None:
    some, clock = waits(10)
    assert some.may_wait(1, PLACE, NOW)
    assert not some.find(1).is_placed
    for _ in range(6):
        some.wait_on(1, PLACE)
    clock.now += HOLD_SECONDS - LONGEST_WAIT_SECONDS
    assert some.wait_on(1, PLACE) == clock.now + LONGEST_WAIT_SECONDS


def test_messages_of_a_refused_partition_do_not_wait_and_others_do() -> None:
    some, _ = waits(10)
    some.may_wait(1, PLACE, NOW)
    some.refused = {PLACE}
    assert not some.may_wait(1, PLACE, NOW)
    assert some.find(1).until == 0.0
    assert some.may_wait(2, OTHER, NOW)


def test_a_message_waits_on_for_the_same_one_longer_each_time_and_not_past_its_time() -> None:
    some, clock = waits(10)
    assert some.wait_on(1, PLACE) is None
    some.may_wait(1, PLACE, NOW, awaited=7, is_placed=True)

    until = [some.wait_on(1, PLACE) for _ in range(3)]
    assert until == [pytest.approx(clock.now + seconds) for seconds in (0.1, 0.2, 0.4)]
    assert (some.find(1).awaited, some.find(1).is_placed) == (7, True)

    some.refused = {PLACE}
    assert some.wait_on(1, PLACE) is None
    some.refused = ()
    clock.now += HOLD_SECONDS
    assert some.wait_on(1, PLACE) is None
    assert not some.may_wait(1, PLACE, NOW), "its time began anew"


def test_lanes_may_use_it_at_the_same_time(busy_switches: None) -> None:
    some = Waits(time.monotonic)
    some.most = 50
    errors: list[BaseException] = []

    def lane(number: int) -> None:
        try:
            for id in range(number, 4000, 4):
                some.may_wait(id % 400, PLACE, NOW)
                some.find(id % 400)
                some.end((id + 7) % 400)
        except BaseException as error:
            errors.append(error)

    lanes = [threading.Thread(target=lane, args=[number]) for number in range(4)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    assert errors == []


def test_of_many_messages_each_waits_longer_between_two_looks() -> None:
    some, clock = waits(2000)
    for id in range(1000):
        assert some.may_wait(id, PLACE, NOW)
    until = [some.wait_on(0, PLACE) for _ in range(8)]
    assert until[-1] == pytest.approx(clock.now + 1000 / LOOKS_A_SECOND)
