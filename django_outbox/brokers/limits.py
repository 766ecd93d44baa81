"""The largest payload that the broker's client sends, according to the settings.

Publishing needs it, so nothing here imports a client library or connects to a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.url import parse_url
from django_outbox.conf import settings

MAX_RECORD_BYTES = 1_048_576
"""The default limit of each of ``BACKENDS``."""
BACKENDS = frozenset(
    {
        "django_outbox.brokers.kafka.KafkaBroker",
        "django_outbox.brokers.confluent.ConfluentBroker",
        "django_outbox.brokers.memory.MemoryBroker",
    }
)
HEADROOM = 8192
"""Bytes of a record besides its payload: the longest key and event type, and the headers."""
_OPTIONS = ("max_request_size", "message.max.bytes", "message_max_bytes")


def largest_payload() -> int | None:
    """The limit for a payload, as JSON or raw, in bytes: ``MAX_PAYLOAD_BYTES``, or the client's limit.

    None if it is unknown: the backend is the project's own, or the settings are invalid, which the system checks report.
    """
    configured = settings.max_payload_bytes
    if configured is not None:
        return configured
    try:
        record = _largest_record()
    except (ImproperlyConfigured, TypeError, ValueError, OverflowError):
        return None
    return None if record is None else max(record - HEADROOM, record // 2)


def _largest_record() -> int | None:
    broker = settings.broker
    in_url: Mapping[str, Any] = parse_url(broker.url).options if "?" in broker.url else {}
    for options in (broker.producer_options, broker.options, in_url):
        for name in _OPTIONS:
            if name in options:
                return int(options[name])
    return MAX_RECORD_BYTES if broker.backend in BACKENDS else None
