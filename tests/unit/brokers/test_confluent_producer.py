"""Sending with confluent-kafka: what its errors mean for the records of a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from django_outbox.brokers.base import (
    Acknowledged,
    Failed,
    Producer,
    Record,
    Refused,
    SendResult,
    TopicForbidden,
    TopicMissing,
    TopicTrouble,
)
from django_outbox.brokers.confluent import client as confluent_client
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.producer import ConfluentBrokerProducer
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.records import SECONDS, numbered, once, seconds_until
from tests.support.brokers.silence import all_answer
from tests.support.clock import Clock

LOCATION = "kafka://broker:9092"
ACCESS = Access(parse_url(LOCATION), "PLAINTEXT", TLS(), lambda: False)

Report = Callable[[KafkaError | None, Any], None]
CLOCK = Clock(1000.0)


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass only while a client waits."""
    monkeypatch.setattr(time, "monotonic", CLOCK)


class Raised:
    """An error that comes from ``produce`` itself."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Client:
    """Stands for a ``confluent_kafka.Producer``, and answers in turn what it is told to.

    Answers are an offset, an error, the number of a librdkafka error, or None for none at all.
    """

    def __init__(self, *answers: object, gives_up_with: int = KafkaError._PURGE_INFLIGHT) -> None:
        self._given_up = gives_up_with
        self._answers = list(answers)
        self._waiting: list[tuple[object, Report]] = []
        self.sent: list[bytes] = []
        self.purged = False
        self.closed = False

    def list_topics(self, topic: str, timeout: float) -> None:
        """Connects."""

    def __len__(self) -> int:
        return len(self._waiting)

    def produce(self, topic: str, value: bytes, key: bytes, *, on_delivery: Report, headers: object) -> None:
        answer = self._answers[0]
        if isinstance(answer, Raised):
            if not isinstance(answer.error, BufferError):
                self._asked_again(answer)
            raise answer.error
        self._answers.pop(0)
        self.sent.append(value)
        self._waiting.append((answer, on_delivery))

    def _asked_again(self, answer: Raised) -> None:
        # An error is asked for a second time, to be told what to do about it.
        if getattr(answer, "raised", False):
            self._answers.pop(0)
        answer.raised = True  # type: ignore[attr-defined]

    def poll(self, timeout: float) -> int:
        self._answers.pop(0)  # there is room now
        return 0

    def flush(self, timeout: float) -> int:
        for answer, report in [pair for pair in self._waiting if pair[0] is not None]:
            if isinstance(answer, BaseException):
                raise answer
            self._report(answer, report)
        self._waiting = [pair for pair in self._waiting if pair[0] is None]
        if self._waiting:
            CLOCK.now += timeout
        return len(self._waiting)

    def _report(self, answer: Any, report: Report) -> None:
        if isinstance(answer, KafkaError):
            report(answer, None)
        else:
            report(None, Message(topic="topic", partition=0, offset=answer))

    def purge(self, *, in_queue: bool, in_flight: bool, blocking: bool) -> None:
        assert in_queue
        assert in_flight
        assert not blocking
        self.purged = True
        waiting, self._waiting = self._waiting, []
        for _, report in waiting:
            report(KafkaError(self._given_up), None)

    def close(self) -> None:
        self.closed = True


def producer_of(*answers: object, **faults: Refused | TopicTrouble) -> Producer:
    return producer_with(Client(*answers), **faults)


def producer_with(client: Client, told: Faults | None = None, **faults: Refused | TopicTrouble) -> Producer:
    stand_in: Any = client
    return ConfluentBrokerProducer(stand_in, told or Faults(ACCESS), once(faults), all_answer())


def outcomes_of(producer: Producer, count: int, timeout: float = SECONDS) -> list[SendResult]:
    return producer.send(numbered("topic", count), timeout)


def error(code: int) -> KafkaError:
    return KafkaError(code, "why")


REFUSED = [
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_RECORD,
]
TOPIC = [
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.POLICY_VIOLATION,
]
MISSING = [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION]
BROKER = [
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.PRODUCER_FENCED,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._AUTHENTICATION,
    KafkaError._FATAL,
    KafkaError._STATE,
    KafkaError._SSL,
    KafkaError.UNKNOWN,
]
LATE = [KafkaError.REQUEST_TIMED_OUT, KafkaError._MSG_TIMED_OUT]
named = {"ids": lambda code: KafkaError(code).name()}
raised_or_answered = pytest.mark.parametrize(
    "comes", [lambda told: Raised(KafkaException(told)), lambda told: told], ids=["raised", "answered"]
)
Comes = Callable[[KafkaError], object]


# Sending


@pytest.mark.parametrize("code", REFUSED, **named)
def test_some_errors_refuse_the_record_for_good(code: int) -> None:
    producer = producer_of(1, Raised(KafkaException(error(code))), 2)
    assert outcomes_of(producer, 3) == [Acknowledged(0, 1), Refused("why"), Acknowledged(0, 2)]
    assert producer.usable


@raised_or_answered
@pytest.mark.parametrize("code", TOPIC, **named)
def test_some_errors_are_the_topics_fault(code: int, comes: Comes) -> None:
    producer = producer_of(1, comes(error(code)))
    outcome = TopicMissing() if code in MISSING else TopicTrouble("why")
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        outcome = TopicForbidden("why")
    assert outcomes_of(producer, 2) == [Acknowledged(0, 1), outcome]
    assert producer.usable


def test_a_record_that_goes_with_its_partition_is_the_topics_fault() -> None:
    producer = producer_of(1, error(KafkaError._DESTROY), 2)
    assert outcomes_of(producer, 3) == [Acknowledged(0, 1), TopicMissing(), Acknowledged(0, 2)]
    assert producer.usable


def test_a_record_that_goes_with_its_producer_is_not() -> None:
    client = Client(1, None, gives_up_with=KafkaError._DESTROY)
    late = TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer_with(client), 2, timeout=0.1) == [Acknowledged(0, 1), late]
    with pytest.raises(BrokerUnavailable):
        outcomes_of(producer_of(Raised(KafkaException(error(KafkaError._DESTROY)))), 1)


def test_a_library_that_will_not_go_on_is_the_broker_s_fault_however_it_says_so() -> None:
    """As when a client may not write to any topic: ``flush()`` raises what was told to ``error_cb``."""
    fatal = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "why", fatal=True)
    producer = producer_of(KafkaException(fatal))
    with pytest.raises(BrokerUnavailable, match="did not accept a batch: why"):
        outcomes_of(producer, 1)
    assert not producer.usable


def test_nothing_is_asked_of_the_library_for_records_whose_topics_are_all_in_trouble() -> None:
    fatal = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "why", fatal=True)
    producer = producer_of(KafkaException(fatal), topic=TopicForbidden("why"))
    assert outcomes_of(producer, 2) == [TopicForbidden("why")] * 2


@raised_or_answered
def test_other_errors_fail_the_record_for_now(comes: Comes) -> None:
    producer = producer_of(1, comes(error(KafkaError.INVALID_CONFIG)), 2)
    assert outcomes_of(producer, 3) == [Acknowledged(0, 1), Failed("why"), Acknowledged(0, 2)]
    assert producer.usable


@raised_or_answered
@pytest.mark.parametrize("code", BROKER, **named)
def test_some_errors_are_nobodys_fault_but_the_brokers(code: int, comes: Comes) -> None:
    producer = producer_of(comes(error(code)))
    reason = f"no acknowledgement within {SECONDS:g} s" if code in LATE else "why"
    with pytest.raises(BrokerUnavailable, match=f"^{LOCATION} did not accept a batch: {reason}\\.$"):
        outcomes_of(producer, 1)
    assert not producer.usable


@pytest.mark.parametrize("code", BROKER, **named)
def test_records_without_an_answer_wait_when_others_were_taken(code: int) -> None:
    producer = producer_of(1, error(code), 2)
    outcomes = outcomes_of(producer, 3)
    assert (outcomes[0], outcomes[2]) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert isinstance(outcomes[1], TopicTrouble)
    assert not producer.usable


@pytest.mark.parametrize("code", BROKER, **named)
def test_what_comes_behind_an_error_of_produce_itself_is_not_started(code: int) -> None:
    client = Client(1, Raised(KafkaException(error(code))), 2)
    acknowledged, *others = outcomes_of(producer_with(client), 3)
    assert acknowledged == Acknowledged(0, 1)
    assert [type(outcome) for outcome in others] == [TopicTrouble, TopicTrouble]
    assert client.sent == [b"0"]


def test_a_fatal_error_ends_the_producer_whatever_its_number() -> None:
    producer = producer_of(KafkaError(KafkaError.INVALID_CONFIG, "why", fatal=True))
    with pytest.raises(BrokerUnavailable, match="did not accept a batch: why"):
        outcomes_of(producer, 1)
    assert not producer.usable


# An error of a whole batch, which comes for each of its records


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError._INVALID_DIFFERENT_RECORD,
        KafkaError.INVALID_MSG,
    ],
    **named,
)
def test_records_that_were_refused_together_are_sent_again_one_by_one(code: int) -> None:
    spoiled = error(code)
    client = Client(1, spoiled, spoiled, spoiled, 2, spoiled, 3)
    producer = producer_with(client)
    outcomes = producer.send([Record("topic", None, b"%d" % number) for number in range(4)], SECONDS)
    assert client.sent == [b"0", b"1", b"2", b"3", b"1", b"2", b"3"]
    assert [outcomes[index] for index in (0, 1, 3)] == [Acknowledged(0, offset) for offset in (1, 2, 3)]
    assert type(outcomes[2]) is (Refused if code in REFUSED else Failed)
    assert producer.usable


def test_order_of_a_key_is_restored_when_a_record_is_taken_at_the_second_try() -> None:
    spoiled = error(KafkaError.MSG_SIZE_TOO_LARGE)
    records = [Record("topic", key, key + b"%d" % number) for number in range(3) for key in (b"a", b"b")]
    client = Client(spoiled, 1, 2, 3, 4, 5, *(6, 7, 8))
    outcomes = producer_with(client).send(records, SECONDS)
    assert client.sent[6:] == [b"a0", b"a1", b"a2"]
    assert outcomes == [Acknowledged(0, offset) for offset in (6, 1, 7, 3, 8, 5)]


def test_what_is_refused_for_good_moves_nothing() -> None:
    spoiled = error(KafkaError.MSG_SIZE_TOO_LARGE)
    client = Client(spoiled, 1, spoiled)
    assert outcomes_of(producer_with(client), 2) == [Refused("why"), Acknowledged(0, 1)]
    assert client.sent == [b"0", b"1", b"0"]


def test_a_deadline_that_passes_while_records_go_one_by_one_leaves_the_rest() -> None:
    spoiled = error(KafkaError.MSG_SIZE_TOO_LARGE)
    client = Client(1, spoiled, spoiled, 2, None)
    producer = producer_with(client)
    outcomes = producer.send([Record("topic", None, b"%d" % number) for number in range(3)], 0.1)
    assert outcomes[:2] == [Acknowledged(0, 1), Acknowledged(0, 2)]
    assert outcomes[2] == TopicTrouble("no acknowledgement within 0.1 s")
    assert not producer.usable


def test_records_that_were_refused_together_are_not_dead_if_there_is_no_time_to_send_them_alone() -> None:
    spoiled = error(KafkaError.MSG_SIZE_TOO_LARGE)
    missed = TopicTrouble("no acknowledgement within 0.1 s")
    alone = producer_of(1, spoiled, spoiled, None)
    assert outcomes_of(alone, 3, timeout=0.1) == [Acknowledged(0, 1), missed, missed]
    together = producer_of(1, spoiled, None, spoiled)
    assert outcomes_of(together, 4, timeout=0.1) == [Acknowledged(0, 1), missed, missed, missed]


# Encoding, room, deadlines


@pytest.mark.parametrize("raised", [TypeError("why"), ValueError("why")])
def test_what_the_library_cannot_encode_is_refused(raised: Exception) -> None:
    assert outcomes_of(producer_of(Raised(raised)), 1) == [Refused("It cannot be encoded: why")]


def test_a_library_without_room_is_asked_again() -> None:
    full = Raised(BufferError())
    assert outcomes_of(producer_of(1, full, full, 2), 2) == [Acknowledged(0, 1), Acknowledged(0, 2)]


NO_OFFSET = -1001


def test_an_offset_that_the_broker_does_not_tell_is_unknown() -> None:
    client = Client(NO_OFFSET, NO_OFFSET)
    assert outcomes_of(producer_with(client), 1) == [Acknowledged(0, None)]
    assert client.sent == [b"0", b"0"]


def test_what_is_told_to_be_in_the_log_but_not_where_is_sent_again_and_so_is_what_comes_after_it() -> None:
    records = [Record("topic", key, key + b"%d" % number) for number in range(2) for key in (b"a", b"b")]
    client = Client(NO_OFFSET, 1, 2, 3, *(4, 5))
    outcomes = producer_with(client).send(records, SECONDS)
    assert client.sent[4:] == [b"a0", b"a1"]
    assert outcomes == [Acknowledged(0, offset) for offset in (4, 1, 5, 3)]


def test_all_records_of_a_batch_share_one_deadline() -> None:
    client = Client(*[None] * 50)
    producer = producer_with(client)
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer, 50, timeout=0.3))
    assert 0.3 <= seconds < 0.6
    assert text == f"{LOCATION} did not accept a batch: no acknowledgement within 0.3 s."
    assert client.purged
    assert client.closed
    assert not producer.usable


def test_what_was_taken_before_the_deadline_counts_though_the_rest_was_not() -> None:
    client = Client(1, None, 2, None)
    producer = producer_with(client)
    taken, missed = Acknowledged, TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 4, timeout=0.1) == [taken(0, 1), missed, taken(0, 2), missed]
    assert not producer.usable
    assert client.closed  # before the rows of what it still holds are no longer locked


@pytest.mark.parametrize(
    "told", [KafkaError(KafkaError._AUTHENTICATION, "wrong password"), KafkaError(-150, "wrong password", fatal=True)]
)
def test_a_client_that_is_refused_does_not_wait_for_the_deadline(told: KafkaError) -> None:
    faults = Faults(ACCESS)
    producer = producer_with(Client(None), faults)
    faults(told)
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer, 1))
    assert seconds < 1
    assert text == f"{LOCATION} did not accept a batch: wrong password."


def test_brokers_that_are_down_for_good_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confluent_client, "DOWN_SECONDS", 0.2)
    faults = Faults(ACCESS)
    producer = producer_with(Client(None), faults)
    faults(KafkaError(KafkaError._TRANSPORT, "Connection refused (after 3ms in state CONNECT)"))
    faults(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer, 1))
    assert seconds < 1
    assert text == f"{LOCATION} did not accept a batch: Connection refused."


@pytest.mark.parametrize(
    "told",
    [
        "Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
        "Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT, 1 identical error(s) "
        "suppressed)",
    ],
)
def test_an_error_is_shown_without_its_time_and_count(told: str) -> None:
    faults = Faults(ACCESS)
    faults(KafkaError(KafkaError._TRANSPORT, told))
    assert faults.reason == "Connect to ipv4#10.0.0.1:9092 failed: Connection refused"


def test_brokers_that_were_down_and_answer_again_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confluent_client, "DOWN_SECONDS", 0.0)
    faults = Faults(ACCESS)
    faults(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert faults.is_down
    assert outcomes_of(producer_with(Client(1), faults), 1) == [Acknowledged(0, 1)]
    assert not faults.is_down
    assert not faults.reason


@pytest.mark.parametrize("fatal", [False, True])
def test_a_refusal_is_forgotten_when_a_broker_takes_a_batch_unless_it_was_fatal(fatal: bool) -> None:
    faults = Faults(ACCESS)
    faults(KafkaError(KafkaError._AUTHENTICATION, "why", fatal=fatal))
    assert outcomes_of(producer_with(Client(1), faults), 1) == [Acknowledged(0, 1)]
    assert (faults.refusal is not None) is fatal


def test_a_signal_while_sending_leaves_nothing_behind_that_could_be_sent() -> None:
    client = Client(KeyboardInterrupt(), None)
    producer = producer_with(client)
    with pytest.raises(KeyboardInterrupt):
        outcomes_of(producer, 2)
    assert client.purged
    assert client.closed
    assert not producer.usable


def test_a_producer_that_is_closed_sends_nothing() -> None:
    client = Client()
    producer = producer_with(client)
    producer.close()
    with pytest.raises(BrokerUnavailable):
        outcomes_of(producer, 1)


def test_closing_does_not_wait_for_a_library_that_hangs() -> None:
    never = threading.Event()

    class Hanging(Client):
        def close(self) -> None:
            never.wait()

    producer_with(Hanging()).close()
    never.set()


# Topics


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

    client: Any = Client(1, 2, error(KafkaError.LEADER_NOT_AVAILABLE), 3)
    producer = ConfluentBrokerProducer(client, Faults(ACCESS), look_up, all_answer())
    for _ in range(4):
        outcomes_of(producer, 1)
    assert asked == [{"topic"}, {"topic"}]
