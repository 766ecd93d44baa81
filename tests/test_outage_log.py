"""An outage is logged once, whatever it shows as."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from django_outbox.brokers.base import Outcome, Record, TopicTrouble
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.consumer import consumer as consumer_module
from django_outbox.consumer.consumer import Consumer
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.relay.relay import Relay
from django_outbox.worker.loop import Stop
from django_outbox.worker.outage_log import JOIN_SECONDS, REMINDER_SECONDS, OutageLog
from tests.clock import Clock
from tests.outbox import ScriptedBroker, make_message, memory_broker, statuses

QUIET = 5.0


@pytest.fixture
def outages(clock: Clock, caplog: pytest.LogCaptureFixture) -> OutageLog:
    caplog.set_level(logging.INFO)
    return OutageLog(logging.getLogger("django_outbox.test"), clock, quiet=QUIET)


def test_what_fails_together_is_one_outage_until_all_is_well(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with outages.gathering():
        outages.report("Topic bars", "no acknowledgement within 15 s")
        outages.report("Topic foos", "no acknowledgement within 15 s")
    clock.now += 1
    outages.report("The broker", "it does not answer.")
    clock.now += 6
    outages.over("The broker")
    outages.over("Topic bars")
    clock.now += 5
    outages.over("Topic foos")
    clock.now += QUIET
    outages.tick()
    outages.tick()
    assert caplog.messages == [
        "Topics bars, foos: no acknowledgement within 15 s. Trying again until it works.",
        "Topics bars, foos and the broker are available again after 12 s.",
    ]


def test_an_outage_that_lasts_is_logged_once_a_minute_with_what_is_unavailable_now(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no leader")
    for _ in range(int(2 * REMINDER_SECONDS)):
        clock.now += 1
        outages.report("The broker", "it does not answer")
        outages.over("Topic bars")
    assert caplog.messages == [
        "Topic bars: no leader. Trying again until it works.",
        "The broker is still unavailable after 60 s: it does not answer.",
        "The broker is still unavailable after 120 s: it does not answer.",
    ]


def test_what_comes_back_at_once_was_not_over(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        outages.report("The broker", "it does not answer")
        clock.now += 3
        outages.over("The broker")
        clock.now += QUIET - 1
        outages.tick()
    assert len(caplog.messages) == 1
    clock.now += 1
    outages.tick()
    assert caplog.messages[1:] == ["The broker is available again after 31 s."]
    outages.report("The broker", "it does not answer")
    assert len(caplog.messages) == 3, "this is another one"


def test_an_outage_is_not_part_of_one_that_began_long_before(
    outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no leader")
    clock.now += JOIN_SECONDS
    outages.report("The broker", "it does not answer")
    clock.now += 7
    outages.over("The broker")
    clock.now += QUIET
    outages.tick()
    assert caplog.messages[1:] == [
        "The broker: it does not answer. Trying again until it works.",
        "The broker is available again after 7 s.",
    ]


def test_what_is_apart_is_logged_for_itself(outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outages.report("The broker", "it does not answer")
    outages.report("Topic bars", "it does not exist", level=logging.WARNING, apart=True, is_new=True)
    clock.now += 2
    outages.over("Topic bars")
    assert outages.lasts
    assert caplog.messages[1:] == [
        "Topic bars: it does not exist. Trying again until it works.",
        "Topic bars is available again after 2 s.",
    ]


@pytest.mark.parametrize("others", [[], ["The broker"]])
def test_what_turns_out_to_be_something_else_is_logged_at_once(
    others: list[str], outages: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("Topic bars", "no acknowledgement")
    for other in others:
        outages.report(other, "it does not answer")
    outages.report("Topic bars", "it does not exist", apart=True)
    assert caplog.messages[1:] == ["Topic bars: it does not exist. Trying again until it works."]
    for subject in ["Topic bars", *others]:
        outages.over(subject)
    clock.now += QUIET
    outages.tick()
    assert len(caplog.messages) == 3 + len(others)
    assert not outages.lasts


def test_an_outage_that_is_over_is_logged_at_the_end_of_the_process(
    outages: OutageLog, caplog: pytest.LogCaptureFixture
) -> None:
    outages.report("The broker", "it does not answer")
    outages.tick(ending=True)
    assert len(caplog.messages) == 1, "it lasts"
    outages.over("The broker")
    outages.tick(ending=True)
    assert caplog.messages[1:] == ["The broker is available again after 0 s."]


# Relay and consumer


class SteppingStop(Stop):
    """Waits by a clock of the test's, until a time at which it requests the end."""

    def __init__(self, clock: Clock, until: float) -> None:
        super().__init__()
        self._clock = clock
        self._until = until

    def wait(self, seconds: float | None, *others: object) -> bool:
        self._clock.now += max(seconds or 0.0, 0.1)
        if self._clock.now >= self._until:
            self.request()
        return self.requested


@pytest.fixture
def stop(clock: Clock) -> Iterator[SteppingStop]:
    stop = SteppingStop(clock, clock.now + 60)
    yield stop
    stop.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "action", "") in ("trouble", "recovered") or record.levelno >= logging.WARNING
    ]


@pytest.mark.django_db
def test_a_relay_logs_one_outage_of_topics_and_broker_once(
    clock: Clock, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    began = clock.now

    def answer(records: Sequence[Record], outcomes: list[Outcome]) -> list[Outcome]:
        if clock.now < began + 4:
            clock.now += 4
            return [TopicTrouble("no acknowledgement within 4 s") for _ in records]
        if clock.now < began + 12:
            clock.now += 1
            raise BrokerUnavailable("kafka://a:9092 does not answer.")
        return outcomes

    for topic in ("foos", "bars"):
        make_message(topic=topic)
    Relay(ScriptedBroker(answer), using="default", clock=clock).run(stop)

    assert statuses() == ["published"] * 2
    first, last = lines(caplog)
    assert first.startswith("Topics foos, bars: no acknowledgement within 4 s. ")
    assert last.startswith("Topics foos, bars and the broker are available again after ")


@pytest.mark.django_db
def test_a_consumer_logs_one_outage_once(
    clock: Clock, stop: Stop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(consumer_module, "POLL_SECONDS", 0.0)
    began = clock.now

    class Away(MemoryBroker):
        """At first it is away, then nobody may join, and a topic has no leader for longer."""

        def unreadable_topics(self, topics: object) -> dict[str, TopicTrouble]:
            if clock.now < began + 3:
                raise BrokerUnavailable("kafka://a:9092 cannot be reached.")
            return {"outbox": TopicTrouble("no leader of partition 0")} if clock.now < began + 9 else {}

        def subscribe(self, topics: object, group: str) -> object:  # type: ignore[override]
            if clock.now < began + 5:
                raise BrokerUnavailable("kafka://a:9092 does not answer.")
            return super().subscribe(topics, group)  # type: ignore[arg-type]

    consumer = Consumer(Away(memory_broker().settings), using="default", topics=["outbox"], clock=clock)
    consumer.run(stop)

    first, last = lines(caplog)
    assert first == "The broker: kafka://a:9092 cannot be reached. Trying again until it works."
    assert last.startswith("Topic outbox and the broker are available again after ")
