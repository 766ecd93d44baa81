"""Questions to the cluster through kafka-python."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, OffsetSpec

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.brokers.cluster import Admin, TopicDescription
from django_outbox.brokers.errors import ClientError
from django_outbox.brokers.kafka.errors import error_for
from django_outbox.brokers.silence import Replicas, address_of


class KafkaAdmin(Admin):
    def __init__(self, client: KafkaAdminClient, seconds: float) -> None:
        """``client`` is connected and has ``seconds`` for one question."""
        self._client = client
        self._milliseconds = int(seconds * 1000)

    def describe_topics(self, topics: Collection[str], *, with_rights: bool = False) -> dict[str, TopicDescription]:
        return {
            topic["name"]: TopicDescription(
                error=error_for(topic["error_code"]),
                partitions={each["partition_index"]: self._replicas(each) for each in topic["partitions"]},
                operations=topic.get("authorized_operations") or (),
            )
            for topic in self._client.describe_topics(list(topics))
        }

    def _replicas(self, partition: Mapping[str, Any]) -> Replicas:
        leader = partition["leader_id"]
        in_sync = frozenset(map(self._address, partition["isr_nodes"]))
        return Replicas(self._address(leader) if leader >= 0 else None, in_sync)

    def _address(self, node_id: int) -> str:
        node = self._client._manager.cluster.broker_metadata(node_id)
        return address_of(node.host, node.port) if node else ""

    def progress(self, group: str, places: Collection[TopicPartition]) -> dict[TopicPartition, Progress]:
        theirs = {place: KafkaTopicPartition(place.topic, place.partition) for place in places}
        low, high = (
            self._client.list_partition_offsets(dict.fromkeys(theirs.values(), which), timeout_ms=self._milliseconds)
            for which in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        )
        committed = self._client.list_group_offsets({group: list(theirs.values())})[group]
        found = {}
        for place, their in theirs.items():
            offset = committed[their].offset if their in committed else -1
            found[place] = Progress(low[their].offset, high[their].offset, int(offset) if offset >= 0 else None)
        return found

    def topic_configs(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str | None]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        told = self._client.describe_configs(resources, config_filter=ConfigFilterType.ALL)
        return {
            topic: {name: each["value"] for name, each in values.items()}
            for topic, values in told.get("topic", {}).items()
        }

    def create_topics(self, topics: Collection[str], partitions: int, replication: int) -> dict[str, ClientError]:
        numbers = {"num_partitions": partitions, "replication_factor": replication}
        response = self._client.create_topics(dict.fromkeys(topics, numbers), raise_errors=False)
        found = {
            topic["name"]: error_for(topic["error_code"], topic.get("error_message")) for topic in response["topics"]
        }
        return {topic: error for topic, error in found.items() if error is not None}
