"""What becomes of a batch, whatever the client library: whose fault it is, and when it is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import pytest

from django_outbox.brokers.base import (
    Acknowledged,
    Record,
    Refused,
    SendResult,
    TopicForbidden,
    TopicMissing,
    TopicTrouble,
)
from django_outbox.brokers.calls import GRACE_SECONDS, Call, Patience
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.producer import BatchProducer, TopicFaults
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.records import SECONDS
from tests.support.brokers.silence import all_answer
from tests.support.clock import Clock
from tests.support.processes import wait_until

TAKEN = Acknowledged(0, 0)


class Scripted(BatchProducer):
    """Gets these answers, and asks this broker about topics."""

    def __init__(
        self,
        answers: dict[str, SendResult],
        *told: TopicFaults,
        refused: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(
            Access(parse_url("kafka://broker:9092"), "PLAINTEXT", TLS(), interrupted), self.ask, all_answer()
        )
        self._answers = answers
        self._told = list(told)
        self._broken = refused
        self.asked: list[tuple[set[str], float]] = []
        self.started = 0  # records
        self.ends_at = ""  # the topic
        self.closed = False

    def ask(self, topics: Collection[str], seconds: float) -> TopicFaults:
        self.asked.append((set(topics), seconds))
        if not self._told:
            raise BrokerUnavailable("it is gone.")
        if not self._usable:
            assert self.closed, "nothing may be sent meanwhile"
        return self._told.pop(0)

    def _send_once(
        self, records: Sequence[Record], outcomes: list[SendResult | None], chosen: Iterable[int], patience: Patience
    ) -> set[int]:
        for index in chosen:
            if records[index].topic == self.ends_at:
                break
            outcomes[index] = self._answers.get(records[index].topic)
            self.started += 1
        self._refused = self._broken
        if not all(outcomes):
            self._usable = False
        return set()

    def _reason(self, timeout: float) -> str:
        return "no answer"

    def close(self) -> None:
        self.closed = True


def outcomes(producer: BatchProducer, *topics: str) -> list[SendResult]:
    return producer.send([Record(topic, b"k", b"v") for topic in topics], SECONDS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_batch_without_any_answer_is_the_broker_s_fault_if_the_broker_tells_nothing(
    clock: Clock,
) -> None:
    producer = Scripted({}, {})
    with pytest.raises(BrokerUnavailable, match=r"^kafka://broker:9092 did not accept a batch: no answer\.$"):
        outcomes(producer, "one", "other")
    assert producer.asked == [({"one", "other"}, SECONDS), ({"one", "other"}, 1.0)]
    assert producer.closed


def test_a_batch_without_any_answer_is_its_topics_fault_if_the_broker_tells_of_them() -> None:
    producer = Scripted({}, {}, {"gone": TopicMissing(), "secret": TopicForbidden("not allowed")})
    assert outcomes(producer, "gone", "stuck", "secret", "stuck") == [
        TopicMissing(),
        TopicTrouble("no answer"),
        TopicForbidden("not allowed"),
        TopicTrouble("no answer"),
    ]
    assert producer.closed
    assert not producer.usable


def test_a_producer_that_the_broker_refuses_blames_no_topic() -> None:
    producer = Scripted({}, {}, {}, refused=True)
    with pytest.raises(BrokerUnavailable, match="did not accept a batch: no answer"):
        outcomes(producer, "topic")
    assert len(producer.asked) == 1


def test_who_is_to_end_does_not_ask() -> None:
    producer = Scripted({}, {}, {}, interrupted=lambda: True)
    with pytest.raises(BrokerUnavailable):
        outcomes(producer, "topic")
    assert len(producer.asked) == 1


def test_a_batch_with_any_acknowledgement_needs_no_question() -> None:
    producer = Scripted({"good": TAKEN, "bad": Refused("no")}, {})
    assert outcomes(producer, "good", "stuck", "bad") == [TAKEN, TopicTrouble("no answer"), Refused("no")]
    assert len(producer.asked) == 1


def test_a_batch_of_refused_records_and_silence_is_asked_about() -> None:
    producer = Scripted({"bad": Refused("no")}, {}, {})
    assert outcomes(producer, "bad", "stuck") == [Refused("no"), TopicTrouble("no answer")]


# Taking records while others are on their way


def test_records_are_sent_while_later_ones_are_made() -> None:
    producer = Scripted({"topic": TAKEN}, {})
    started = []

    def records() -> Iterator[Record]:
        for _ in range(1000):
            started.append(producer.started)
            yield Record("topic", b"k", b"v")

    assert producer.send(records(), SECONDS) == [TAKEN] * 1000
    assert started[0] == 0
    assert 0 < started[500] <= 500


def test_an_error_while_records_are_made_ends_the_producer() -> None:
    def records() -> Iterator[Record]:
        yield Record("topic", b"k", b"v")
        raise ZeroDivisionError

    producer = Scripted({"topic": TAKEN}, {})
    with pytest.raises(ZeroDivisionError):
        producer.send(records(), SECONDS)
    assert producer.closed


def test_a_topic_that_cannot_be_written_to_is_asked_about_once_in_a_batch() -> None:
    producer = Scripted({"good": TAKEN, "new": TAKEN}, {"gone": TopicMissing()}, {})
    assert outcomes(producer, *["good", "gone"] * 500, "new") == [TAKEN, TopicMissing()] * 500 + [TAKEN]
    assert [topics for topics, _ in producer.asked] == [{"good", "gone"}, {"new"}]


def test_acknowledgements_count_though_a_later_topic_cannot_be_asked_about() -> None:
    producer = Scripted({"good": TAKEN, "late": TAKEN}, {})

    results = producer.send([Record("good", b"key", b"")] * 300 + [Record("late", b"key", b"")] * 200, SECONDS)

    assert results[:200] == [TAKEN] * 200
    assert all(isinstance(result, TopicTrouble) for result in results[200:])
    assert not producer.usable
    assert producer.closed


def test_records_that_a_producer_did_not_take_before_it_ended_wait() -> None:
    producer = Scripted({"good": TAKEN}, {})
    producer.ends_at = "end"
    missed = TopicTrouble("no answer")
    assert outcomes(producer, "good", "end", *["good"] * 1000) == [TAKEN, missed, *[missed] * 1000]
    assert producer.closed


# Waiting


def test_answers_are_waited_for_until_the_deadline(clock: Clock) -> None:
    patience = Patience(clock.now + SECONDS, lambda: False)
    clock.now += SECONDS - 0.1
    assert not patience.is_over()
    clock.now += 0.1
    assert patience.is_over()


def test_who_is_to_end_waits_as_long_as_answers_come_and_no_longer(clock: Clock) -> None:
    patience = Patience(clock.now + SECONDS, lambda: True)
    for left in range(10, 0, -1):
        clock.now += 0.9 * GRACE_SECONDS
        assert not patience.is_over(left)
    clock.now += 0.9 * GRACE_SECONDS
    assert not patience.is_over(1)
    clock.now += 0.2 * GRACE_SECONDS
    assert patience.is_over(1)


def test_a_call_is_given_up_and_undone_when_it_ends() -> None:
    undone: list[str] = []
    connected = threading.Event()

    def slow() -> str:
        connected.wait()
        return "connection"

    call = Call(slow, undone.append)
    with pytest.raises(TimeoutError, match="no time left"):
        call.result(SECONDS, lambda: True)
    assert not undone
    connected.set()
    assert wait_until(lambda: undone) == ["connection"]


def test_a_call_gives_its_result_or_its_error() -> None:
    assert Call(lambda: 5, lambda result: pytest.fail("undone")).result(SECONDS, lambda: False) == 5
    with pytest.raises(ZeroDivisionError):
        Call(lambda: 1 / 0).result(SECONDS, lambda: False)
