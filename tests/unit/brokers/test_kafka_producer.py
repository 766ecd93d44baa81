"""Sending with kafka-python: what its errors mean for the records of a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from django_outbox.brokers.base import (
    Acknowledged,
    Failed,
    Producer,
    Refused,
    SendResult,
    TopicForbidden,
    TopicMissing,
    TopicTrouble,
)
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.kafka.producer import KafkaBrokerProducer
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.records import SECONDS, numbered, once, seconds_until
from tests.support.brokers.silence import all_answer
from tests.support.clock import Clock

LOCATION = "kafka://broker:9092"
ACCESS = Access(parse_url(LOCATION), "PLAINTEXT", TLS(), lambda: False)
CLOCK = Clock(1000.0)


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass only while a client waits."""
    monkeypatch.setattr(time, "monotonic", CLOCK)


class Answer:
    """A record's future, as the client gives it: an error of its own, a place, or nothing ever."""

    base_offset: int | None = None

    def __init__(self, result: object = None) -> None:
        self.is_done = result is not None
        self.exception = result if isinstance(result, Exception) else None
        self.value = None if self.exception else result

    @property
    def _produce_future(self) -> Any:
        return SimpleNamespace(value=(self.base_offset, None, None))

    def get(self, timeout: float) -> Any:
        CLOCK.now += timeout
        raise kafka_errors.KafkaTimeoutError

    def succeeded(self) -> bool:
        return self.value is not None


class GivenUp(Answer):
    """The future of a record that the client gave up because of another one's error."""

    base_offset = -1


class Raised:
    """An error that comes from ``send`` itself."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Place:
    def __init__(self, offset: int) -> None:
        self.partition, self.offset = 0, offset


class Client:
    """Stands for a ``KafkaProducer``, and answers in turn what it is told to."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self._closed = False
        self.sent: list[object] = []

    def send(self, topic: str, **record: object) -> Answer:
        assert self._answers, "no more may be sent"
        answer = self._answers[0]
        if isinstance(answer, Raised) and isinstance(answer.error, kafka_errors.KafkaTimeoutError):
            CLOCK.now += 0.05
            raise answer.error  # each time
        self._answers.pop(0)
        self.sent.append(record["value"])
        if isinstance(answer, Raised):
            raise answer.error
        return answer if isinstance(answer, Answer) else Answer(answer)


def producer_of(*answers: object, **faults: Refused | TopicTrouble) -> Producer:
    return producer_with(Client(*answers), **faults)


def producer_with(*clients: Client, **faults: Refused | TopicTrouble) -> Producer:
    """A producer that takes these clients, one after the other; the broker tells of topics once and is gone then."""
    return KafkaBrokerProducer(iter(clients).__next__, ACCESS, once(faults), all_answer())


def outcomes_of(producer: Producer, count: int, timeout: float = SECONDS) -> list[SendResult]:
    return producer.send(numbered("topic", count), timeout)


REFUSED = [
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidRecordError,
]
TOPIC = [
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NotEnoughReplicasError,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.PolicyViolationError,
]
BROKER = [
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailedError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.UnsupportedCompressionTypeError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.ProducerFencedError,
    kafka_errors.IllegalStateError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.KafkaProtocolError,
    kafka_errors.KafkaStorageError,
    kafka_errors.NotLeaderForPartitionError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.UnknownError,
    kafka_errors.Cancelled,
]
raised_or_answered = pytest.mark.parametrize("comes", [Raised, Answer], ids=["raised", "answered"])


@raised_or_answered
@pytest.mark.parametrize("error", REFUSED)
def test_some_errors_refuse_the_record_for_good(error: type[KafkaError], comes: type) -> None:
    one, refused, other = outcomes_of(producer_of(Place(1), comes(error("why")), Place(2)), 3)
    assert (one, other) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert isinstance(refused, Refused)
    assert error.__name__ in refused.reason
    assert "why" in refused.reason


@raised_or_answered
@pytest.mark.parametrize("error", TOPIC)
def test_some_errors_are_the_topics_fault(error: type[KafkaError], comes: type) -> None:
    one, trouble = outcomes_of(producer_of(Place(1), comes(error("why"))), 2)
    assert one == Acknowledged(0, 1)
    assert isinstance(trouble, TopicTrouble)
    if error is kafka_errors.UnknownTopicOrPartitionError:
        assert trouble == TopicMissing()
    else:
        assert error.__name__ in trouble.reason


@raised_or_answered
def test_other_errors_fail_the_record_for_now(comes: type) -> None:
    one, failed, other = outcomes_of(
        producer_of(Place(1), comes(kafka_errors.InvalidConfigurationError("why")), Place(2)), 3
    )
    assert (one, other) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert isinstance(failed, Failed)
    assert "why" in failed.reason


NOT_WORTH_ANOTHER_TRY = [
    error for error in (*REFUSED, *TOPIC, kafka_errors.InvalidConfigurationError) if not error.retriable
]


