"""Chooses partitions as kafka-python does, but hashes each key once."""

from __future__ import annotations

from typing import Any

from kafka.partitioner import DefaultPartitioner

from django_outbox.brokers.partitioner import partition_of


class KeyPartitioner(DefaultPartitioner):  # type: ignore[misc]
    """The client's default, which is also Java's: a key's hash decides, and chance without a key."""

    def partition(
        self, topic: str, key: Any, serialized_key: bytes | None, value: Any, serialized_value: Any, cluster: Any
    ) -> int:
        """See the base class."""
        partitions: set[int] | None = cluster.partitions_for_topic(topic)
        if serialized_key is None or not partitions:
            chosen: int = super().partition(topic, key, serialized_key, value, serialized_value, cluster)
            return chosen
        return sorted(partitions)[partition_of(serialized_key, len(partitions))]
