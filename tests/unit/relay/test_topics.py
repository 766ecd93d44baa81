"""Which topics the relay writes to now."""

from __future__ import annotations

import logging

from django_outbox.brokers.base import TopicTrouble
from django_outbox.relay.topics import WritableTopics
from tests.support.clock import Clock
from tests.support.outbox import memory_broker


def test_batches_that_take_seconds_do_not_shorten_the_turn_of_the_other_topics() -> None:
    clock = Clock(1000.0)
    topics = WritableTopics(memory_broker(), None, logging.getLogger(__name__), clock)
    topics.record_batch([], {"failing": TopicTrouble("no leader of partition 0")}, 100.0)

    for _ in range(4):
        topics.record_due()
        clock.now += 20
        topics.record_batch(["healthy"], {}, 20.0)
        assert topics.excluded() == ["failing"]

    clock.now += 20
    assert topics.excluded() == []


def test_a_topic_whose_schema_cannot_be_loaded_is_skipped_until_the_next_try() -> None:
    clock = Clock(1000.0)
    topics = WritableTopics(memory_broker(), None, logging.getLogger(__name__), clock)

    topics.let_wait({"orders": 5.0})

    assert (topics.excluded(), topics.seconds_to_wait(patience=60.0)) == (["orders"], 5.0)
    clock.now += 5
    assert topics.excluded() == []
