"""The order of one key in the queue, where some items are ranked and others count as they arrive."""

from __future__ import annotations

from collections import deque

from django_outbox.consumer.keyed_queue import KeyedQueue
from django_outbox.consumer.line import Line, Queued


def debezium(rank: int) -> Queued[str]:
    return Queued(f"D{rank}", "key", "own", 0, rank=rank, by_arrival=True)


def relay(rank: int, awaits: int | None = None) -> Queued[str]:
    """It has waited if ``awaits`` is given."""
    return Queued(f"R{rank}", "key", "own", 0, rank=rank, by_arrival=awaits is None, awaits=awaits)


def order(line: Line[str]) -> list[str]:
    return [each.item for each in line.items]


def line(*items: Queued[str]) -> Line[str]:
    return Line("key", deque(items))


def test_what_one_that_waits_comes_after_stays_in_the_order_of_arrival() -> None:
    waiting = line(relay(5, awaits=4))
    for rank in (4, 3, 6):
        waiting.insert(debezium(rank))
    assert order(waiting) == ["D4", "D3", "R5", "D6"]


def test_the_one_that_it_waits_for_passes_no_other_that_it_comes_after() -> None:
    waiting = line(relay(5, awaits=4), debezium(3), debezium(6), debezium(4))
    waiting.advance()
    assert order(waiting) == ["D3", "D4", "R5", "D6"]


def test_one_that_counts_as_it_arrived_lets_only_the_one_pass_that_it_waits_for() -> None:
    first = debezium(4)
    first.awaits = 1
    waiting = line(first, debezium(2), relay(1), Queued("foreign", "key", "foreign", 0))
    waiting.advance()
    assert order(waiting) == ["R1", "D4", "D2", "foreign"]
    waiting.insert(debezium(3))
    assert order(waiting) == ["R1", "D4", "D2", "foreign", "D3"]


def test_what_came_while_a_lane_had_the_key_goes_behind_what_a_message_waits_for() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([relay(5), debezium(3)])
    batch = [*queue.take(1, timeout=0), *queue.take(1, timeout=0)]
    assert [each.item for each in batch] == ["R5"]
    queue.put([debezium(4)])
    batch[0].awaits, batch[0].by_arrival = 4, False
    queue.end(batch, finished=1, parked={0: 10.0})
    assert [each.item for _ in range(3) for each in _handled(queue)] == ["D3", "D4", "R5"]


def _handled(queue: KeyedQueue[str]) -> list[Queued[str]]:
    batch = queue.take(1, timeout=0)
    queue.end(batch, finished=len(batch))
    return batch


def test_the_one_that_a_message_waits_for_comes_before_it_also_where_both_count_as_they_arrive() -> None:
    first = debezium(4)
    first.awaits = 1
    waiting = line(first)
    waiting.insert(relay(1))
    assert order(waiting) == ["R1", "D4"]


def test_what_is_sent_again_has_its_place_by_rank_and_comes_after_its_like() -> None:
    waiting = line()
    for item, rank in [("one", 1), ("three", 3), ("five", 5), ("four", 4), ("three again", 3)]:
        waiting.insert(Queued(item, "key", "own", 0, rank=rank))
    assert order(waiting) == ["one", "three", "three again", "four", "five"]


def test_what_a_lane_gives_back_keeps_the_order_of_arrival_before_one_that_waits() -> None:
    queue: KeyedQueue[str] = KeyedQueue(1)
    queue.put([relay(5), debezium(4)])
    batch = queue.take(2, timeout=0)
    assert [each.item for each in batch] == ["R5", "D4"]
    queue.put([debezium(3)])
    batch[0].awaits, batch[0].by_arrival = 4, False
    queue.end(batch, finished=1, parked={0: 10.0})
    assert [each.item for _ in range(3) for each in _handled(queue)] == ["D4", "D3", "R5"]