@pytest.mark.parametrize("error", NOT_WORTH_ANOTHER_TRY)
def test_what_the_client_gave_up_because_of_another_record_is_sent_again(error: type[KafkaError]) -> None:
    fault = error("why")
    spoiled = Client(Place(1), Answer(fault), GivenUp(fault), Answer(KafkaError("part of a batch")), GivenUp(fault))
    fresh = Client(Place(2), Answer(fault), GivenUp(fault))
    last = Client(Place(3))
    producer = producer_with(spoiled, fresh, last)
    outcomes = outcomes_of(producer, 5)
    assert [spoiled.sent, fresh.sent, last.sent] == [[b"0", b"1", b"2", b"3", b"4"], [b"2", b"3", b"4"], [b"4"]]
    assert [outcomes[index] for index in (0, 2, 4)] == [Acknowledged(0, offset) for offset in (1, 2, 3)]
    assert type(outcomes[1]) is type(outcomes[3]) is not Acknowledged
    assert producer.usable


def test_an_error_that_the_client_does_not_know_fails_the_record_for_now() -> None:
    (failed,) = outcomes_of(producer_of(Answer(kafka_errors.for_code(9999)("why"))), 1)
    assert isinstance(failed, Failed)


def refused_together(error: type[KafkaError], count: int) -> list[Answer]:
    """The futures of one batch of the client, which the broker refused without saying which record is at fault."""
    fault = error("why")
    return [Answer(fault) for _ in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.InvalidRecordError,
        kafka_errors.InvalidTimestampError,
        kafka_errors.MessageSizeTooLargeError,
        kafka_errors.RecordListTooLargeError,
    ],
)
def test_records_that_were_refused_together_are_sent_again_one_by_one(error: type[KafkaError]) -> None:
    together = Client(*refused_together(error, 3))
    alone = Client(Place(1), Answer(error("why")))
    rest = Client(Place(2))
    producer = producer_with(together, alone, rest)
    one, guilty, other = outcomes_of(producer, 3)
    assert [together.sent, alone.sent, rest.sent] == [[b"0", b"1", b"2"], [b"0", b"1"], [b"2"]]
    assert (one, other) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert type(guilty) is (Refused if error in REFUSED else Failed)
    assert producer.usable


def test_what_was_refused_together_and_what_was_given_up_keep_the_order_of_the_records() -> None:
    fault = kafka_errors.InvalidRecordError("why")
    spoiled = Client(GivenUp(fault), Answer(fault), GivenUp(fault), Answer(fault), GivenUp(fault), GivenUp(fault))
    fresh = Client(*(Place(offset) for offset in range(6)))
    assert outcomes_of(producer_with(spoiled, fresh), 6) == [Acknowledged(0, offset) for offset in range(6)]
    assert fresh.sent == spoiled.sent == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_each_batch_of_the_client_is_judged_by_itself() -> None:
    """Errors may be equal, and yet those of two records that the broker named."""
    first, second = (Answer(kafka_errors.InvalidRecordError("why")) for _ in range(2))
    client = Client(first, second)
    assert [type(outcome) for outcome in outcomes_of(producer_with(client), 2)] == [Refused, Refused]
    assert client.sent == [b"0", b"1"]


def test_a_topic_that_is_refused_is_not_tried_again_for_each_record() -> None:
    client = Client(*refused_together(kafka_errors.InvalidTopicError, 3))
    assert [type(outcome) for outcome in outcomes_of(producer_with(client), 3)] == [Refused] * 3
    assert client.sent == [b"0", b"1", b"2"]


def test_a_deadline_that_passes_while_records_go_one_by_one_leaves_the_rest() -> None:
    together = Client(*refused_together(kafka_errors.InvalidRecordError, 3))
    producer = producer_with(together, Client(Place(1), Answer()))
    taken, missed = Acknowledged(0, 1), TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 3, timeout=0.1) == [taken, missed, missed]
    assert not producer.usable


def test_records_that_were_refused_together_are_not_dead_if_there_is_no_time_to_send_them_alone() -> None:
    producer = producer_with(Client(Place(1), *refused_together(kafka_errors.InvalidRecordError, 2), Answer()))
    missed = TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 4, timeout=0.1) == [Acknowledged(0, 1), missed, missed, missed]
    assert not producer.usable


def test_no_client_is_made_behind_the_deadline() -> None:
    class Late(Answer):
        is_done = False

        def __init__(self, error: Exception) -> None:
            self.exception, self.value = error, None

        def get(self, timeout: float) -> Any:
            CLOCK.now += 0.2
            self.is_done = True

    fault = kafka_errors.InvalidRecordError("why")
    producer = producer_with(Client(Place(1), Late(fault), Late(fault)))
    missed = TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 3, timeout=0.1) == [Acknowledged(0, 1), missed, missed]
    assert not producer.usable


