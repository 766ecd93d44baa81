"""What to say of records that a client library cannot take apart, so the same with every library."""

from __future__ import annotations

from django_outbox.brokers.base import TopicPartition
from django_outbox.exceptions import RecordsUndecodable

HEADERS_ARE_NO_TEXT = "the name of one of its headers is not UTF-8 text"


def broken(place: TopicPartition, offset: int, reason: str) -> RecordsUndecodable:
    """Of records that nobody could read.

    Args:
        place: where they are.
        offset: from which on.
        reason: what the library says.
    """
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} cannot be read on from offset {offset} ({reason.rstrip('.')})",
        "See to the broker's log, or set the group's offset behind what is broken, by kafka-consumer-groups.sh",
    )


def compressed(place: TopicPartition, codec: str, package: str) -> RecordsUndecodable:
    """Of records that could be read with another package.

    Args:
        place: where they are.
        codec: how they are compressed.
        package: what can decompress them.
    """
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} has records that are compressed with {codec}, which cannot be read here",
        f"Install the package {package} and start the consumer again",
    )
