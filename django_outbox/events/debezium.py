"""Which messages Debezium carries to Kafka, with ``PUBLISHER = "debezium"``. The relay sends all others."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from django_outbox.events.payloads import Row, is_json
from django_outbox.serializers.configured import Serializers


class New(Row, Protocol):
    """A message to insert."""

    event_type: str
    topic: str
    message_key: str
    headers: dict[str, str]
    delay: timedelta


def can_carry(message: New, serializers: Serializers) -> bool:
    """True if Debezium's event router makes the record that the relay would send.

    ====================================  =======================================================================
    The relay sends                       because the event router
    ====================================  =======================================================================
    messages with a delay                 reads a row once, as soon as it is committed
    messages without a key                does not send records without a key
    messages with headers of their own    cannot make record headers of a JSON column with any names
    bytes and tombstones                  reads the value of each record from the same column
    events with a serializer              cannot encode a payload with it
    ====================================  =======================================================================

    Headers that tracing adds do not count: this service's consumer reads them from the row.
    """
    return (
        not message.delay
        and message.message_key != ""
        and not message.headers
        and is_json(message)
        and serializers.find(message.event_type, message.topic) is None
    )
