"""What is used of confluent-kafka, or one sentence that says how to get it.

The other modules of this backend import the library from here, so that it is missed in one place.
"""

from __future__ import annotations

from django_outbox.exceptions import MissingDependency

try:
    from confluent_kafka import (
        Consumer,
        ConsumerGroupState,
        ConsumerGroupTopicPartitions,
        KafkaError,
        KafkaException,
        Message,
        Producer,
        TopicCollection,
        TopicPartition,
    )
    from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]
    from confluent_kafka.cimpl import NewTopic
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "confluent_kafka":
        raise
    raise MissingDependency(
        'OUTBOX["BROKER"]["BACKEND"] names the backend of confluent-kafka, which is not installed. '
        "Run: pip install 'django-kafka-outbox[confluent]'"
    ) from error

FIRST_OFFSET = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LAST_OFFSET = OffsetSpec.latest()  # type: ignore[no-untyped-call]

__all__ = [
    "FIRST_OFFSET",
    "LAST_OFFSET",
    "AdminClient",
    "ConfigResource",
    "Consumer",
    "ConsumerGroupState",
    "ConsumerGroupTopicPartitions",
    "KafkaError",
    "KafkaException",
    "Message",
    "NewTopic",
    "Producer",
    "TopicCollection",
    "TopicPartition",
]
