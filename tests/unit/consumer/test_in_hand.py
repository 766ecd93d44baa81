"""What a consumer has in hand: how much it reads, what lanes get of it, and what it may commit."""

from __future__ import annotations

from datetime import timedelta

import pytest

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.consumer import in_hand
from django_outbox.consumer.in_hand import BUSY_POLL_SECONDS, DUE_GROUP, LEAST_WINDOW
from django_outbox.consumer.source import Outcome, RoundCounts
from tests.support.clock import Clock
from tests.support.hand import Hand, batches, own
from tests.support.inbox import received
from tests.support.overrides import outbox_settings

OWN, FOREIGN, OTHER = TopicPartition("outbox", 0), TopicPartition("elsewhere", 0), TopicPartition("elsewhere", 1)


@pytest.fixture
def hand(clock: Clock) -> Hand:
    return Hand(clock)


# How much is read


@pytest.mark.parametrize(("read_ahead", "window"), [(1, LEAST_WINDOW), (2000, 20_000)])
def test_ten_times_as_much_is_read_behind_an_unfinished_record(clock: Clock, read_ahead: int, window: int) -> None:
    assert Hand(clock, read_ahead=read_ahead).lanes.window == window


def test_one_lane_reads_when_it_has_nothing_to_do(hand: Hand) -> None:
    assert (hand.lanes.room, hand.lanes.poll_seconds(5.0)) == (100, 5.0)
    hand.add(received())
    assert (hand.lanes.room, hand.lanes.poll_seconds(5.0)) == (0, 0.0)


def test_stored_messages_do_not_keep_a_lane_from_reading(hand: Hand) -> None:
    hand.due = ["first"]
    assert hand.lanes.add_due(10)
    assert hand.lanes.room == 100


def test_several_lanes_read_when_there_is_room_for_an_eighth(clock: Clock) -> None:
    hand = Hand(clock, lanes=2, read_ahead=160)
    hand.add(*[received() for _ in range(139)])
    assert (hand.lanes.room, hand.lanes.poll_seconds(5.0)) == (20, BUSY_POLL_SECONDS)
    hand.add(received())
    assert hand.lanes.room == 20
    hand.add(received())
    assert hand.lanes.room == 0


@pytest.mark.parametrize(("lanes", "most"), [(1, 80), (2, 70)])
def test_a_batch_waits_for_more_until_there_is_no_room(clock: Clock, lanes: int, most: int) -> None:
    hand = Hand(clock, lanes=lanes, read_ahead=80, registry=batches(wait=60.0, size=1000))
    hand.add(*[received() for _ in range(most - 1)])
    assert (hand.lanes.active, len(hand.lanes), hand.lanes.poll_seconds(90.0)) == (0, most - 1, 60.0)
    hand.add(received())
    assert (hand.lanes.active, len(hand.lanes)) == (most, most)


def test_a_batch_that_waits_takes_room_and_is_given_away_by_its_bytes_too(clock: Clock) -> None:
    hand = Hand(clock, registry=batches(wait=60.0))
    hand.add(received(value=b"12345", headers=()))
    assert hand.lanes.room == 99
    assert hand.lanes.bytes > 5


def test_the_size_of_a_record_is_that_of_its_value_and_headers(hand: Hand) -> None:
    hand.add(ReceivedRecord("elsewhere", 0, 0, b"key", b"value", (("name", b"text"), ("none", None))))
    assert hand.lanes.bytes == len("value" + "name" + "text" + "none")


def test_nothing_is_read_while_what_is_in_hand_is_large(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_hand, "READ_AHEAD_BYTES", 4)
    hand.outcome[0] = Outcome.WAITING
    hand.add(ReceivedRecord("elsewhere", 0, 0, None, b"123"))
    hand.work()
    assert hand.lanes.room == 100
    hand.add(ReceivedRecord("elsewhere", 0, 1, None, b"4"))
    assert hand.lanes.room == 0


def test_a_poll_is_short_while_something_waits_for_its_time(hand: Hand) -> None:
    hand.outcome[0] = Outcome.WAITING
    hand.add(received(offset=0))
    hand.work()
    assert hand.lanes.active == 0
    assert hand.lanes.poll_seconds(5.0) == BUSY_POLL_SECONDS
    assert hand.lanes.poll_seconds(0.01) == 0.01


