"""Reading with confluent-kafka: what its errors mean, late commits, and how a member closes."""

from __future__ import annotations

import re
import threading
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from django_outbox.brokers import subscription as subscriptions
from django_outbox.brokers.base import (
    Subscription,
    TopicPartition,
)
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.commits import CommitReports
from django_outbox.brokers.confluent.subscription import ConfluentSubscription
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable, TopicNotReadable
from tests.support.brokers.records import SECONDS

LOCATION = "kafka://broker:9092"
ACCESS = Access(parse_url(LOCATION), "PLAINTEXT", TLS(), lambda: False)


class Reader:
    """Stands for a ``Consumer`` whose messages and errors come from a list."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.commit_error: Exception | None = None
        self.place_error: KafkaError | None = None
        self.committed: list[tuple[str, int, int]] = []

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def poll(self, timeout: float) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def consume(self, count: int, timeout: float) -> list[Message]:
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def assignment(self) -> list[confluent_kafka.TopicPartition]:
        return [confluent_kafka.TopicPartition("topic", 0)]

    def commit(self, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> list[Any]:
        if self.commit_error is not None:
            raise self.commit_error
        self.committed += [(place.topic, place.partition, place.offset) for place in offsets]
        return [Place(place.topic, self.place_error) for place in offsets]

    def close(self) -> None:
        """Nothing is held."""


class Place:
    def __init__(self, topic: str, error: KafkaError | None) -> None:
        self.topic = topic
        self.error = error


def subscription_of(reader: Reader, faults: Faults | None = None, reports: CommitReports | None = None) -> Subscription:
    client: Any = reader
    return ConfluentSubscription(
        client, faults or Faults(ACCESS), ["topic"], lambda places, seconds: {}, lambda seconds: None, reports=reports
    )


def message(offset: int = 0, *, value: bytes | None = b"v", error: int | None = None) -> Message:
    told = None if error is None else KafkaError(error, "why")
    return Message(topic="topic", partition=0, offset=offset, key=b"k", value=value, headers=None, error=told)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._PARTITION_EOF,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    ],
)
def test_what_the_client_gets_over_by_itself_is_passed_over(code: int) -> None:
    messages = [message(1), message(error=code), message(2), message(3)]
    subscription = subscription_of(Reader(*messages))
    assert [record.offset for record in subscription.poll(0, 3)] == [1, 2]
    assert [record.offset for record in subscription.poll(0, 3)] == [3]


@pytest.mark.parametrize("code", [KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED])
def test_what_comes_before_records_that_cannot_be_taken_apart_is_given_out_and_nothing_behind_them(code: int) -> None:
    subscription = subscription_of(Reader(message(1), message(2), message(3, error=code), message(4), message(5)))
    assert [record.offset for record in subscription.poll(0, 4)] == [1, 2]
    for _ in range(2):
        with pytest.raises(
            RecordsUndecodable, match=r"its partition 0 cannot be read on from offset 3 \(why\)"
        ) as raised:
            subscription.poll(0, 4)
        assert raised.value.topics == {"topic"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            "refuses this client: why. Allow it to use its consumer group, by an ACL",
        ),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "refuses this client: why. Allow it to read the topic, by an ACL"),
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL, "does not answer (why)."),
        (KafkaError._FATAL, "does not answer (why)."),
    ],
)
def test_what_ends_a_membership_is_reported(code: int, reason: str) -> None:
    subscription = subscription_of(Reader(message(error=code)))
    with pytest.raises(BrokerUnavailable, match=re.escape(f"kafka://broker:9092 {reason}")):
        subscription.poll(0, 10)


def test_a_refused_login_is_reported_though_nothing_comes() -> None:
    faults = Faults(ACCESS)
    subscription = subscription_of(Reader(), faults)
    faults(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    with pytest.raises(BrokerUnavailable, match=r"refuses this client: wrong password\. Correct user and"):
        subscription.poll(0, 10)


PARTITIONS_ARE_LOST = [
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
]


@pytest.mark.parametrize("code", PARTITIONS_ARE_LOST)
def test_a_commit_during_a_rebalance_or_of_a_topic_that_is_gone_is_refused_without_an_error(code: int) -> None:
    reader = Reader()
    subscription = subscription_of(reader)
    assert subscription.commit({TopicPartition("topic", 0): 1})
    reader.place_error = KafkaError(code)
    assert not subscription.commit({TopicPartition("topic", 0): 1})
    reader.commit_error = KafkaException(KafkaError(code))
    assert not subscription.commit({TopicPartition("topic", 0): 1})


def test_offsets_of_partitions_that_the_member_has_lost_are_not_committed() -> None:
    reader = Reader()

    assert subscription_of(reader).commit({TopicPartition("topic", 0): 1, TopicPartition("topic", 1): 5})

    assert reader.committed == [("topic", 0, 1)]


@pytest.mark.parametrize("code", [KafkaError._WAIT_COORD, KafkaError.NOT_COORDINATOR, KafkaError.REQUEST_TIMED_OUT])
def test_a_commit_is_tried_again_while_the_coordinator_moves(code: int) -> None:
    class Moving(Reader):
        tries = 0

        def commit(self, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> list[Any]:
            self.tries += 1
            self.place_error = KafkaError(code) if self.tries == 1 else None
            if self.tries == 2:
                raise KafkaException(KafkaError(code))
            return super().commit(offsets, asynchronous)

    reader = Moving()
    subscription_of(reader).commit({TopicPartition("topic", 0): 1})
    assert reader.tries == 3


@pytest.mark.parametrize("is_there", [True, False])
def test_a_late_commit_is_waited_for_as_long_as_a_broker_is_there(
    is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the commit waits in a thread, in real time
    monkeypatch.setattr(subscriptions, "CONNECT_SECONDS", 0.1)
    answered = threading.Event()
    knocks: list[float] = []

    class Late(Reader):
        def commit(self, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> list[Any]:
            assert answered.wait(SECONDS)
            return super().commit(offsets, asynchronous)

    def knock(seconds: float) -> None:
        knocks.append(seconds)
        if not is_there:
            raise BrokerUnavailable("nobody is there")
        if len(knocks) == 3:
            answered.set()

    client: Any = Late()
    subscription = ConfluentSubscription(client, Faults(ACCESS), ["topic"], lambda places, seconds: {}, knock)
    try:
        if is_there:
            subscription.commit({TopicPartition("topic", 0): 1})
            assert len(knocks) >= 3
        else:
            with pytest.raises(BrokerUnavailable, match="nobody is there"):
                subscription.commit({TopicPartition("topic", 0): 1})
    finally:
        answered.set()


PLACE = TopicPartition("topic", 0)


class Reporting(Reader):
    """Reports on commits with the next poll."""

    def __init__(self, *errors: int | None) -> None:
        super().__init__()
        self.reports = CommitReports()
        self._errors = list(errors)
        self._asked: list[confluent_kafka.TopicPartition] = []

    def commit(self, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> list[Any]:
        assert asynchronous, "a poll would wait for the answer"
        self._asked = offsets
        return super().commit(offsets, asynchronous)

    def poll(self, timeout: float) -> Message | None:
        if self._asked:
            code = self._errors.pop(0)
            self.reports(None if code is None else KafkaError(code), self._asked)
            self._asked = []
        return super().poll(timeout)


def test_a_member_that_reads_on_commits_again_what_was_late() -> None:
    reader = Reporting(KafkaError.REQUEST_TIMED_OUT, KafkaError.COORDINATOR_NOT_AVAILABLE, None)
    member = subscription_of(reader, reports=reader.reports)
    assert [member.commit_soon({PLACE: 1}) for _ in range(6)] == [False] * 5 + [True]
    assert reader.committed == [("topic", 0, 1)] * 3


def test_what_a_member_that_reads_on_is_told_of_its_commits() -> None:
    refused = KafkaError.GROUP_AUTHORIZATION_FAILED
    reader = Reporting(KafkaError.ILLEGAL_GENERATION, KafkaError.TOPIC_AUTHORIZATION_FAILED, refused)
    member = subscription_of(reader, reports=reader.reports)

    def commit() -> bool:
        assert not member.commit_soon({PLACE: 1})
        return member.commit_soon({PLACE: 1})

    assert not commit()  # during a rebalance
    with pytest.raises(TopicNotReadable, match="topic"):
        commit()
    with pytest.raises(BrokerUnavailable):
        commit()


@pytest.mark.parametrize("value", [b"v", b"", None])
def test_a_record_that_comes_with_the_answer_to_a_commit_comes_with_the_next_poll(value: bytes | None) -> None:
    reader = Reporting(None)
    member = subscription_of(reader, reports=reader.reports)
    member.commit_soon({PLACE: 1})
    reader.messages += [message(1, value=value), message(2)]
    assert member.commit_soon({PLACE: 1})
    assert [record.offset for record in member.poll(0, 10)] == [1, 2]
    assert member.poll(0, 10) == []


def test_a_record_that_came_with_an_answer_is_dropped_with_its_partition() -> None:
    reader = Reporting(None)
    member = subscription_of(reader, reports=reader.reports)
    member.on_revoked = lambda partitions: {}
    member.commit_soon({PLACE: 1})
    reader.messages += [message(1)]
    member.commit_soon({PLACE: 1})
    reader.callbacks["on_revoke"](reader, reader.assignment())
    assert member.poll(0, 10) == []


@pytest.mark.parametrize("code", [KafkaError.INVALID_COMMIT_OFFSET_SIZE, KafkaError.GROUP_AUTHORIZATION_FAILED])
def test_any_other_commit_that_fails_is_reported(code: int) -> None:
    reader = Reader()
    subscription = subscription_of(reader)
    reader.place_error = KafkaError(code)
    with pytest.raises(BrokerUnavailable):
        subscription.commit({TopicPartition("topic", 0): 1})
    reader.commit_error = KafkaException(KafkaError(code))
    with pytest.raises(BrokerUnavailable):
        subscription.commit({TopicPartition("topic", 0): 1})


def test_a_topic_that_may_not_be_read_is_named_by_reading_and_by_committing() -> None:
    forbidden = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "why")
    reader = Reader(message(error=forbidden.code()))
    subscription = subscription_of(reader)
    complaints = []
    with pytest.raises(TopicNotReadable) as raised:
        subscription.poll(0, 10)
    complaints.append(raised.value)
    reader.place_error = forbidden
    with pytest.raises(TopicNotReadable) as raised:
        subscription.commit({TopicPartition("topic", 0): 1})
    complaints.append(raised.value)
    reader.commit_error = KafkaException(forbidden)
    with pytest.raises(TopicNotReadable) as raised:
        subscription.commit({TopicPartition("topic", 0): 1})
    complaints.append(raised.value)
    for complaint in complaints:
        assert complaint.topics == {"topic"}
        assert "refuses this client: why. Allow it to read the topic, by an ACL" in str(complaint)


def test_partitions_that_were_not_told_yet_are_told_before_the_client_is_closed() -> None:
    class Late(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def poll(self, timeout: float) -> Message | None:
            self.calls.append(f"poll {timeout}")
            raise KafkaException(KafkaError(KafkaError._FAIL))  # as a client in trouble may

        def close(self) -> None:
            self.calls.append("close")

    reader = Late()
    subscription_of(reader).close()
    assert reader.calls == ["poll 0", "close"]
