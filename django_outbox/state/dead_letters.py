"""Copies of dead messages for ``DEAD_LETTER_TOPIC``, sent through the outbox."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from django_outbox.conf import settings
from django_outbox.events.parsing import CONTENT_TYPE, RESERVED_PREFIX
from django_outbox.events.payloads import is_tombstone
from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import json_value
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.models.validation import clean_text
from django_outbox.state.failures import Stage

UNREADABLE = "unreadable"  # the event type of a copy whose record could not be read
LARGEST_RAW_BYTES = 256 * 1024
EXCEPTION_PREFIX = "kafka_dlt-exception-"
"""Headers with the error of a copied message begin with it."""


def unread_topic(named: Collection[str | None] = ()) -> str | None:
    """``DEAD_LETTER_TOPIC`` if this project does not read it, and no handler has ``named`` it; None otherwise."""
    topic = settings.dead_letter_topic
    if topic is None or topic in settings.topics or topic in named or settings.inbox.get(topic) is not None:
        return None
    return topic


def publish_copy(
    message: OutboxMessage | InboxMessage, error: BaseException | str, *, stage: str = Stage.HANDLE, using: str
) -> None:
    """Write a copy of a dead message to the outbox, in the transaction that makes the message dead.

    The headers are those of Spring's ``DeadLetterPublishingRecoverer``, as text
    (``org.springframework.kafka.support.KafkaHeaders``, names that begin with ``DLT_``).
    """
    topic = settings.dead_letter_topic
    if topic is None or message.topic == topic:  # a copy that cannot be sent is not copied again
        return
    if isinstance(message, InboxMessage):
        group: str | None = message.group
    else:
        group = settings.consumer_group if stage == Stage.HANDLE else None
    kind = type(error)
    found = {
        "kafka_dlt-original-topic": message.topic,
        "kafka_dlt-original-partition": message.partition,
        "kafka_dlt-original-offset": message.offset,
        "kafka_dlt-original-consumer-group": group,
        f"{EXCEPTION_PREFIX}fqcn": None if isinstance(error, str) else f"{kind.__module__}.{kind.__qualname__}",
        f"{EXCEPTION_PREFIX}message": text_of(error)[:ERROR_LENGTH],
        f"{EXCEPTION_PREFIX}stacktrace": message.last_error,
    }
    given = message.headers if isinstance(message.headers, dict) else {}  # a row may have been edited by hand
    kept = {
        name: value for name, value in given.items() if not name.startswith(RESERVED_PREFIX) and name != CONTENT_TYPE
    }
    headers = {name: clean_text(str(value)) for name, value in {**kept, **found}.items() if value is not None}
    OutboxMessage.objects.using(using).create(
        event_type=message.event_type or UNREADABLE,
        event_version=message.event_version,
        topic=topic,
        message_key=message.message_key,
        headers=headers,
        **_content(message),
    )


def _content(message: OutboxMessage | InboxMessage) -> dict[str, Any]:
    """The payload as it is, or the bytes of a record that could not be read as JSON."""
    if isinstance(message, OutboxMessage) or message.source or (message.raw_key is None and message.raw_value is None):
        # Without key and value, a record would be refused by some clients: null stands for such a tombstone.
        content_type = None if is_tombstone(message) and not message.message_key else message.content_type
        return {"payload": json_value(message.payload), "content_type": content_type, "raw_value": message.raw_value}
    return {"payload": {"key_base64": _base64(message.raw_key), "value_base64": _base64(message.raw_value)}}


def has_base64(payload: Any) -> bool:
    """True for the payload of a copy whose record could not be read."""
    return isinstance(payload, dict) and payload.keys() == {"key_base64", "value_base64"}


def _base64(raw: bytes | memoryview | None) -> str | None:
    if raw is None or len(raw) > LARGEST_RAW_BYTES:
        return None
    return base64.b64encode(raw).decode()