@pytest.mark.parametrize("error", NOT_WORTH_ANOTHER_TRY)
def test_a_client_that_an_error_made_useless_is_not_used_again(error: type[KafkaError]) -> None:
    producer = producer_of(Place(1), Answer(error("why")))
    outcomes_of(producer, 2)
    assert not producer.usable


def test_a_client_with_another_idea_of_its_futures_makes_no_record_dead() -> None:
    class Changed(Answer):
        @property
        def _produce_future(self) -> Any:
            raise AttributeError

    fault = kafka_errors.MessageSizeTooLargeError("why")
    producer = producer_with(Client(Place(1), Changed(fault)), Client(Changed(fault)))
    acknowledged, left = outcomes_of(producer, 2)
    assert acknowledged == Acknowledged(0, 1)
    assert isinstance(left, TopicTrouble)
    assert not producer.usable


def test_a_broker_that_goes_away_while_the_rest_is_to_be_sent_again_is_reported() -> None:
    fault = kafka_errors.MessageSizeTooLargeError("why")
    clients = iter([Client(Answer(fault), GivenUp(fault))])

    def connect() -> Client:
        for client in clients:
            return client
        raise BrokerUnavailable("kafka://broker:9092 cannot be reached.")

    producer = KafkaBrokerProducer(connect, ACCESS, lambda topics, seconds: {}, all_answer())
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        outcomes_of(producer, 2)
    assert not producer.usable


@raised_or_answered
@pytest.mark.parametrize("error", BROKER)
def test_some_errors_are_nobodys_fault_but_the_brokers(error: type[KafkaError], comes: type) -> None:
    producer = producer_of(comes(error("why")))
    with pytest.raises(BrokerUnavailable, match=r"kafka://broker:9092 did not accept a batch: .+\.") as raised:
        outcomes_of(producer, 1)
    assert error.__name__ in str(raised.value)
    assert not producer.usable


@raised_or_answered
@pytest.mark.parametrize("error", BROKER)
def test_records_without_an_answer_wait_when_others_were_taken(error: type[KafkaError], comes: type) -> None:
    producer = producer_of(Place(1), comes(error("why")), Place(2))
    outcomes = outcomes_of(producer, 3)
    assert outcomes[0] == Acknowledged(0, 1)
    assert isinstance(outcomes[1], TopicTrouble)
    assert not producer.usable
    # What comes behind an error of send() itself is not started any more.
    assert type(outcomes[2]) is (TopicTrouble if comes is Raised else Acknowledged)


def test_a_client_without_room_is_waited_for_until_the_deadline() -> None:
    client = Client(Raised(kafka_errors.KafkaTimeoutError("no room")))
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer_with(client), 1, timeout=0.3))
    assert 0.3 <= seconds < 0.6
    assert text == f"{LOCATION} did not accept a batch: no acknowledgement within 0.3 s."


@pytest.mark.parametrize("error", [TypeError("why"), ValueError("why")])
def test_what_the_client_cannot_encode_is_refused(error: Exception) -> None:
    assert outcomes_of(producer_of(Raised(error)), 1) == [Refused("It cannot be encoded: why")]


def test_an_offset_that_the_broker_does_not_tell_is_unknown() -> None:
    assert outcomes_of(producer_of(Place(-1)), 1) == [Acknowledged(0, None)]


def test_all_records_of_a_batch_share_one_deadline() -> None:
    producer = producer_of(*[Answer()] * 50)
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer, 50, timeout=0.3))
    assert 0.3 <= seconds < 0.6
    assert text == "kafka://broker:9092 did not accept a batch: no acknowledgement within 0.3 s."


def test_what_was_taken_before_the_deadline_counts_though_the_rest_was_not() -> None:
    client = Client(Place(1), Answer(), Place(2), Answer())
    producer = producer_with(client)
    taken, missed = Acknowledged, TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 4, timeout=0.1) == [taken(0, 1), missed, taken(0, 2), missed]
    assert not producer.usable
    assert client._closed  # before the rows of what it still holds are no longer locked


@pytest.mark.parametrize(
    "fault",
    [TopicMissing(), TopicForbidden("why"), TopicTrouble("why"), Refused("why")],
    ids=lambda fault: type(fault).__name__,
)
def test_records_of_a_topic_with_a_fault_are_not_sent(fault: Refused | TopicTrouble) -> None:
    producer = producer_of(topic=fault)
    assert outcomes_of(producer, 2) == [fault, fault]
    assert producer.usable


def test_a_topic_is_asked_about_once_until_it_makes_trouble() -> None:
    asked = []

    def look_up(topics: Sequence[str], seconds: float) -> dict[str, Refused | TopicTrouble]:
        asked.append(topics)
        return {}

    client = Client(Place(1), Place(2), kafka_errors.LeaderNotAvailableError(), Place(3))
    producer = KafkaBrokerProducer(lambda: client, ACCESS, look_up, all_answer())
    for _ in range(4):
        outcomes_of(producer, 1)
    assert asked == [{"topic"}, {"topic"}]
