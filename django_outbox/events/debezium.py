"""Which messages Debezium carries to Kafka, with ``PUBLISHER = "debezium"``. The relay sends all others."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from django.db import connections

from django_outbox.conf import settings
from django_outbox.events.payloads import Row, is_json
from django_outbox.serializers.configured import Serializers

VENDOR = "postgresql"
LONGEST_NUMBER = 400
"""Characters of the longest number that jsonb makes of one with an exponent: 5e-324 has 326."""


class New(Row, Protocol):
    """A message to insert."""

    event_type: str
    topic: str
    message_key: str
    headers: dict[str, str]
    payload_json: str
    delay: timedelta


def publishes(using: str) -> bool:
    """True if Debezium sends new messages of this database: ``PUBLISHER`` names it, and the database is PostgreSQL."""
    # Seldom set: this look-up takes a third of the time of the property.
    return "PUBLISHER" in settings.raw and settings.publisher == "debezium" and connections[using].vendor == VENDOR


def can_carry(message: New, serializers: Serializers, limit: int | None) -> bool:
    """True if Debezium's event router makes the record that the relay would send, and Kafka takes it.

    The documentation of ``PUBLISHER`` gives the reason of each condition.

    Headers that tracing adds do not count: this service's consumer reads them from the row.

    Args:
        limit: maximum size of a payload in bytes; None for no limit.
    """
    return (
        not message.delay
        and message.message_key != ""
        and not message.headers
        and is_json(message)
        and serializers.find(message.event_type, message.topic) is None
        and (limit is None or not _may_exceed(message.payload_json, limit))
    )


def _may_exceed(text: str, limit: int) -> bool:
    """True if JSON that ``publish()`` accepted may be too large as jsonb writes it: 1e+300 becomes 301 digits."""
    exponents = text.count("e+") + text.count("e-")
    return exponents > 0 and len(text.encode()) + exponents * LONGEST_NUMBER > limit
