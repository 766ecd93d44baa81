"""What outbox_doctor asks real brokers, by both client libraries."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from kafka import KafkaAdminClient

from django_outbox.brokers.base import Broker, TopicSettings
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.operations.doctor import broker as checks
from django_outbox.operations.doctor.base import BrokerState, Installation, Level, query_broker
from tests.support.brokers.backends import Backend
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until
from tests.support.servers.base import Service
from tests.support.servers.process import free_port
from tests.support.servers.secured_kafka import PLAIN, SecuredKafka


@pytest.fixture
def configured(kafka_url: str, topic: str) -> dict[str, dict[str, str]]:
    """Topics that keep records in different ways."""
    configs = {
        f"{topic}-day": {"retention.ms": "86400000"},
        f"{topic}-ever": {"retention.ms": "-1"},
        f"{topic}-compacted": {"cleanup.policy": "compact"},
        f"{topic}-default": {},
    }
    client = KafkaAdminClient(bootstrap_servers=kafka_url.partition("://")[2])
    try:
        client.create_topics(
            {
                name: {"num_partitions": 2, "replication_factor": 1, "configs": values}
                for name, values in configs.items()
            },
            wait_for_metadata=True,
        )
    finally:
        client.close()
    return configs


def answers_of(broker: Broker, topics: frozenset[str], group: str) -> BrokerState:
    """What the broker says once all of its parts know of the topics."""

    def answers() -> BrokerState | None:
        try:
            return query_broker(broker, topics, group)
        except BrokerUnavailable:
            return None

    found = wait_until(answers)
    assert found is not None
    return found


@pytest.mark.brokers("apache")
def test_the_broker_tells_what_topics_do_with_their_records(
    backend: Backend, kafka_url: str, topic: str, configured: dict[str, dict[str, str]]
) -> None:
    broker = backend.make(kafka_url)
    answers = answers_of(broker, frozenset({*configured, f"{topic}-missing"}), topic)
    assert answers.missing == [f"{topic}-missing"]
    assert answers.partitions == dict.fromkeys(configured, 2)
    assert answers.settings == {
        f"{topic}-day": TopicSettings(timedelta(days=1), compacted=False),
        f"{topic}-ever": TopicSettings(None, compacted=False),
        f"{topic}-compacted": TopicSettings(None, compacted=True),
        f"{topic}-default": TopicSettings(timedelta(days=7), compacted=False),
    }
    assert broker.topic_settings([f"{topic}-missing"]) == {}
    assert broker.topic_settings([]) == {}


@pytest.mark.brokers("tansu")
def test_a_broker_that_does_not_tell_is_no_trouble(
    backend: Backend, kafka_url: str, topic: str, configured: dict[str, dict[str, str]]
) -> None:
    # Tansu tells what a topic was given, and no default.
    assert backend.make(kafka_url).topic_settings(configured) == {
        f"{topic}-day": TopicSettings(timedelta(days=1), compacted=False),
        f"{topic}-ever": TopicSettings(None, compacted=False),
    }


def subject_of(backend: Backend, url: str) -> Any:
    """Settings that name this broker."""
    name = {"kafka": "kafka.KafkaBroker", "confluent": "confluent.ConfluentBroker"}[backend.name]
    return outbox_settings(BROKER={"BACKEND": f"django_outbox.brokers.{name}", "URL": url})


@pytest.mark.django_db
def test_a_broker_that_is_not_there_is_a_fault(backend: Backend) -> None:
    port = free_port()
    with subject_of(backend, f"kafka://127.0.0.1:{port}"):
        (finding,) = checks.reachable(Installation("default"))
    assert finding.level == Level.FAULT
    assert f"kafka://127.0.0.1:{port} cannot be reached" in finding.summary
    assert "advertised.listeners" in finding.remedy


@pytest.mark.django_db
def test_a_broker_that_hangs_is_a_fault_and_waited_for_once(backend: Backend, own_broker: Service) -> None:
    own_broker.suspend()
    installation = Installation("default", broker_timeout=1)
    started = time.monotonic()
    try:
        with subject_of(backend, own_broker.url):
            (finding,) = checks.reachable(installation)
            assert list(checks.reachable(installation)) == [finding]
    finally:
        own_broker.resume()
    assert finding.level == Level.FAULT
    assert "does not answer within 1 s" in finding.summary
    assert time.monotonic() - started < 20


@pytest.mark.brokers("apache")
@pytest.mark.django_db
def test_a_refused_login_is_a_fault_that_shows_no_password(backend: Backend, secured_kafka: SecuredKafka) -> None:
    address = secured_kafka.address("LOGIN")
    with subject_of(backend, f"kafka+sasl://{PLAIN.user}:wrong-pass-word@{address}"):
        (finding,) = checks.reachable(Installation("default"))
    assert finding.level == Level.FAULT
    assert "refuses this client" in finding.summary
    assert "Check user, password" in finding.remedy
    assert "wrong-pass-word" not in f"{finding.summary}{finding.why}{finding.remedy}"
    # Nothing was allowed to this user.
    with subject_of(backend, f"kafka+sasl://{PLAIN.userinfo}{address}"):
        installation = Installation("default")
        assert list(checks.reachable(installation)) == []
        (finding,) = checks.topics(installation)
    assert finding.summary == "The topic 'outbox': this client may not even see whether it exists."
    assert "--topic outbox --producer --consumer" in finding.remedy
