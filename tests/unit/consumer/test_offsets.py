"""Offsets: what is committed never passes a record that is not finished."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.consumer.offsets import OffsetTracker

PLACE = TopicPartition("orders", 0)


def record(offset: int) -> ReceivedRecord:
    return ReceivedRecord(PLACE.topic, PLACE.partition, offset, None, None)


def test_a_record_that_is_finished_early_is_passed_when_those_before_it_are_finished() -> None:
    offsets = OffsetTracker()
    five, six, seven = (record(offset) for offset in (5, 6, 7))
    for each in (five, six, seven):
        offsets.add(each)

    offsets.finish(six)
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({}, 5)

    offsets.finish(five)
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({PLACE: 7}, 7)


@pytest.mark.parametrize("read_first", [False, True], ids=["read later", "read already"])
def test_a_record_of_a_topic_that_was_recreated_does_not_finish_the_one_at_its_offset(read_first: bool) -> None:
    offsets = OffsetTracker()
    old = [record(offset) for offset in range(3)]
    new = [record(offset) for offset in range(3)]
    for each in [*old, *new[: 3 if read_first else 1]]:
        offsets.add(each)

    for each in old:
        offsets.finish(each)
    if not read_first:
        for each in new[1:]:
            offsets.add(each)
    offsets.finish(new[0])
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({PLACE: 1}, 1)

    for each in new[1:]:
        offsets.finish(each)
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({PLACE: 3}, None)


def finished(offsets: OffsetTracker, *numbers: int) -> None:
    for number in numbers:
        each = record(number)
        offsets.add(each)
        offsets.finish(each)


@pytest.mark.parametrize(("again", "moved"), [(3, {}), (5, {}), (6, {PLACE: 6}), (9, {PLACE: 6})])
def test_after_a_step_back_nothing_may_be_committed_that_is_not_read_yet(again: int, moved: dict[Any, int]) -> None:
    offsets = OffsetTracker()
    finished(offsets, 5)
    offsets.add(record(again))
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == (moved, again)


def test_after_a_step_back_what_was_read_before_is_forgotten() -> None:
    offsets = OffsetTracker()
    for number in (5, 6):
        offsets.add(record(number))
    finished(offsets, 5)
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({PLACE: 6}, None)


def test_partitions_with_much_behind_an_unfinished_record_are_known() -> None:
    offsets = OffsetTracker()
    offsets.add(record(0))
    finished(offsets, 1, 2)
    assert (offsets.at_least(3), offsets.at_least(4)) == ({PLACE}, set())


def test_offsets_that_were_refused_are_returned_again_and_no_others() -> None:
    offsets = OffsetTracker()
    finished(offsets, 5)
    assert offsets.take() == {PLACE: 6}
    offsets.give_back([PLACE, TopicPartition("another", 0)])
    assert offsets.take() == {PLACE: 6}


def test_offsets_of_some_partitions_are_taken_without_those_of_others() -> None:
    offsets, other = OffsetTracker(), TopicPartition("another", 0)
    finished(offsets, 5)
    elsewhere = ReceivedRecord(other.topic, other.partition, 7, None, None)
    offsets.add(elsewhere)
    offsets.finish(elsewhere)
    assert (offsets.take([other]), offsets.take([other]), offsets.take()) == ({other: 8}, {}, {PLACE: 6})
