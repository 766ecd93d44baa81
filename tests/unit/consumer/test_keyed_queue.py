"""The queue of the lanes: what they get, when, and what is dropped while a lane has it."""

from __future__ import annotations

import threading

import pytest

from django_outbox.consumer.keyed_queue import KeyedQueue, Queued
from tests.support.processes import wait_until
from tests.support.threads import soon, waits


def queued(item: str, partition: int, key: str | None = None) -> Queued[str]:
    return Queued(item, key, "own", partition, size=10)


def items(batch: list[Queued[str]]) -> list[str]:
    return [each.item for each in batch]


def test_what_is_dropped_while_a_lane_has_it_is_not_given_out_again() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("lost", 0, "a"), queued("kept", 1, "b")])
    batch = queue.take(2, timeout=0)
    assert items(batch) == ["lost", "kept"]

    queue.drop(lambda each: each.group == 0)  # the partition is lost
    queue.end(batch, finished=0)  # the lane's transaction has failed

    assert (len(queue), queue.bytes) == (1, 10)
    assert items(queue.take(2, timeout=0)) == ["kept"]


def test_lines_whose_time_has_come_may_wait_on() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("first", 0, "a"), queued("behind it", 0, "a"), queued("other", 0, "b"), queued("later", 0, "c")])
    batch = queue.take(4, timeout=0)
    queue.end(batch, finished=4, parked={0: 5.0, 2: 6.0, 3: 7.0})

    first, other = sorted(queue.overdue(6.0), key=lambda each: each.number)
    assert items([first, other]) == ["first", "other"]
    queue.postpone({first.number: 8.0})
    queue.wake(6.0)

    assert items(queue.take(4, timeout=0)) == ["other"]
    assert items(queue.overdue(7.0)) == ["later"]


def test_the_size_is_that_of_what_waits_and_of_what_lanes_have() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0), queued("b", 1), queued("c", 1)])
    assert (len(queue), queue.bytes) == (3, 30)
    batch = queue.take(1, timeout=0)
    assert (len(queue), queue.bytes) == (3, 30)
    queue.end(batch, finished=1)
    assert (len(queue), queue.bytes) == (2, 20)
    queue.drop(lambda each: each.group == 1)
    assert (len(queue), queue.bytes) == (0, 0)


def test_what_is_dropped_is_no_longer_counted_whether_it_waits_or_not() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0, "k"), queued("b", 1, "k"), queued("c", 1), queued("d", 0), queued("e", 1)])
    first, second = queue.take(1, timeout=0), queue.take(1, timeout=0)
    assert (items(first), items(second)) == (["a"], ["c"])
    queue.drop(lambda each: each.group == 1)
    assert (len(queue), queue.bytes) == (2, 20)
    assert sorted(each.item for each in queue.items) == ["a", "d"]
    queue.end(second, finished=0)
    queue.end(first, finished=1)
    assert (items(queue.take(5, timeout=0)), len(queue)) == (["d"], 1)


def test_a_key_that_a_lane_has_is_not_given_to_another_even_if_all_behind_it_is_dropped() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0, "k"), queued("b", 1, "k")])
    batch = queue.take(1, timeout=0)
    queue.drop(lambda each: each.group == 1)
    queue.put([queued("c", 0, "k")])
    assert queue.take(1, timeout=0) == []
    queue.end(batch, finished=1)
    assert items(queue.take(1, timeout=0)) == ["c"]


def test_nothing_is_given_while_the_queue_is_held_or_closed() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("a", 0)])
    for stop in (queue.hold, queue.close):
        stop()
        assert queue.take(1, timeout=0) == []
        queue.release()
        batch = queue.take(1, timeout=0)
        assert items(batch) == ["a"]
        queue.end(batch, finished=0)


def test_a_lane_takes_its_share_of_what_need_not_wait() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0), queued("b", 0)])
    for _ in range(2):
        queue.end(queue.take(1, timeout=0), finished=1, parked={0: 5.0})
    queue.put([queued(name, 0) for name in "cdefg"])
    assert (queue.parked, items(queue.take(9, timeout=0))) == (2, ["c", "d", "e"])
    assert items(queue.take(9, timeout=0)) == ["f"]


def other(item: str, kind: str = "own", most: int | None = None, *, alone: bool = False) -> Queued[str]:
    return Queued(item, None, kind, 0, most=most, alone=alone)


@pytest.mark.parametrize(
    ("given", "batches"),
    [
        ([other("a"), other("b", "foreign"), other("c", "foreign")], [["a"], ["b", "c"]]),
        ([other("a", most=2), other("b", most=2), other("c", most=2)], [["a", "b"], ["c"]]),
        ([other("a"), other("b", most=2), other("c", most=2)], [["a"], ["b", "c"]]),
        ([other("a", alone=True), other("b"), other("c", alone=True)], [["a"], ["b"], ["c"]]),
    ],
)
def test_a_batch_has_items_of_one_kind_and_as_many_as_they_allow(
    given: list[Queued[str]], batches: list[list[str]]
) -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put(given)
    for expected in batches:
        batch = queue.take(9, timeout=0)
        assert items(batch) == expected
        queue.end(batch, finished=len(batch))


