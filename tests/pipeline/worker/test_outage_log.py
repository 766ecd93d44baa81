"""An outage is logged once, whatever it shows as."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from django_outbox.brokers.base import Record, SendResult, TopicTrouble
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.consumer import consumer as consumer_module
from django_outbox.consumer.consumer import Consumer
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.relay.relay import Relay
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, make_message, memory_broker, statuses

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

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
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
