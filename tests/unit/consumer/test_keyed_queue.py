"""The queue of the lanes: what is dropped while a lane has it."""

from __future__ import annotations

from django_outbox.consumer.keyed_queue import KeyedQueue, Queued


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
