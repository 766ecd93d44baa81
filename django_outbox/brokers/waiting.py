"""Partitions that wait, as a broker of their cluster does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_outbox.brokers.base import TopicPartition


@dataclass(frozen=True, slots=True)
class PartitionTrouble:
    """The record's partition cannot be written to now; others of its topic may be. No record is at fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class WaitingPartitions:
    """The partitions that wait now.

    Attributes:
        topics: those of which all partitions wait.
        reasons: why, by topic.
    """

    partitions: frozenset[TopicPartition] = frozenset()
    topics: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)


NOTHING_WAITS = WaitingPartitions()
