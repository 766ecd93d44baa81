"""Which topics the relay writes to now, and which it creates."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from django_outbox.brokers.base import TopicMissing, TopicPartition, TopicTrouble
from django_outbox.brokers.waiting import NOTHING_WAITS, WaitingPartitions
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated
from django_outbox.relay.topics import CHECK_SECONDS, LOOK_SECONDS, UNUSED_TURN_SECONDS, WritableTopics
from django_outbox.worker import incident
from django_outbox.worker.outage_log import OutageLog
from tests.support.clock import Clock
from tests.support.overrides import outbox_settings

log = logging.getLogger("django_outbox.relay")


class Cluster:
    """A broker that has some topics; topics with ``forbidden`` in their name cannot be created."""

    def __init__(self, *topics: str) -> None:
        self.topics = {*topics}
        self.asked: list[set[str]] = []
        self.is_away = False

    def missing_topics(self, topics: Collection[str]) -> set[str]:
        if self.is_away:
            raise BrokerUnavailable("no answer")
        self.asked.append({*topics})
        return {*topics} - self.topics

    def create(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if "forbidden" in topic:
                raise TopicNotCreated("not authorized.")
            self.topics.add(topic)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def make(cluster: Any, clock: Clock, *, creates: bool = False) -> WritableTopics:
    return WritableTopics(cluster, cluster.create if creates else None, log, clock, OutageLog(log, clock))


@pytest.fixture
def topics(cluster: Cluster, clock: Clock) -> WritableTopics:
    return make(cluster, clock)


@pytest.fixture
def creating(cluster: Cluster, clock: Clock) -> WritableTopics:
    return make(cluster, clock, creates=True)


# Turns


def test_batches_that_take_seconds_do_not_shorten_the_turn_of_the_other_topics(
    topics: WritableTopics, clock: Clock
) -> None:
    topics.record_batch([], {"failing": TopicTrouble("no leader of partition 0")}, 100.0)

    for _ in range(4):
        topics.record_due()
        clock.now += 20
        topics.record_batch(["healthy"], {}, 20.0)
        assert topics.excluded() == ["failing"]

    clock.now += 20
    assert topics.excluded() == []


def test_the_turn_of_the_other_topics_ends_early_if_they_have_nothing(topics: WritableTopics, clock: Clock) -> None:
    topics.record_batch([], {"failing": TopicTrouble("no leader of partition 0")}, 100.0)
    clock.now += 60  # past the backoff of the topic
    topics.record_due()
    clock.now += UNUSED_TURN_SECONDS - 0.25
    assert topics.excluded() == ["failing"]
    clock.now += 0.25
    assert topics.excluded() == []


def test_a_topic_has_no_other_turn_at_the_start_of_the_clock(cluster: Cluster) -> None:
    clock = Clock(0.5)
    topics = make(cluster, clock)
    topics.record_batch([], {"failing": TopicTrouble("no leader of partition 0")}, 0.0)
    clock.now += 600
    assert topics.excluded() == []


def test_a_topic_is_tried_again_as_soon_as_its_backoff_is_over(
    topics: WritableTopics, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident, "delay_of", lambda failures: 2.0)
    topics.record_batch([], {"failing": TopicTrouble("no leader of partition 0")}, 0.0)
    clock.now += 1.75
    assert topics.excluded() == ["failing"]
    clock.now += 0.25
    assert topics.excluded() == []


# Schemas


def test_a_topic_whose_schema_cannot_be_loaded_is_skipped_until_the_next_try(
    topics: WritableTopics, clock: Clock
) -> None:
    topics.let_wait({"orders": 5.0})

    assert (topics.excluded(), topics.seconds_to_wait(patience=60.0)) == (["orders"], 5.0)
    clock.now += 5
    assert topics.excluded() == []


def test_patience_counts_from_the_first_try(topics: WritableTopics, clock: Clock) -> None:
    topics.let_wait({"orders": 5.0})
    clock.now += 59
    topics.let_wait({"orders": 5.0})
    assert topics.seconds_to_wait(patience=60.0) == 5.0
    clock.now += 1
    assert topics.seconds_to_wait(patience=60.0) is None


def test_topics_wait_for_their_schemas_each_for_itself(topics: WritableTopics, clock: Clock) -> None:
    topics.let_wait({"orders": 5.0})
    topics.let_wait({"invoices": 3.0})
    assert topics.excluded() == ["orders", "invoices"]
    clock.now += 2.5
    assert topics.seconds_to_wait(patience=60.0) == 0.5
    clock.now += 1.5
    assert (topics.excluded(), topics.seconds_to_wait(patience=60.0)) == (["orders"], 0.0)


# Partitions

SOME_WAIT = WaitingPartitions(frozenset([TopicPartition("orders", 1)]), reasons={"orders": "no answer"})


def hold(topics: WritableTopics) -> None:
    """A pass that has a message for the partition."""
    topics.let_partitions_wait(SOME_WAIT)
    topics.record_held(["orders"])


def test_patience_with_a_partition_counts_from_when_it_first_held_a_message(
    topics: WritableTopics, clock: Clock
) -> None:
    topics.let_partitions_wait(SOME_WAIT)
    assert topics.seconds_to_wait(patience=60.0) is None
    clock.now += 50
    hold(topics)
    hold(topics)
    clock.now += 30
    hold(topics)
    clock.now += 29.75
    hold(topics)
    assert topics.seconds_to_wait(patience=60.0) == LOOK_SECONDS
    clock.now += 0.25
    assert topics.seconds_to_wait(patience=60.0) is None


def test_patience_with_a_partition_begins_again_once_what_it_held_was_sent(
    topics: WritableTopics, clock: Clock
) -> None:
    hold(topics)
    hold(topics)
    clock.now += 100
    topics.let_partitions_wait(NOTHING_WAITS)
    topics.record_held([])
    hold(topics)
    hold(topics)
    assert topics.seconds_to_wait(patience=60.0) == LOOK_SECONDS


def test_while_a_partition_waits_the_relay_looks_often(topics: WritableTopics) -> None:
    assert topics.poll_interval(10.0) == 10.0
    topics.let_partitions_wait(SOME_WAIT)
    assert (topics.poll_interval(10.0), topics.poll_interval(0.125)) == (LOOK_SECONDS, 0.125)


# Topics that are missing


def test_a_missing_topic_is_looked_for_when_its_time_has_come(
    topics: WritableTopics, cluster: Cluster, clock: Clock
) -> None:
    topics.record_batch([], {"missing": TopicMissing(), "failing": TopicTrouble("no leader")}, 0.0)
    topics.check_missing()
    assert cluster.asked == []
    clock.now += 60
    topics.check_missing()
    assert cluster.asked == [{"missing"}]
    assert topics.excluded() == ["missing"]
    cluster.topics.add("missing")
    clock.now += 60
    topics.check_missing()
    topics.record_batch(["failing"], {}, 0.0)
    assert not topics


def test_a_topic_that_is_about_to_be_created_is_not_in_trouble(
    creating: WritableTopics, topics: WritableTopics
) -> None:
    creating.record_batch([], {"new": TopicMissing()}, 0.0)
    assert str(creating) == ""
    topics.record_batch([], {"lost": TopicMissing()}, 0.0)
    assert str(topics).startswith("lost: it does not exist. Create the topic")


def test_a_missing_topic_is_created(creating: WritableTopics, cluster: Cluster) -> None:
    creating.record_batch([], {"orders": TopicMissing()}, 0.0)
    creating.check_missing()
    assert cluster.topics == {"orders"}
    creating.check_missing()
    assert (cluster.asked, bool(creating)) == ([{"orders"}], False)


def test_a_topic_that_cannot_be_created_says_so_and_is_tried_again(
    creating: WritableTopics, cluster: Cluster, clock: Clock
) -> None:
    creating.record_batch([], {"forbidden": TopicMissing()}, 0.0)
    creating.check_missing()
    assert str(creating) == (
        "forbidden: not authorized. Create it manually, or start the relay with other options; "
        "its messages wait meanwhile."
    )
    creating.check_missing()
    assert len(cluster.asked) == 1
    clock.now += 60
    creating.record_batch([], {"orders": TopicMissing()}, 0.0)
    creating.check_missing()
    assert cluster.asked[1:] == [{"forbidden", "orders"}]


def test_topics_without_due_messages_are_forgotten(creating: WritableTopics, cluster: Cluster) -> None:
    creating.record_batch([], {"orders": TopicMissing(), "kept": TopicMissing()}, 0.0)
    creating.forget_others(["kept"])
    creating.check_missing()
    assert cluster.topics == {"kept"}


def test_configured_topics_are_created_at_the_start_and_while_nothing_is_due(
    creating: WritableTopics, cluster: Cluster, clock: Clock
) -> None:
    with outbox_settings(TOPIC="orders", ROUTES={}):
        creating.create_configured()
        assert cluster.topics == {"orders"}
        cluster.topics.clear()
        clock.now += CHECK_SECONDS - 0.25
        creating.create_configured_if_due()
        assert cluster.topics == set()
        clock.now += 0.25
        creating.create_configured_if_due()
        creating.create_configured_if_due()
        assert (cluster.topics, len(cluster.asked)) == ({"orders"}, 2)
        clock.now += CHECK_SECONDS
        cluster.is_away = True
        creating.create_configured_if_due()  # reported once a message is due
    cluster.is_away = False
    with outbox_settings(TOPIC="forbidden", ROUTES={}):
        clock.now += CHECK_SECONDS
        creating.create_configured_if_due()  # the same
    assert "forbidden" in cluster.asked[-1]


def test_topics_are_not_created_unless_that_was_asked_for(topics: WritableTopics, cluster: Cluster) -> None:
    topics.create_configured()
    topics.create_configured_if_due()
    assert cluster.asked == []


@pytest.mark.parametrize("is_whole", [True, False], ids=["topic", "partition"])
def test_faults_of_topics_and_of_the_broker_are_one_outage(
    cluster: Any, clock: Clock, caplog: pytest.LogCaptureFixture, is_whole: bool
) -> None:
    outages = OutageLog(log, clock)
    topics = WritableTopics(cluster, None, log, clock, outages)
    if is_whole:
        topics.record_batch([], {"orders": TopicTrouble("no leader of partition 0")}, 0.0)
    else:
        hold(topics)
        topics.let_partitions_wait(SOME_WAIT)
    assert outages.is_active
