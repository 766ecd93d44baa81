"""Lanes: no interleaving runs two messages of a key at once, or commits past a record that is not finished."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.consumer.keyed_queue import KeyedQueue
from django_outbox.consumer.line import Queued
from django_outbox.consumer.offsets import OffsetTracker
from django_outbox.handlers.handler import Handler, Handlers
from tests.support.processes import wait_until
from tests.support.properties import examples
from tests.support.threads import waits

LANES = 3
PARTITIONS = (0, 1)


def queued(partition: int, offset: int, key: str | None = None, kind: str = "own", *, alone: bool = False) -> Queued:  # type: ignore[type-arg]
    record = ReceivedRecord("orders", partition, offset, None, None)
    return Queued(record, key, kind, TopicPartition("orders", partition), guarded=alone, alone=alone)


def offsets(batch: list[Queued]) -> list[int]:  # type: ignore[type-arg]
    return [each.item.offset for each in batch]


@examples(500)
class Lanes(RuleBasedStateMachine):
    """Lanes as they take, finish, fail and give back, and partitions as they come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyedQueue[ReceivedRecord] = KeyedQueue(LANES)
        self.offsets = OffsetTracker()
        self.batches: dict[int, list[Queued[ReceivedRecord]]] = {}
        self.end_of_log = dict.fromkeys(PARTITIONS, 0)
        self.position = dict.fromkeys(PARTITIONS, 0)
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.assigned: set[int] = set()
        self.keys: dict[tuple[int, int], str | None] = {}
        self.now = 0.0
        self.finished: set[tuple[int, int]] = set()
        """Records of which some delivery was finished."""

    @rule(partition=st.sampled_from(PARTITIONS))
    def assign(self, partition: int) -> None:
        if partition not in self.assigned:
            self.assigned.add(partition)
            self.position[partition] = self.committed[partition]

    @rule(partition=st.sampled_from(PARTITIONS))
    def revoke(self, partition: int) -> None:
        self.assigned.discard(partition)
        self.queue.drop(lambda queued: queued.group.partition == partition)
        self.offsets.drop({TopicPartition("orders", partition)})

    @precondition(lambda self: self.assigned)
    @rule(
        data=st.data(),
        keys=st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=6),
        kind=st.sampled_from(["own", "foreign"]),
        alone=st.booleans(),
    )
    def read(self, data: st.DataObject, keys: list[str | None], kind: str, alone: bool) -> None:
        """Some records, those first that were read before by someone else."""
        partition = data.draw(st.sampled_from(sorted(self.assigned)))
        new = []
        for key in keys:
            offset = self.position[partition]
            if offset == self.end_of_log[partition]:
                # As the partitioner does: the same key, the same partition.
                self.keys[partition, offset] = None if key is None else f"{key}{partition}"
                self.end_of_log[partition] += 1
            self.position[partition] += 1
            new.append(queued(partition, offset, self.keys[partition, offset], kind, alone=alone))
        for each in new:
            self.offsets.add(each.item)
        self.queue.put(new)

    @rule(lane=st.integers(0, LANES - 1), limit=st.integers(1, 5))
    def take(self, lane: int, limit: int) -> None:
        if lane not in self.batches and (batch := self.queue.take(limit, timeout=0)):
            self.batches[lane] = batch
            assert len({each.kind for each in batch}) == 1

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A lane finishes some of its batch, all of it, or nothing: the transaction was rolled back."""
        lane = data.draw(st.sampled_from(sorted(self.batches)))
        batch = self.batches.pop(lane)
        count = data.draw(st.integers(0, len(batch)))
        parked = data.draw(st.sets(st.integers(0, max(count - 1, 0)))) if count else set()
        keys = {batch[place].key for place in parked}  # what is behind one that waits, waits with it
        parked = {place for place in range(count) if batch[place].key in keys}
        done = [each for place, each in enumerate(batch[:count]) if place not in parked]
        self.finished |= {(each.item.partition, each.item.offset) for each in done}
        self.queue.end(batch, count, dict.fromkeys(parked, self.now + 1))
        for each in done:
            self.offsets.finish(each.item)

    @rule()
    def pass_time(self) -> None:
        self.now += 1
        self.queue.wake(self.now)

    @rule()
    def commit(self) -> None:
        for partition, offset in self.offsets.take().items():
            assert partition.partition in self.assigned
            self.committed[partition.partition] = offset

    @invariant()
    def nothing_is_committed_before_it_is_finished(self) -> None:
        for partition, offset in self.committed.items():
            assert {(partition, before) for before in range(offset)} <= self.finished

    @invariant()
    def a_key_is_in_one_lane_at_most(self) -> None:
        keys = [key for batch in self.batches.values() for key in {each.key for each in batch}]
        assert len(keys) == len(set(keys))

    @invariant()
    def records_of_a_key_keep_their_order(self) -> None:
        for batch in self.batches.values():
            numbers = [each.number for each in batch]
            assert numbers == sorted(numbers)

    @invariant()
    def what_is_to_be_handled_alone_is_alone(self) -> None:
        taken = [each for batch in self.batches.values() for each in batch]
        assert len(taken) == 1 or not any(each.alone for each in taken)

    def teardown(self) -> None:
        """In the end, everything that was read is finished, in order, and committed."""
        for batch in self.batches.values():
            self.queue.end(batch, 0)
        self.queue.wake(float("inf"))
        last: dict[object, int] = {}
        while batch := self.queue.take(3, timeout=0):
            for each in batch:
                assert last.get(each.key, -1) < each.number
                last[each.key] = each.number
            self.finished |= {(each.item.partition, each.item.offset) for each in batch}
            self.queue.end(batch, len(batch))
            for each in batch:
                self.offsets.finish(each.item)
        assert not len(self.queue)
        self.commit()
        self.nothing_is_committed_before_it_is_finished()
        for partition in self.assigned:
            assert self.committed[partition] == self.position[partition]


TestLanes = Lanes.TestCase


def test_one_lane_takes_everything_in_the_order_of_arrival() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(1)
    queue.put(queued(0, offset, key) for offset, key in enumerate(["a", "b", "a", None, "b"]))
    assert offsets(queue.take(10)) == [0, 1, 2, 3, 4]


def test_lanes_share_what_there_is() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(4)
    queue.put(queued(0, offset) for offset in range(8))
    assert [offsets(queue.take(100)) for _ in range(4)] == [[0, 1], [2, 3], [4], [5]]


def test_a_lane_takes_a_whole_batch_and_of_others_its_share() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(4)
    items = [queued(0, offset) for offset in range(12)]
    for each in items[:6]:
        each.event, each.handlers = "paid", Handlers([Handler("paid", print, None, None, batch=5)])
    queue.put(items)
    assert [offsets(queue.take(100)) for _ in range(3)] == [[0, 1, 2, 3, 4], [5, 6], [7, 8]]


def test_a_key_waits_for_the_lane_that_has_it_and_others_pass() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(2)
    queue.put(queued(0, offset, key) for offset, key in enumerate(["a", "a", "b"]))
    first = queue.take(1)
    assert offsets(first) == [0]
    second = queue.take(5)
    assert offsets(second) == [2]
    assert queue.take(5, timeout=0) == []
    queue.end(first, 1)
    assert offsets(queue.take(5)) == [1]


def test_what_failed_is_taken_again_before_what_came_later() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(1)
    queue.put(queued(0, offset, "a") for offset in range(3))
    batch = queue.take(2)
    queue.end(batch, 1)
    assert offsets(queue.take(5)) == [1, 2]


def test_lanes_that_wait_are_woken_by_items_and_at_the_end() -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(2)
    taken: list[list[int]] = []
    for items in ([queued(0, 0), queued(0, 1)], []):
        threads = [threading.Thread(target=lambda: taken.append(offsets(queue.take(1)))) for _ in range(2)]
        for thread in threads:
            thread.start()
        if items:
            queue.put(items)
        else:
            queue.close()
        for thread in threads:
            thread.join(60)
    assert sorted(taken) == [[], [], [0], [1]]


def drop_the_first(queue: KeyedQueue[ReceivedRecord]) -> None:
    queue.drop(lambda each: each.group.partition == 1)


def put_one_before_the_first(queue: KeyedQueue[ReceivedRecord]) -> None:
    before = queued(0, 3, "first")
    before.rank = 1
    queue.put([before])


@pytest.mark.parametrize(("change", "ready"), [(drop_the_first, [1, 2]), (put_one_before_the_first, [1, 2, 3])])
def test_lanes_that_wait_are_woken_when_an_item_to_be_handled_alone_no_longer_comes_first(
    change: Callable[[KeyedQueue[ReceivedRecord]], None], ready: list[int]
) -> None:
    queue: KeyedQueue[ReceivedRecord] = KeyedQueue(4)
    queue.put([queued(0, 0)])
    queue.take(1)  # a lane is busy all the time, so nothing else begins before the item that is to be handled alone
    first = queued(1, 0, "first", alone=True)
    first.rank = 2
    queue.put([first, queued(0, 1), queued(0, 2)])
    taken: list[int] = []
    lanes = [threading.Thread(target=lambda: taken.extend(offsets(queue.take(1))), daemon=True) for _ in ready]
    for lane in lanes:
        lane.start()
    wait_until(lambda: all(waits(lane) for lane in lanes))

    change(queue)

    wait_until(lambda: sorted(taken) == ready)


def test_offsets_that_go_back_begin_again() -> None:
    """The topic was recreated, or the group's offset was set back."""
    tracker = OffsetTracker()
    place = TopicPartition("orders", 0)
    records = [queued(0, offset).item for offset in range(5, 8)]
    for record in records:
        tracker.add(record)
    tracker.finish(records[0])
    assert tracker.take() == {place: 6}
    for record in [queued(0, offset).item for offset in range(3)]:
        tracker.add(record)
        tracker.finish(record)
    assert tracker.take() == {place: 3}
    assert tracker.first_unfinished(place) is None
