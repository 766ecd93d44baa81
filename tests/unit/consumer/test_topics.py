"""Which topics a consumer reads, what it says of the others, and when it looks again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import pytest

from django_outbox.brokers.base import TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings
from django_outbox.consumer.topics import (
    CHECK_SECONDS,
    FAULT_CHECK_SECONDS,
    PROBATION_SECONDS,
    UNDECODABLE_SECONDS,
    ReadableTopics,
)
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable, TopicNotReadable
from django_outbox.worker.outage_log import REMINDER_SECONDS, OutageLog
from tests.support.clock import Clock

log = logging.getLogger("django_outbox.consumer")


class Broker(MemoryBroker):
    """Says what a test wants."""

    def __init__(self) -> None:
        super().__init__(BrokerSettings(url="memory://watched"))
        self.faults: dict[str, TopicTrouble] = {}
        self.is_away = False
        self.asked = 0

    def unreadable_topics(self, topics: Iterable[str]) -> Mapping[str, TopicTrouble]:
        self.asked += 1
        if self.is_away:
            raise BrokerUnavailable("away")
        return self.faults


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def topics(broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture) -> ReadableTopics:
    caplog.set_level(logging.INFO, log.name)
    return ReadableTopics(broker, ["a", "b", "c"], log, clock, OutageLog(log, clock))


def look(topics: ReadableTopics, clock: Clock, seconds: float = FAULT_CHECK_SECONDS) -> frozenset[str]:
    clock.now += seconds
    topics.check_if_due(is_reading=True)
    return topics.current


def test_what_is_missing_or_forbidden_is_left_out_and_what_lacks_a_leader_is_not(
    topics: ReadableTopics, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = {"a": TopicMissing(), "b": TopicForbidden("may not"), "c": TopicTrouble("no leader")}
    assert look(topics, clock) == {"c"}
    assert caplog.messages == [
        "Topic a: it does not exist. Create the topic, or start outbox_relay with --create-topics; "
        "other topics are read meanwhile. Trying again until it works.",
        "Topic b: may not. Let this client read it, by an ACL for the operation Read; "
        "other topics are read meanwhile. Trying again until it works.",
        "Topic c: no leader. Check its partitions and their replicas; "
        "other topics are read meanwhile. Trying again until it works.",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "ERROR"]
    assert all(f"{topic}: " in str(topics) for topic in "abc")
    assert "a: " not in topics.unread
    assert all(f"{topic}: " in topics.unread for topic in "bc")


def test_trouble_is_told_once_then_each_minute_and_at_its_end(
    topics: ReadableTopics, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = {"a": TopicForbidden("may not")}
    for _ in range(20):
        assert look(topics, clock) == {"b", "c"}
    broker.faults = {}
    assert look(topics, clock) == {"a", "b", "c"}
    assert str(topics) == topics.unread == ""
    first, reminder, end = caplog.messages
    assert first.startswith("Topic a: may not. ")
    assert reminder.startswith(f"Topic a is still unavailable after {REMINDER_SECONDS:.0f} s: may not. ")
    assert end == "Topic a is available again after 100 s."


def test_another_trouble_of_a_topic_is_told_at_once(
    topics: ReadableTopics, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = {"a": TopicMissing()}
    look(topics, clock)
    broker.faults = {"a": TopicForbidden("may not")}
    look(topics, clock)
    assert ["exist" in message for message in caplog.messages] == [True, False]


def test_it_looks_seldom_while_all_is_well_and_more_often_in_trouble(
    topics: ReadableTopics, broker: Broker, clock: Clock
) -> None:
    look(topics, clock)
    assert broker.asked == 1
    look(topics, clock, CHECK_SECONDS - 1)
    assert broker.asked == 1
    broker.faults = {"a": TopicMissing()}
    assert look(topics, clock, 1) == {"b", "c"}
    for asked in range(3, 8):
        look(topics, clock)
        assert broker.asked == asked
        look(topics, clock, 0.1)
        assert broker.asked == asked


def test_a_broker_that_does_not_answer_is_for_who_is_not_reading_yet(
    topics: ReadableTopics, broker: Broker, clock: Clock
) -> None:
    broker.is_away = True
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            topics.check_if_due(is_reading=False)
    broker.is_away = False
    topics.check_if_due(is_reading=False)
    broker.is_away = True
    assert look(topics, clock, CHECK_SECONDS) == {"a", "b", "c"}
    assert broker.asked == 4


def test_who_starts_to_read_looks_first(topics: ReadableTopics, broker: Broker) -> None:
    for asked in (1, 2):
        topics.check_if_due(is_reading=False)
        assert broker.asked == asked
    broker.faults = dict.fromkeys("abc", TopicMissing())
    topics.check_if_due(is_reading=False)
    topics.check_if_due(is_reading=False)  # waits, as there is nothing to read
    assert broker.asked == 3
    assert topics.current == frozenset()


def test_a_client_that_was_refused_tries_again_each_time_later_and_nothing_is_over_before_it_has_read(
    topics: ReadableTopics, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """On a broker that does not tell what a client may do."""
    look(topics, clock)
    pauses = []
    for _ in range(8):
        topics.refuse(TopicNotReadable({"b", "another's"}, "refused"))
        assert topics.current == {"a", "c"}
        refused_at = clock.now
        while look(topics, clock, 0.1) == {"a", "c"}:
            assert clock.now < refused_at + 40
        assert topics.current == {"a", "b", "c"}
        pauses.append(clock.now - refused_at)
    assert pauses[0] < 1
    assert 20 < pauses[-1] < 40
    assert not any("again after" in message for message in caplog.messages)
    assert len(caplog.messages) < 4  # the beginning, and reminders

    back_at = clock.now
    while topics.unread:
        look(topics, clock, 0.5)
    assert PROBATION_SECONDS - 1 < clock.now - back_at < PROBATION_SECONDS + 1
    assert caplog.messages[-1].startswith("Topic b is available again after")
    assert topics.current == {"a", "b", "c"}


def test_what_cannot_be_taken_apart_is_told_with_what_helps(
    topics: ReadableTopics, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    look(topics, clock)
    topics.refuse(RecordsUndecodable({"b"}, "compressed with something", "Install a package"))
    assert topics.current == {"a", "c"}
    assert topics.unread == "b: compressed with something. Install a package; other topics are read meanwhile."
    assert [record.levelname for record in caplog.records] == ["ERROR"]

    blamed_at = clock.now
    while look(topics, clock) == {"a", "c"}:
        assert clock.now <= blamed_at + UNDECODABLE_SECONDS
    assert clock.now > blamed_at + UNDECODABLE_SECONDS - 2 * FAULT_CHECK_SECONDS
    assert len(caplog.messages) == UNDECODABLE_SECONDS // REMINDER_SECONDS
    assert all("compressed with something" in message for message in caplog.messages)


def test_the_brokers_own_word_ends_what_a_client_was_refused(
    topics: ReadableTopics, broker: Broker, clock: Clock
) -> None:
    look(topics, clock)
    topics.refuse(TopicNotReadable({"b"}, "refused"))
    broker.faults = {"b": TopicForbidden("may not")}
    assert look(topics, clock, 0.0) == {"a", "c"}
    broker.faults = {}
    assert look(topics, clock) == {"a", "b", "c"}
    assert not topics.unread


def test_what_cannot_be_taken_apart_is_tried_again_after_its_time_and_over_after_a_probation(
    topics: ReadableTopics, broker: Broker, clock: Clock
) -> None:
    look(topics, clock)
    topics.refuse(RecordsUndecodable({"b"}, "compressed with something", "Install a package"))
    clock.now += UNDECODABLE_SECONDS - 1
    assert look(topics, clock, 0.0) == {"a", "c"}
    assert look(topics, clock, 1.0) == {"a", "b", "c"}
    assert topics.unread

    asked = broker.asked
    look(topics, clock, FAULT_CHECK_SECONDS - 0.1)
    assert broker.asked == asked
    look(topics, clock, PROBATION_SECONDS - FAULT_CHECK_SECONDS - 0.4)
    assert broker.asked == asked + 1
    assert topics.unread
    look(topics, clock, 0.5)
    assert not topics.unread


def test_the_reminder_of_what_cannot_be_taken_apart_says_what_helps(
    topics: ReadableTopics, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    look(topics, clock)
    topics.refuse(RecordsUndecodable({"b"}, "compressed with something", "Install a package"))
    look(topics, clock, REMINDER_SECONDS)
    assert caplog.messages[-1] == (
        f"Topic b is still unavailable after {REMINDER_SECONDS:.0f} s: compressed with something. Install a package; "
        "other topics are read meanwhile."
    )


def test_a_member_that_gets_no_partition_looks_once_whether_its_topics_are_there(
    topics: ReadableTopics, broker: Broker, clock: Clock
) -> None:
    look(topics, clock)
    for is_idle, asked in [(True, 2), (True, 2), (False, 2), (True, 3)]:
        topics.record_idle(is_idle)
        look(topics, clock, 0.0)
        assert broker.asked == asked
