"""Offsets of partitions that a consumer loses and gets again: none stands still, and none passes an unhandled record."""

from __future__ import annotations

import zlib

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.consumer import Consumer
from django_outbox.consumer.source import Outcome
from django_outbox.exceptions import BrokerUnavailable
from tests.support.effects import effect_of_type
from tests.support.outbox import Pipeline, make_message, memory_broker, statuses

pytestmark = pytest.mark.django_db

PLACE = TopicPartition("outbox", 1)
KEY = next(key for key in "abcdef" if zlib.crc32(key.encode()) % 2 == PLACE.partition)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Its consumer has read a record, and not handled it yet."""
    pipeline = Pipeline(memory_broker(partitions=2))
    pipeline.on("order.created", effect_of_type)
    make_message(message_key=KEY)
    pipeline.relay.run_once()
    with monkeypatch.context() as patches:
        patches.setattr(pipeline.consumer.lanes, "work", lambda *arguments: None)
        pipeline.consumer.run_once()
    assert statuses() == ["published"]
    assert pipeline.consumer.lanes.first_unfinished(PLACE) == 0
    return pipeline


def let_another_consumer_handle(pipeline: Pipeline) -> None:
    other = Consumer(pipeline.broker, using="default", handlers=pipeline.handlers)
    other.run_once()
    other.close()
    assert statuses() == ["consumed"]


def committed_after_another_message(pipeline: Pipeline) -> int | None:
    make_message(message_key=KEY)
    pipeline.run()
    assert statuses() == ["consumed", "consumed"]
    return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[PLACE].committed


def test_a_partition_that_comes_back_continues_where_its_other_owner_ended(pipeline: Pipeline) -> None:
    let_another_consumer_handle(pipeline)  # it gets this partition while it is a member

    assert committed_after_another_message(pipeline) == 2


def test_a_consumer_that_joins_again_continues_where_others_ended(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(subscription: object) -> None:
        raise BrokerUnavailable("it is gone")

    with monkeypatch.context() as patches:
        patches.setattr(pipeline.consumer.lanes, "work", lambda *arguments: None)
        patches.setattr(pipeline.consumer.reconciler, "check_if_due", check)
        with pytest.raises(BrokerUnavailable):
            pipeline.consumer.run_once()
    let_another_consumer_handle(pipeline)

    assert committed_after_another_message(pipeline) == 2


def test_a_record_that_a_lane_finishes_late_does_not_pass_one_that_was_read_since(pipeline: Pipeline) -> None:
    lanes = pipeline.consumer.lanes
    batch = lanes._queue.take(1)
    lanes.clear()  # the consumer leaves its group meanwhile, and the topic is recreated
    lanes.add_records(pipeline.broker.records("outbox"), {PLACE})

    lanes._count(batch, [Outcome.CONSUMED])
    lanes._queue.end(batch, 1)

    assert lanes.first_unfinished(PLACE) == 0
    assert lanes.take_offsets() == {}
