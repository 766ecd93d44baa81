"""Apache Kafka whose clients reach each node through a link, with small disks of their own where possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient

from tests.support.brokers.proxy import Proxy
from tests.support.processes import ROOT
from tests.support.servers.apache_kafka import new_cluster_id
from tests.support.servers.kafka_cluster import KafkaCluster, Node
from tests.support.servers.process import free_port

TOPIC = "flights"
PARTITIONS = 4
DISK_BYTES = 768 << 20
DISKS = ROOT / ".cache" / "chaos-disks"
DEADLINE = 300.0


class LinkedNode(Node):
    """A node that sends clients to its link; other nodes reach it directly."""

    start_timeout = 180.0

    def __init__(self, node_id: int, cluster_id: str, controllers: dict[int, int], *, disk: bool) -> None:
        """
        Args:
            disk: the node keeps its data on a file system of its own.
        """
        super().__init__(node_id, cluster_id, controllers)
        self.link = Proxy()
        self._disk = disk

    @property
    def _mount_point(self) -> Path:
        # Not in the node's directory: after a killed run, a folder that is mounted on cannot be removed.
        return DISKS / str(self.node_id)

    def prepare(self) -> None:
        super().prepare()
        self.link.target = free_port()
        if self._disk:
            self._mount_point.mkdir(parents=True, exist_ok=True)
            (self.directory / "data").symlink_to(self._mount_point / "data")
            self.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", f"kafka-{self.node_id}", self._mount_point])

    def close(self) -> None:
        self.stop()
        if self._disk and self._directory is not None:
            self.run(["umount", "--lazy", self._mount_point])
        super().close()
        self.link.close()

    def fill_disk(self) -> None:
        """Take all space that is left."""
        with (self._mount_point / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def free_disk(self) -> None:
        (self._mount_point / "filler").unlink(missing_ok=True)

    def revive(self) -> None:
        """Start the node if it has ended, for whatever reason."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        own = f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}"
        nodes = len(self._controllers)
        return settings | {
            "listeners": f"{own},CLIENT://127.0.0.1:{self.link.target}",
            "advertised.listeners": f"{own},CLIENT://127.0.0.1:{self.link.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": (self.directory / "data").resolve(),
            "default.replication.factor": nodes,
            "offsets.topic.replication.factor": nodes,
            "min.insync.replicas": min(nodes, 2),
        }


class Brokers(KafkaCluster):
    """One node or three, and the topic of the run."""

    def __init__(self, number: int, replication: int, *, disks: bool) -> None:
        controllers = {node_id: free_port() for node_id in range(1, number + 1)}
        cluster_id = new_cluster_id()
        self.linked = [LinkedNode(node_id, cluster_id, controllers, disk=disks) for node_id in controllers]
        self.nodes = list(self.linked)
        self.partitions = PARTITIONS
        self._replication = replication

    @property
    def url(self) -> str:
        """Through the links."""
        return f"kafka://{','.join(f'127.0.0.1:{node.link.port}' for node in self.linked)}"

    def named(self, name: str) -> LinkedNode:
        """The node of a name such as ``broker-2``."""
        return self.linked[int(name.rpartition("-")[2]) - 1]

    def create_topic(self) -> None:
        """Create the topic, for as long as it takes: its deletion may not be over, or brokers be away."""
        # With two replicas, one of them may acknowledge alone, or a broker that is away stops its partitions.
        least = 1 if self._replication == 2 else min(self._replication, 2)
        wanted = {
            "num_partitions": self.partitions,
            "replication_factor": self._replication,
            "configs": {"min.insync.replicas": str(least)},
        }
        self._until_done(lambda admin: admin.create_topics({TOPIC: wanted}), "TopicAlreadyExistsError")

    def delete_topic(self) -> None:
        self._until_done(lambda admin: admin.delete_topics([TOPIC]), "UnknownTopicOrPartitionError")

    def add_partitions(self) -> None:
        self.partitions += 2
        self._until_done(lambda admin: admin.create_partitions({TOPIC: self.partitions}), "InvalidPartitionsError")

    def leader_of(self, partition: int) -> LinkedNode:
        """The node that leads a partition of the topic, as soon as one does."""
        node_id: int = self._until_done(lambda admin: _leader(admin, partition))
        return self.linked[node_id - 1]

    def replicas(self) -> Mapping[int, list[int]]:
        """The brokers of each partition."""
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            (described,) = admin.describe_topics([TOPIC])
        return {each["partition_index"]: each["replica_nodes"] for each in described["partitions"]}

    def _until_done(self, work: Callable[[KafkaAdminClient], Any], done: str = "") -> Any:
        """Repeat a request that a broker did not answer, and return its result.

        Args:
            done: the error that says that an earlier request was fulfilled.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
                    return work(admin)
            except Exception as error:
                if type(error).__name__ == done:
                    return None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _leader(admin: KafkaAdminClient, partition: int) -> int:
    """The number of the node that leads a partition.

    Raises:
        LookupError: there is none.
    """
    (described,) = admin.describe_topics([TOPIC])
    for each in described["partitions"]:
        if each["partition_index"] == partition and each["leader_id"] > 0:
            return int(each["leader_id"])
    raise LookupError(f"partition {partition} of {TOPIC} has no leader")
