"""A cluster of which one broker is killed or hangs: relay and consumer go on as soon as the cluster does."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from django_outbox.brokers.base import Acknowledged, Broker, TopicPartition
from django_outbox.brokers.calls import COMMIT_SECONDS
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.models import OutboxMessage
from tests.support.brokers.backends import BACKENDS, Backend
from tests.support.brokers.records import numbered
from tests.support.processes import Command, wait_until
from tests.support.servers.kafka_cluster import KafkaCluster, Node

pytestmark = pytest.mark.brokers("apache")

PYTHON, CONFLUENT = BACKENDS
PATHS = {
    "kafka": "django_outbox.brokers.kafka.KafkaBroker",
    "confluent": "django_outbox.brokers.confluent.ConfluentBroker",
}


def take_away(node: Node, how: str) -> None:
    getattr(node, how)()


@pytest.mark.parametrize(
    ("backend", "how"), [(PYTHON, "suspend"), (CONFLUENT, "kill")], ids=["kafka-suspend", "confluent-kill"]
)
def test_a_relay_sends_as_soon_as_there_is_a_new_leader_and_logs_one_outage_at_most(
    backend: Backend,
    how: str,
    cluster: KafkaCluster,
    topic: str,
    relay: Callable[..., Command],
    counts: Any,
    request: pytest.FixtureRequest,
) -> None:
    publish = request.getfixturevalue("send")
    command = relay(env={"KAFKA_URL": cluster.url, "OUTBOX_BACKEND": PATHS[backend.name]})
    publish("test.effect", 0, key="a")
    wait_until(lambda: counts() == {"published": 1})
    partition = OutboxMessage.objects.get().partition

    take_away(cluster.leader(topic, partition or 0), how)
    for n in range(1, 20):
        publish("test.effect", n, key="a")
    wait_until(lambda: counts() == {"published": 20}, 120)

    assert not OutboxMessage.objects.exclude(retry_count=0).exists()
    assert command.stop() == 0
    begun = command.output.count("Trying again until it works")
    assert begun <= 1, command.output
    assert command.output.count("available again after") == begun


@pytest.mark.parametrize(
    ("backend", "whom", "how"),
    [(CONFLUENT, "coordinator", "kill"), (CONFLUENT, "another", "suspend"), (PYTHON, "another", "suspend")],
    ids=["confluent-coordinator-kill", "confluent-another-suspend", "kafka-another-suspend"],
)
def test_a_commit_that_is_late_since_a_broker_failed_is_made(
    backend: Backend, whom: str, how: str, cluster: KafkaCluster, topic: str
) -> None:
    broker = backend.make(cluster.url)
    broker.create_topics([topic], partitions=1, replication=None)
    place = TopicPartition(topic, 0)
    producer = broker.producer(30)
    producer.send(numbered(topic, 5), 30)
    producer.close()
    member = broker.subscribe([topic], topic)
    wait_until(lambda: member.poll(0.5, 10))
    coordinator = cluster.coordinator(topic)
    others = [node for node in cluster.nodes if node is not coordinator]

    take_away(coordinator if whom == "coordinator" else others[0], how)

    def is_committed() -> bool:
        nonlocal member
        began_at = None
        try:
            member.poll(0.1, 10)  # a machine that stands still may let the session end
            began_at = time.monotonic()
            member.commit({place: 5})
        except BrokerUnavailable:
            # Not before a commit has taken all the time it may: then the consumer subscribes again.
            assert began_at is None or time.monotonic() - began_at >= COMMIT_SECONDS
            member.close()
            member = broker.subscribe([topic], topic)
            return False
        return committed(broker, topic) == 5

    wait_until(is_committed, 180)
    member.close()


def committed(broker: Broker, topic: str) -> int | None:
    """What the group has committed; None as long as no broker can tell."""
    with suppress(BrokerUnavailable):
        (progress,) = broker.progress([topic], topic).values()
        return progress.committed
    return None


@pytest.mark.parametrize("how", ["kill", "suspend"])
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_a_client_that_starts_while_a_broker_is_away_finds_the_others(
    backend: Backend, how: str, cluster: KafkaCluster, topic: str
) -> None:
    broker = backend.make(cluster.url)
    broker.create_topics([topic], partitions=1, replication=None)
    leader = cluster.leader(topic)

    take_away(next(node for node in cluster.nodes if node is not leader), how)

    def sends() -> bool:
        producer = broker.producer(30)
        try:
            (result,) = producer.send(numbered(topic, 1), 30)
        except BrokerUnavailable:
            return False
        finally:
            producer.close()
        return isinstance(result, Acknowledged)

    # Each client may ask the hung broker first, and the others may have to elect a controller.
    for _ in range(3):
        wait_until(sends, 90)
