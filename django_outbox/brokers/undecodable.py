"""Records that a client library cannot decode, reported alike for every library."""

from __future__ import annotations

from dataclasses import dataclass

from django_outbox.brokers.base import TopicPartition, TopicTrouble
from django_outbox.exceptions import RecordsUndecodable

HEADERS_ARE_NO_TEXT = "the name of one of its headers is not UTF-8 text"


@dataclass(frozen=True, slots=True)
class TopicUndecodable(TopicTrouble):
    """The topic has records that the client library cannot decode. ``advice`` says what to do."""

    advice: str


def broken(place: TopicPartition, offset: int, reason: str) -> RecordsUndecodable:
    """The error for records from this offset on that no library could read; ``reason`` is what this one says."""
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} cannot be read on from offset {offset} ({reason.rstrip('.')})",
        "Check the broker's log, or move the group's offset past the broken records with kafka-consumer-groups.sh",
    )


def compressed(place: TopicPartition, codec: str, package: str) -> RecordsUndecodable:
    """The error for records whose compression needs another package."""
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} has records that are compressed with {codec}, which cannot be read here",
        f"Install the package {package} and restart the consumer",
    )
