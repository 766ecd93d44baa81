"""Messages that Debezium carries, and their records as it delivers them."""

from __future__ import annotations

from typing import Any

from django_outbox.brokers.base import ReceivedRecord, TopicPartition
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message

OUTBOX = TopicPartition("outbox", 0)


def inserted(payload: Any, **fields: Any) -> OutboxMessage:
    """A message as ``publish()`` inserts it for Debezium."""
    return make_message(
        Status.PUBLISHED, payload=payload, **{"message_key": "a", "published_at": DatabaseNow(), **fields}
    )


def deliver(pipeline: Pipeline, *messages: OutboxMessage) -> ReceivedRecord:
    """As Debezium does; returns the last record."""
    for message in messages:
        record = pipeline.deliver(message, publish_count=0)
    return record


def consume(pipeline: Pipeline, clock: Clock, times: int = 3) -> None:
    for _ in range(times):
        clock.now += 2
        pipeline.consumer.run_once()


def sent() -> list[int]:
    """How often each message was sent, by id."""
    return list(OutboxMessage.objects.order_by("id").values_list("publish_count", flat=True))


def committed(pipeline: Pipeline) -> int:
    return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[OUTBOX].committed or 0