# What lanes get


def test_records_of_a_key_and_topic_are_in_one_line_and_others_are_not(hand: Hand) -> None:
    hand.engine.transaction_size = 1.0
    hand.outcome[0] = Outcome.WAITING
    hand.add(
        received(key="k", offset=0),
        received(key="k", offset=1),
        received(key="l", offset=2),
        received(key="k", offset=3, topic="another"),
        received(offset=4),
        received(offset=5),
    )
    hand.work()
    hand.outcome.clear()
    hand.clock.now += 10
    assert hand.work() == [0, 1]


def test_own_records_of_a_key_are_in_one_line_by_the_numbers_of_their_messages(hand: Hand) -> None:
    hand.add(own(7, key="k", attempt=2), own(5, key="k", attempt=2), own(3, key="l", attempt=2))
    assert hand.work() == [5, 7, 3]


def test_first_publications_are_in_the_order_of_the_topic(hand: Hand) -> None:
    hand.add(own(7, key="k"), own(5, key="k"), own(6, attempt=2))
    assert hand.work() == [7, 5, 6]


def test_without_keys_a_mapper_may_find_one_so_a_partition_is_a_line(hand: Hand) -> None:
    hand.mapped = True
    hand.engine.transaction_size = 1.0
    hand.outcome[0] = Outcome.WAITING
    hand.add(
        *[received(offset=offset) for offset in (0, 1)], received(offset=2, partition=1), received(key="k", offset=3)
    )
    assert hand.work() == [0, 2, 3]
    hand.outcome.clear()
    hand.clock.now += 10
    assert hand.work() == [0, 1]


def test_a_key_counts_more_than_the_partition(hand: Hand) -> None:
    hand.mapped = True
    hand.outcome[0] = Outcome.WAITING
    hand.add(received(key="k", offset=0), received(key="l", offset=1))
    assert hand.work() == [0, 1]
    assert hand.batches == [[0, 1]]


def test_all_records_are_the_inbox_s_in_its_groups(hand: Hand) -> None:
    hand.inbox.takes_all = True
    hand.add(own(7, offset=3))
    assert hand.work() == [3]


def test_records_and_stored_messages_are_not_mixed_in_a_batch(hand: Hand) -> None:
    hand.due = ["first", "second"]
    hand.add(own(7), own(8), received(offset=1))
    hand.lanes.add_due(10)
    hand.work()
    assert hand.batches == [[7, 8], [1], ["first"], ["second"]]


