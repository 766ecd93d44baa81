"""What a cluster says of a topic, and what that means for writing and reading."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from django_outbox.brokers.base import (
    Refused,
    TopicForbidden,
    TopicMissing,
    TopicPartition,
    TopicSettings,
    TopicTrouble,
)
from django_outbox.brokers.errors import ClientError, Code, topic_result

NOT_READABLE = "this client may not read it"
NOT_EVEN_SEEN = "this client may not even see whether it exists"
NO_SUCH_NAME = "its name is not valid"

_LONGEST_RETENTION_MS = 36500 * 86_400_000  # a hundred years; anything longer counts as for ever


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A cluster's answer about one topic."""

    error: ClientError | None = None  # why there is no description
    partitions: Mapping[int, bool] = field(default_factory=dict)  # by number, whether the partition has a leader
    operations: Collection[str] = ()  # what this client may do with the topic; empty if the cluster does not say

    @property
    def write_fault(self) -> Refused | TopicTrouble | None:
        """Why the topic cannot be written to."""
        if self.error is not None:
            return topic_result(self.error) or TopicTrouble(self.error.text)
        return TopicTrouble(self.leaderless) if self.leaderless else None

    @property
    def read_fault(self) -> TopicTrouble | None:
        """Why the topic cannot be read."""
        fault = self.write_fault
        if isinstance(fault, Refused):
            return TopicMissing(NO_SUCH_NAME)
        if isinstance(fault, TopicForbidden):
            return TopicForbidden(NOT_EVEN_SEEN)
        # Any right includes DESCRIBE: without it, the cluster does not know this client's rights.
        if self.error is None and "DESCRIBE" in self.operations and "READ" not in self.operations:
            return TopicForbidden(NOT_READABLE)
        return fault

    @property
    def is_absent(self) -> bool:
        """True if the topic does not exist, or cannot exist."""
        return self.error is not None and self.error.code in (Code.UNKNOWN_TOPIC_OR_PARTITION, Code.INVALID_TOPIC)

    @property
    def leaderless(self) -> str:
        """Which partitions have no leader, as a reason; empty if all have one."""
        numbers = ", ".join(str(number) for number, led in self.partitions.items() if not led)
        return f"no leader of partition {numbers}" if numbers else ""

    def places(self, topic: str) -> set[TopicPartition]:
        """The partitions that have a leader."""
        return {TopicPartition(topic, number) for number, led in self.partitions.items() if led}


def settings_of(configs: Mapping[str, str | None]) -> TopicSettings | None:
    """A topic's settings from its configuration in Kafka's names; None if retention is unknown."""
    try:
        milliseconds = int(configs.get("retention.ms") or "")
    except ValueError:
        return None
    policy = (configs.get("cleanup.policy") or "delete").split(",")
    # Compaction alone never removes a record for its age.
    endless = milliseconds < 0 or "delete" not in policy or milliseconds > _LONGEST_RETENTION_MS
    return TopicSettings(None if endless else timedelta(milliseconds=milliseconds), "compact" in policy)
