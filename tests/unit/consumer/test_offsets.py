"""Offsets: what is committed never passes a record that is not finished."""

from __future__ import annotations

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.consumer.offsets import OffsetTracker

PLACE = TopicPartition("orders", 0)


def record(offset: int) -> ReceivedRecord:
    return ReceivedRecord(PLACE.topic, PLACE.partition, offset, None, None)


def test_a_record_that_is_finished_early_is_passed_when_those_before_it_are_finished() -> None:
    offsets = OffsetTracker()
    for offset in (5, 6, 7):
        offsets.add(record(offset))

    offsets.finish(record(6))
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({}, 5)

    offsets.finish(record(5))
    assert (offsets.take(), offsets.first_unfinished(PLACE)) == ({PLACE: 7}, 7)