@pytest.mark.parametrize(("most", "added"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_as_many_stored_messages_are_in_hand_as_are_asked_for(hand: Hand, most: int, added: int) -> None:
    hand.due = ["a", "b", "c"]
    assert hand.lanes.add_due(1)
    assert hand.lanes.add_due(most)
    assert len(hand.lanes) == added
    hand.due = []
    assert hand.lanes.add_due(added)
    assert not hand.lanes.add_due(added + 1)


@pytest.mark.parametrize(("most", "alone"), [(5, {"suspect"}), (1, {"suspect", "due"})])
def test_stored_messages_are_counted_one_by_one_and_suspects_are_alone(hand: Hand, most: int, alone: set[str]) -> None:
    hand.due, hand.suspects = ["due", "suspect"], {"suspect"}
    with outbox_settings(MAX_DELIVERIES=most):
        hand.lanes.add_due(10)
    hand.work()
    assert {queued.item for queued in hand.queued if queued.alone} == alone
    assert [(queued.guarded, queued.most) for queued in hand.queued] == [(True, 1)] * 2


def test_stored_messages_keep_the_order_of_their_key_and_belong_to_no_partition(hand: Hand) -> None:
    hand.due = ["k1", "k2", "l"]
    hand.lanes.add_due(10)
    assert hand.lanes.revoke([OWN, FOREIGN]) == {}
    assert hand.work() == ["k1", "k2", "l"]
    assert [queued.key for queued in hand.queued] == [("inbox", b"k"), ("inbox", b"k"), ("inbox", b"l")]
    assert {queued.group for queued in hand.queued} == {DUE_GROUP}


# What is dropped


def test_a_lost_partition_leaves_the_others_in_hand(hand: Hand) -> None:
    hand.add(own(7, partition=0), own(8, partition=1), received(offset=5))
    for id in (7, 8):
        hand.waits.most = 10
        assert hand.waits.may_wait(id, OWN, timedelta(0))
    assert hand.lanes.revoke([OWN]) == {}
    assert hand.lanes.own_ids(OWN) == set()
    assert hand.lanes.own_ids(TopicPartition("outbox", 1)) == {8}
    assert (hand.waits.find(7).until, hand.waits.find(8).until > 0) == (0.0, True)
    assert hand.work() == [8, 5]


def test_a_lost_partition_leaves_the_offsets_of_others_to_commit(hand: Hand) -> None:
    hand.add(received(partition=0, offset=5), received(partition=1, offset=7))
    hand.work()
    assert (hand.lanes.revoke([FOREIGN]), hand.lanes.take_offsets()) == ({FOREIGN: 6}, {OTHER: 8})


def test_a_lost_partition_leaves_batches_of_others(clock: Clock) -> None:
    hand = Hand(clock, registry=batches(wait=60.0))
    hand.add(received(partition=0), received(partition=1, offset=5))
    hand.lanes.revoke([FOREIGN])
    clock.now += 60
    assert hand.work() == [5]


def test_after_a_new_start_nothing_is_in_hand_and_all_is_read_again(hand: Hand) -> None:
    hand.due = ["first"]
    hand.lanes.add_due(10)
    hand.add(own(7), received())
    hand.lanes.clear()
    assert len(hand.lanes) == 0
    assert hand.lanes.first_unfinished(OWN) is None
    assert hand.lanes.add_due(10)
    hand.add(own(7, offset=3), received(offset=5))
    assert sorted(map(str, hand.work())) == ["5", "7", "first"]
    assert hand.lanes.take_offsets() == {OWN: 4, FOREIGN: 6}


def test_what_was_in_hand_before_a_new_start_moves_no_offset(hand: Hand) -> None:
    """As of a record that a lane was handling when the group took its partition away."""
    hand.add(received(offset=5))
    hand.on_handle = lambda names: hand.lanes.clear()
    hand.work()
    assert hand.lanes.take_offsets() == {}


def test_stored_messages_are_dropped_without_the_records(hand: Hand) -> None:
    hand.due = ["first"]
    hand.add(own(7), received(offset=5))
    hand.lanes.add_due(10)
    hand.lanes.drop_due()
    assert hand.work() == [7, 5]
    hand.lanes.add_due(10)
    assert hand.work() == ["first"]


# What is counted


def test_what_waits_is_neither_counted_nor_committed_and_what_is_behind_it_is(hand: Hand) -> None:
    hand.outcome = {0: Outcome.WAITING, 1: Outcome.SKIPPED}
    hand.add(*[received(offset=offset) for offset in range(3)], own(7, offset=20), own(8, offset=21))
    hand.work()
    assert hand.lanes.take_counts() == RoundCounts(received=4, stored=1, inbox_consumed=1, consumed=3, skipped=1)
    assert hand.lanes.take_offsets() == {OWN: 22}
    assert hand.lanes.first_unfinished(FOREIGN) == 0
    hand.outcome.clear()
    hand.clock.now += 10
    assert hand.work() == [0]
    assert hand.lanes.take_offsets() == {FOREIGN: 3}


def test_stored_messages_are_counted_and_may_come_again(hand: Hand) -> None:
    hand.due = ["first", "second"]
    hand.lanes.add_due(10)
    assert hand.work() == ["first", "second"]
    assert hand.lanes.take_counts() == RoundCounts(retried=2, inbox_consumed=2, consumed=2)
    hand.lanes.add_due(1)
    assert hand.work() == ["first"]


def test_offsets_that_were_refused_are_returned_again(hand: Hand) -> None:
    hand.add(received(offset=5))
    hand.work()
    assert hand.lanes.take_offsets() == {FOREIGN: 6}
    assert hand.lanes.take_offsets() == {}
    hand.lanes.give_back([FOREIGN, OTHER])
    assert hand.lanes.take_offsets() == {FOREIGN: 6}


def test_guarded_records_are_counted_off_by_what_was_stored(clock: Clock) -> None:
    hand = Hand(clock, read_ahead=2)
    hand.outcome = {0: Outcome.SKIPPED}
    hand.lanes.add_records([received(offset=0), received(offset=1)], [FOREIGN])
    hand.work()
    assert hand.lanes.guard
    hand.add(received(offset=2))
    hand.work()
    assert not hand.lanes.guard


# What waits


def waiting(hand: Hand, *records: ReceivedRecord) -> None:
    """Let own records wait for earlier ones."""
    hand.lanes.work(lambda: False, 0.0)  # sets how many may wait
    hand.add(*records)
    for record in records:
        id = int(dict(record.headers)["ce_outboxid"] or b"")
        hand.outcome[id] = Outcome.WAITING
        assert hand.waits.may_wait(id, TopicPartition(record.topic, record.partition), timedelta(0))
    hand.work()
    assert hand.lanes.active == 0


@pytest.mark.parametrize(("more", "left"), [(0, 2), (1, 0)])
def test_nobody_waits_while_too_many_are_in_hand(clock: Clock, more: int, left: int) -> None:
    hand = Hand(clock, read_ahead=10)
    hand.lanes.most_waits = 4
    waiting(hand, own(7), own(8))
    hand.due = [f"due {number}" for number in range(12 + more)]
    hand.lanes.add_due(20)
    hand.lanes.work(lambda: True, 0.0)
    assert hand.waits.most == (4 if left else 0)
    assert len(hand.lanes) - hand.lanes.active == left


@pytest.mark.parametrize(("size", "left"), [(9, 2), (10, 0)])
def test_nobody_waits_while_what_is_in_hand_is_large(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, size: int, left: int
) -> None:
    waiting(hand, own(7), own(8))
    monkeypatch.setattr(in_hand, "READ_AHEAD_BYTES", hand.lanes.bytes + 10)
    hand.add(ReceivedRecord("elsewhere", 0, 0, None, bytes(size)))
    hand.lanes.work(lambda: True, 0.0)
    assert len(hand.lanes) - hand.lanes.active == left


def test_records_of_others_wait_on_for_their_schema(hand: Hand) -> None:
    hand.lanes.most_waits = -100
    hand.outcome[0] = Outcome.WAITING
    hand.add(received(offset=0))
    hand.work()
    hand.lanes.work(lambda: True, 0.0)
    assert hand.lanes.active == 0


@pytest.mark.parametrize(("in_hand_now", "most"), [(11, 0), (12, 4), (13, 0)])
def test_messages_wait_again_when_half_of_them_is_gone(clock: Clock, in_hand_now: int, most: int) -> None:
    hand = Hand(clock, read_ahead=10)
    hand.lanes.most_waits = 4
    hand.due = [f"due {number}" for number in range(20)]
    hand.lanes.add_due(15)
    hand.lanes.work(lambda: True, 0.0)
    assert hand.waits.most == 0
    hand.lanes.drop_due()
    hand.lanes.add_due(min(in_hand_now, 12) if most else 13)
    hand.lanes.work(lambda: True, 0.0)
    assert hand.waits.most == most


def test_messages_wait_again_when_half_of_the_bytes_is_gone(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_hand, "READ_AHEAD_BYTES", 20)
    for size, most in ((20, 0), (10, 0), (9, hand.lanes.most_waits)):
        hand.lanes.clear()
        hand.add(ReceivedRecord("elsewhere", 0, 0, None, bytes(size)))
        hand.lanes.work(lambda: True, 0.0)
        assert hand.waits.most == most


def test_records_of_others_wait_on_in_a_partition_that_was_read_far_ahead(hand: Hand) -> None:
    hand.lanes.window = 2
    hand.outcome[0] = Outcome.WAITING
    hand.add(received(offset=0), received(offset=1))
    hand.work()
    hand.lanes.work(lambda: True, 0.0)
    assert hand.waits.refused == {FOREIGN}
    assert hand.lanes.active == 0


def test_nobody_waits_in_a_partition_that_was_read_far_ahead(hand: Hand) -> None:
    waiting(hand, own(7, offset=0), own(8, offset=0, partition=1))
    hand.lanes.window = 3
    hand.add(*[own(id, offset=id, partition=1) for id in (10, 11)])
    hand.lanes.work(lambda: True, 0.0)
    assert hand.waits.refused == {TopicPartition("outbox", 1)}
    hand.outcome.clear()
    assert hand.work() == [8, 10, 11]
    assert hand.waits.most == hand.lanes.most_waits
