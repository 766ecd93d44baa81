"""The two client libraries as the tests use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from django_outbox.brokers import subscription as subscriptions
from django_outbox.brokers.base import Broker
from django_outbox.brokers.confluent import ConfluentBroker
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.conf import BrokerSettings
from tests.support.brokers.records import SECONDS

# A member that dies is removed sooner, and Tansu makes the first member wait for half of the session timeout.
IMPATIENT = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 300}
IMPATIENT_TOO = {name.replace("_", "."): value for name, value in IMPATIENT.items()}

CONNECTING: dict[str, Callable[[Broker], object]] = {
    "producer": lambda broker: broker.producer(SECONDS),
    "subscribe": lambda broker: broker.subscribe(["topic"], "group"),
    "missing_topics": lambda broker: broker.missing_topics(["topic"]),
    "unreadable_topics": lambda broker: broker.unreadable_topics(["topic"]),
    "progress": lambda broker: broker.progress(["topic"], "group"),
    "create_topics": lambda broker: broker.create_topics(["topic"], partitions=1, replication=1),
}
connecting = pytest.mark.parametrize("connect", [pytest.param(way, id=name) for name, way in CONNECTING.items()])


def kafka_broker(url: str, **options: Any) -> KafkaBroker:
    return KafkaBroker(BrokerSettings(url=url, **{"consumer_options": IMPATIENT, **options}))


def confluent_broker(url: str, **options: Any) -> ConfluentBroker:
    return ConfluentBroker(BrokerSettings(url=url, **{"consumer_options": IMPATIENT_TOO, **options}))


@dataclass(frozen=True)
class Backend:
    """One client library, and its names of options."""

    name: str
    make: Callable[..., Broker]
    metadata_age: str  # how often a client looks for new topics, in ms
    isolation: str  # which records of transactions a member reads
    poll_interval: str  # how long a member may take between two polls, in ms
    session: str  # how long a member may be silent, in ms

    def looking_often_for_topics(self, url: str) -> Broker:
        """A broker whose members soon notice partitions that appear."""
        impatient = self.make(url).settings.consumer_options
        return self.make(url, consumer_options={**impatient, self.metadata_age: 200})

    def missing_members_soon(self, url: str) -> Broker:
        """A broker whose members lose their partitions if they do not poll for a few seconds."""
        impatient = self.make(url).settings.consumer_options
        return self.make(url, consumer_options={**impatient, self.poll_interval: 2500, self.session: 2000})

    def notice_silence_after(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """Have subscriptions ask for a sign of life after this silence."""
        monkeypatch.setattr(subscriptions, "SILENCE_SECONDS", seconds)

    def wait_for_answers(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """Have subscriptions wait this long for an answer."""
        monkeypatch.setattr(subscriptions, "CONNECT_SECONDS", seconds)


BACKENDS = [
    Backend(
        "kafka",
        kafka_broker,
        "metadata_max_age_ms",
        "isolation_level",
        "max_poll_interval_ms",
        "session_timeout_ms",
    ),
    Backend(
        "confluent",
        confluent_broker,
        "topic.metadata.refresh.interval.ms",
        "isolation.level",
        "max.poll.interval.ms",
        "session.timeout.ms",
    ),
]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each client library in turn."""
    chosen: Backend = request.param
    return chosen
