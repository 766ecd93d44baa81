"""One broker of three is killed or hangs: messages for partitions that do not need it flow on, and keep their order."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from django.db import transaction
from django.db.models import Min
from django.utils import timezone

from django_outbox.brokers.partitioner import partition_of
from django_outbox.models import OutboxMessage
from tests.services.alone.test_cluster import PATHS
from tests.support.processes import Command, wait_until
from tests.support.servers.kafka_cluster import KafkaCluster, Node

pytestmark = [pytest.mark.brokers("apache"), pytest.mark.databases("postgresql")]

# The replicas of each partition: each broker leads two of six partitions, follows two and has no part in two.
REPLICAS = [[1, 2], [2, 3], [3, 1], [2, 1], [3, 2], [1, 3]]
# What a batch takes that waits for a broker which the cluster has replaced: longer than this test waits for messages.
PUBLISH_TIMEOUT = 300


class Traffic:
    """Messages of one key for each partition of a topic, and some without a key."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.keys: dict[int, str] = {}
        self.sent = 0
        number = 0
        while len(self.keys) < len(REPLICAS):
            self.keys.setdefault(partition_of(str(number).encode(), len(REPLICAS)), str(number))
            number += 1

    def publish(self) -> None:
        """Publish a message for each partition, and one for any."""
        from django_outbox import Event, publish_many

        events = [
            Event(type="test.effect", payload=self.sent, key=key, topic=self._topic)
            for key in [*self.keys.values(), ""]
        ]
        with transaction.atomic():
            publish_many(events)
        self.sent += 1

    def first(self, what: str, key: str, after: datetime) -> datetime | None:
        """When a message of this key that is younger than that was first published, or first consumed."""
        messages = OutboxMessage.objects.filter(message_key=key, created_at__gt=after)
        return messages.aggregate(first=Min(f"{what}_at"))["first"]  # type: ignore[no-any-return]

    def is_consumed(self) -> bool:
        return not OutboxMessage.objects.exclude(status="consumed").exists()


class Observer:
    """Asks the brokers that a fault spares, in a thread, when they lead all partitions without the other."""

    def __init__(self, cluster: KafkaCluster, topic: str, victim: Node) -> None:
        self.replaced_at: datetime | None = None
        self._servers = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes if node is not victim)
        self._topic = topic
        self._victim = victim.node_id
        threading.Thread(target=self._observe, daemon=True).start()

    def _observe(self) -> None:
        with AdminClient({"bootstrap.servers": self._servers}) as admin:
            while self.replaced_at is None:
                with suppress(KafkaException):
                    described = admin.list_topics(self._topic, timeout=1).topics[self._topic].partitions.values()
                    if all(each.leader > 0 and self._victim not in each.isrs for each in described):
                        self.replaced_at = timezone.now()
                time.sleep(0.05)


def make_topic(cluster: KafkaCluster, topic: str) -> None:
    new = NewTopic(topic, len(REPLICAS), replica_assignment=REPLICAS, config={"min.insync.replicas": "1"})
    with AdminClient({"bootstrap.servers": ",".join(cluster.servers)}) as admin:
        admin.create_topics([new])[topic].result()
    for partition in range(len(REPLICAS)):
        cluster.leader(topic, partition)


def log_of(cluster: KafkaCluster, topic: str) -> dict[int, list[tuple[int, int]]]:
    """By partition, the ids of the rows whose records the topic has, with their offsets."""
    found: dict[int, list[tuple[int, int]]] = {partition: [] for partition in range(len(REPLICAS))}
    reader = Consumer(
        {
            "bootstrap.servers": ",".join(cluster.servers),
            "group.id": f"{topic}-log",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    reader.assign([KafkaTopicPartition(topic, partition, 0) for partition in found])
    left = set(found)

    def is_read() -> bool:
        record = reader.poll(1.0)
        if record is None:
            return False
        partition: Any = record.partition()
        error = record.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            left.discard(partition)
            return not left
        headers: Any = dict(record.headers() or [])
        found[partition].append((int(headers["ce_outboxid"]), int(record.offset() or 0)))
        return False

    wait_until(is_read)
    reader.close()
    return found


@pytest.mark.parametrize("how", ["kill", "suspend"])
@pytest.mark.parametrize("backend", ["kafka", "confluent"])
def test_only_partitions_that_need_a_broker_that_failed_wait_for_the_cluster_to_replace_it(
    backend: str,
    how: str,
    cluster: KafkaCluster,
    topic: str,
    relay: Callable[..., Command],
    consumer: Callable[..., Command],
) -> None:
    from tests.support.app.models import Effect

    make_topic(cluster, topic)
    env = {
        "KAFKA_URL": cluster.url,
        "OUTBOX_BACKEND": PATHS[backend],
        "OUTBOX_PUBLISH_TIMEOUT": str(PUBLISH_TIMEOUT),
        # As users have it. A broker answers no heartbeat behind a commit that waits.
        "OUTBOX_SESSION_TIMEOUT_MS": "10000",
    }
    relay(env=env)
    consumer(env=env)
    traffic = Traffic(topic)
    for _ in range(10):
        traffic.publish()
    wait_until(traffic.is_consumed)
    coordinator = cluster.coordinator(topic)
    victim = next(node for node in cluster.nodes if node is not coordinator)
    spared = [partition for partition, nodes in enumerate(REPLICAS) if victim.node_id not in nodes]

    getattr(victim, how)()
    failed_at = timezone.now()
    observer = Observer(cluster, topic, victim)

    def is_replaced() -> bool:
        traffic.publish()
        time.sleep(0.1)  # the rate of messages
        return observer.replaced_at is not None

    wait_until(is_replaced, 90)
    replaced_at = observer.replaced_at
    assert replaced_at is not None
    print(f"replaced after {(replaced_at - failed_at).total_seconds():.1f} s")
    for what in ("published", "consumed"):
        for partition, key in traffic.keys.items():
            at = wait_until(lambda: traffic.first(what, key, failed_at), 90)  # noqa: B023  # called at once
            kind = "spared" if partition in spared else "needs the broker"
            print(f"partition {partition} ({kind}): {what} after {(at - failed_at).total_seconds():.1f} s")
            assert at < replaced_at or partition not in spared
    assert wait_until(lambda: traffic.first("published", "", failed_at)) < replaced_at

    cluster.restore()  # a broker that hung writes what its sockets still held
    traffic.publish()
    wait_until(traffic.is_consumed, 120)

    assert not OutboxMessage.objects.exclude(retry_count=0).exists()
    rows = {row.id: row for row in OutboxMessage.objects.all()}
    handled_by_key = defaultdict(list)
    for key, number in ordered_effects(rows.values()):
        handled_by_key[key].append(number)
    assert sorted(handled_by_key.pop("")) == list(range(traffic.sent))
    assert handled_by_key == {key: list(range(traffic.sent)) for key in traffic.keys.values()}
    assert Effect.objects.filter(name__startswith="test.effect").count() == len(rows)
    for partition, records in log_of(cluster, topic).items():
        for id, offset in records:
            if not rows[id].message_key:  # it may be in two partitions, if its batch was abandoned
                continue
            assert rows[id].partition == partition
            assert offset <= rows[id].offset, "a record of an abandoned batch was sent later"


def ordered_effects(rows: Any) -> list[tuple[str, int]]:
    """Key and payload of what was handled, in that order."""
    from tests.support.app.models import Effect

    events = {str(row.event_id): row for row in rows}
    found = Effect.objects.filter(name__startswith="test.effect").order_by("id").values_list("event_id", flat=True)
    return [(events[event_id].message_key, events[event_id].payload) for event_id in found]
