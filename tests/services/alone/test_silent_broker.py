"""One broker of three is killed or hangs: messages for partitions that do not need it flow on."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from django.db import transaction

from django_outbox.brokers.partitioner import partition_of
from django_outbox.models import OutboxMessage
from tests.support.processes import Command, wait_until
from tests.support.servers.kafka_cluster import KafkaCluster, Node
from tests.services.alone.test_cluster import PATHS

pytestmark = [pytest.mark.brokers("apache"), pytest.mark.databases("postgresql")]

# The replicas of each partition: a broker that goes away leaves two of six partitions as they are.
REPLICAS = [[1, 2], [2, 3], [3, 1], [2, 1], [3, 2], [1, 3]]


@dataclass(frozen=True)
class Gap:
    first_live_after: float
    first_rest_after: float
    new_leaders_after: float


def make_topic(cluster: KafkaCluster, topic: str, replicas: list[list[int]], in_sync: int) -> None:
    config = {"min.insync.replicas": str(in_sync)}
    with AdminClient({"bootstrap.servers": ",".join(cluster.servers)}) as admin:
        admin.create_topics([NewTopic(topic, len(replicas), replica_assignment=replicas, config=config)])[
            topic
        ].result()
    for partition in range(len(replicas)):
        cluster.leader(topic, partition)


def keys_of(partitions: int) -> list[str]:
    """A key for each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault(partition_of(str(number).encode(), partitions), str(number))
        number += 1
    return [found[partition] for partition in range(partitions)]


class Observer:
    """Asks the brokers that a fault spares, in a thread, when they lead all partitions without the other."""

    def __init__(self, cluster: KafkaCluster, topic: str, victim: Node) -> None:
        self.replaced_at: float | None = None
        self._servers = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes if node is not victim)
        self._topic = topic
        self._victim = victim.node_id
        self._thread = threading.Thread(target=self._observe, daemon=True)
        self._thread.start()

    def _observe(self) -> None:
        with AdminClient({"bootstrap.servers": self._servers}) as admin:
            while self.replaced_at is None:
                with suppress(KafkaException):
                    described = admin.list_topics(self._topic, timeout=1).topics[self._topic].partitions.values()
                    if all(each.leader > 0 and self._victim not in each.isrs for each in described):
                        self.replaced_at = time.time()
                time.sleep(0.05)


@pytest.mark.parametrize("how", ["kill", "suspend"])
@pytest.mark.parametrize("backend", ["kafka", "confluent"])
def test_messages_for_partitions_that_do_not_need_a_broker_that_failed_flow_on(
    backend: str,
    how: str,
    cluster: KafkaCluster,
    topic: str,
    relay: Callable[..., Command],
    consumer: Callable[..., Command],
    transactional_db: None,
) -> None:
    from django_outbox import Event, publish_many

    make_topic(cluster, topic, REPLICAS, in_sync=1)
    keys = keys_of(len(REPLICAS))
    env = {"KAFKA_URL": cluster.url, "OUTBOX_BACKEND": PATHS[backend]}
    worker = relay(env=env)
    numbers = defaultdict(list)

    def publish_round() -> None:
        with transaction.atomic():
            rows = publish_many([Event(type="test.effect", payload=0, key=key, topic=topic) for key in keys])
        for partition, row in enumerate(rows):
            numbers[partition].append(row.id)

    def all_published() -> bool:
        return not OutboxMessage.objects.filter(status="pending").exists()

    for _ in range(10):
        publish_round()
    wait_until(all_published)
    victim = 3
    live = [n for n, replicas in enumerate(REPLICAS) if victim not in replicas]

    getattr(cluster.node(victim), how)()
    t0 = time.time()
    observer = Observer(cluster, topic, cluster.node(victim))
    deadline = time.time() + 90
    while observer.replaced_at is None or time.time() - observer.replaced_at < 5:
        assert time.time() < deadline
        publish_round()
        time.sleep(0.1)
    t_new = observer.replaced_at
    wait_until(all_published, 90)

    times = {n: [] for n in numbers}
    partition = {id: n for n, ids in numbers.items() for id in ids}
    for row in OutboxMessage.objects.filter(id__in=list(partition)):
        assert row.partition == partition[row.id]
        times[row.partition].append(row.published_at.timestamp() - t0)
    print("new leaders", t_new - t0)
    for n, ts in times.items():
        ts = sorted(set(ts))
        gap = max((b - a, a, b) for a, b in zip(ts, ts[1:]))
        print(n, REPLICAS[n], "live" if n in live else "", "gap %.2f from %.2f to %.2f" % gap, len(ts))
    assert not OutboxMessage.objects.exclude(retry_count=0).exists()