def test_while_an_item_is_handled_alone_no_lane_has_another() -> None:
    queue: KeyedQueue[str] = KeyedQueue(3)
    queue.put([other("a"), other("b"), other("alone", alone=True), other("c")])
    first, second = queue.take(1, timeout=0), queue.take(1, timeout=0)
    assert queue.take(1, timeout=0) == []
    queue.end(first, finished=1)
    assert queue.take(1, timeout=0) == [], "another lane is still at work"
    queue.end(second, finished=1)
    alone = queue.take(1, timeout=0)
    assert (items(alone), queue.take(1, timeout=0)) == (["alone"], [])
    queue.end(alone, finished=1)
    assert items(queue.take(1, timeout=0)) == ["c"]


def park(queue: KeyedQueue[str], given: list[Queued[str]], until: list[float]) -> None:
    queue.put(given)
    batch = queue.take(len(given), timeout=0)
    queue.end(batch, finished=len(batch), parked=dict(enumerate(until)))


def test_each_line_goes_on_at_its_own_time() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    park(queue, [queued(str(number), number) for number in range(20)], [float(number % 4) for number in range(20)])
    queue.wake(2.0)
    assert [int(item) % 4 for item in items(queue.take(20, timeout=0))].count(3) == 0
    assert queue.parked == 5


def test_lines_of_a_group_and_kind_go_on_early() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    park(queue, [Queued(str(number), None, "own", number % 2) for number in range(8)], [9.0] * 8)
    park(queue, [Queued(f"foreign {number}", None, "foreign", number % 2) for number in range(8)], [9.0] * 8)
    queue.wake(0.0, {1}, kind="own")
    assert items(queue.take(20, timeout=0)) == ["1", "3", "5", "7"]
    assert queue.parked_groups("own") == {0}
    assert queue.parked_groups("foreign") == {0, 1}


def test_items_are_counted_by_group_without_those_that_wait_for_their_time() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0, "k"), queued("b", 0), queued("c", 1), queued("d", 1), queued("e", 2)])
    taken = queue.take(1, timeout=0)
    queue.end(queue.take(1, timeout=0), finished=1, parked={0: 5.0})
    assert queue.count_by_group() == {0: 1, 1: 2, 2: 1}
    queue.end(taken, finished=1)
    assert queue.count_by_group() == {1: 2, 2: 1}


def test_what_is_dropped_from_the_middle_of_a_line_is_no_longer_counted() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("a", 0, "k"), queued("b", 1, "k"), queued("c", 0, "k")])
    queue.drop(lambda each: each.group == 1)
    assert (len(queue), items(queue.take(3, timeout=0))) == (2, ["a", "c"])


def test_what_waits_for_its_time_waits_on_while_others_are_dropped() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    park(queue, [queued("waiting", 0)], [5.0])
    queue.put([queued("lost", 1)])
    queue.drop(lambda each: each.group == 1)
    assert (queue.take(2, timeout=0), queue.parked) == ([], 1)
    queue.wake(5.0)
    assert items(queue.take(2, timeout=0)) == ["waiting"]


# Waiting


def test_a_lane_gets_at_once_what_is_there() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("a", 0)])
    assert items(soon(lambda: queue.take(1))) == ["a"]


def test_a_lane_waits_as_long_as_it_is_told() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    assert soon(lambda: queue.take(1, timeout=0)) == []
    assert soon(lambda: queue.take(1, timeout=0.001)) == []


def test_a_lane_that_waits_gets_what_comes() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    taken: list[str] = []
    lane = threading.Thread(target=lambda: taken.extend(items(queue.take(1))), daemon=True)
    lane.start()
    wait_until(lambda: waits(lane))
    queue.put([queued("a", 0)])
    wait_until(lambda: taken)
    assert taken == ["a"]


def test_a_lane_that_waits_gets_nothing_from_a_queue_that_is_closed() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.close()
    assert soon(lambda: queue.take(1)) == []


def test_nobody_waits_for_the_end_of_batches_that_there_are_not() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([queued("a", 0)])
    soon(queue.wait_until_ended)
    queue.take(1, timeout=0)
    soon(lambda: queue.wait_for_end(0))


def test_all_wait_until_the_last_batch_has_ended() -> None:
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.put([queued("a", 0), queued("b", 0)])
    first, last = queue.take(1, timeout=0), queue.take(1, timeout=0)
    waiting = [
        threading.Thread(target=wait, daemon=True)
        for wait in (queue.wait_until_ended, lambda: queue.wait_for_end(threading.TIMEOUT_MAX))
    ]
    for each in waiting:
        each.start()
    queue.end(first, finished=1)
    wait_until(lambda: all(waits(each) for each in waiting))
    queue.end(last, finished=1)
    wait_until(lambda: not any(each.is_alive() for each in waiting))
