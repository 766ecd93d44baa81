"""A cluster of Apache Kafka: three nodes on one machine, of which a test may take one away."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from kafka.protocol.producer import InitProducerIdRequest

from tests.support.servers.apache_kafka import ApacheKafka, new_cluster_id
from tests.support.servers.base import ServiceError
from tests.support.servers.process import free_port


class Node(ApacheKafka):
    """Broker and controller number `node_id` of a cluster."""

    def __init__(self, node_id: int, cluster_id: str, controllers: dict[int, int]) -> None:
        """
        Args:
            controllers: the controllers' ports, by node.
        """
        super().__init__()
        self.node_id = node_id
        self._cluster_id = cluster_id
        self._controllers = controllers

    def prepare(self) -> None:
        super().prepare()
        self._controller_port = self._controllers[self.node_id]

    def probe(self) -> None:
        """Nothing: a node answers only once most nodes are there."""

    def answers(self) -> None:
        """Raise any exception if this node does not answer (yet)."""
        super().probe()

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        del settings["controller.quorum.bootstrap.servers"]
        voters = (f"{node_id}@127.0.0.1:{port}" for node_id, port in self._controllers.items())
        return settings | {
            "node.id": self.node_id,
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3,
        }

    def _format_options(self) -> list[str]:
        return [f"--cluster-id={self._cluster_id}"]


class KafkaCluster:
    """Three nodes. Each topic has a replica on all of them, two of which must have a record to acknowledge it.

    Nodes notice that another one is gone after Kafka's default of 9 s. All have producer ids to give, as brokers in use
    have. A broker gets them from the active controller, a thousand at a time, and if that hangs just then, the broker
    has none for 30 s, ``controller.socket.timeout.ms``.
    """

    def __init__(self) -> None:
        controllers = {node_id: free_port() for node_id in (1, 2, 3)}
        cluster_id = new_cluster_id()
        self.nodes = [Node(node_id, cluster_id, controllers) for node_id in controllers]

    @property
    def servers(self) -> list[str]:
        return [f"127.0.0.1:{node.port}" for node in self.nodes]

    @property
    def url(self) -> str:
        return f"kafka://{','.join(self.servers)}"

    def leader(self, topic: str, partition: int = 0) -> Node:
        """The node that leads a partition."""
        deadline = time.monotonic() + Node.start_timeout
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            while time.monotonic() < deadline:  # until all nodes know a new topic
                (described,) = admin.describe_topics([topic])
                for each in described["partitions"]:
                    if each["partition_index"] == partition and each["leader_id"] >= 0:
                        return self.node(each["leader_id"])
                time.sleep(0.1)
        raise ServiceError(f"{topic} has no leader of partition {partition}")

    def coordinator(self, group: str) -> Node:
        """The node that coordinates a consumer group."""
        with AdminClient({"bootstrap.servers": ",".join(self.servers)}) as admin:
            return self.node(admin.describe_consumer_groups([group])[group].result().coordinator.id)

    def node(self, node_id: int) -> Node:
        return next(node for node in self.nodes if node.node_id == node_id)

    def restore(self) -> None:
        """Bring back all nodes that a test has suspended or killed, with all their replicas in sync."""
        for node in self.nodes:
            if node.process is None:
                node.start()
            else:
                node.resume()
        self._wait_for_nodes()

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._wait_for_nodes()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.kill()  # together they would wait for each other to end in order
            node.close()

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + Node.start_timeout
        while True:
            try:
                for node in self.nodes:
                    node.answers()
                with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
                    _see_all_in_sync(admin)
                    _fetch_producer_ids(admin, [node.node_id for node in self.nodes])
                return
            except Exception as error:
                if time.monotonic() > deadline:
                    raise ServiceError(f"the cluster is not complete: {error}") from error
                time.sleep(0.1)


def _see_all_in_sync(admin: KafkaAdminClient) -> None:
    for topic in admin.describe_topics():
        for partition in topic["partitions"]:
            if set(partition["isr_nodes"]) != set(partition["replica_nodes"]):
                raise ServiceError(f"{topic['name']} is not in sync")


def _fetch_producer_ids(admin: KafkaAdminClient, nodes: list[int]) -> None:
    """Ask each node for a producer id; the first one makes it fetch more of them."""
    request = InitProducerIdRequest(
        transactional_id=None, transaction_timeout_ms=0, producer_id=-1, producer_epoch=-1, max_version=4
    )

    async def ask() -> None:
        for node_id in nodes:
            answer = await admin._manager.send(request, node_id=node_id)
            if answer.error_code:
                raise ServiceError(f"node {node_id} has no producer ids: error {answer.error_code}")

    admin._manager.run(ask)
