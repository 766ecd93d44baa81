"""Dead letters for others to see: a copy of each message that dies goes to DEAD_LETTER_TOPIC, through the outbox itself."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from django_outbox.conf import settings
from django_outbox.events.parsing import CONTENT_TYPE, RESERVED_PREFIX
from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import json_value
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.models.validation import clean_text

UNREADABLE = "unreadable"
"""The event type of a copy of a record that has none."""
LARGEST_RAW_BYTES = 256 * 1024


def unread_topic(named: Collection[str | None] = ()) -> str | None:
    """The topic of the copies, unless this project reads it as well: then a handler may wait for them.

    Args:
        named: topics that handlers name, which are read for that.
    """
    topic = settings.dead_letter_topic
    if topic is None or topic in settings.topics or topic in named or settings.inbox.get(topic) is not None:
        return None
    return topic


def announce(
    message: OutboxMessage | InboxMessage, error: BaseException | str, text: str, *, group: str, using: str
) -> None:
    """Write a copy of a message that is dead now, in the transaction that makes it so.

    The headers are those of Spring's ``DeadLetterPublishingRecoverer``, as text
    (``org.springframework.kafka.support.KafkaHeaders``, names that begin with ``DLT_``).

    Args:
        message: as it is stored.
        error: why it is dead.
        text: what is kept of the error.
        group: the consumer group that gave it up; empty for the relay.
        using: alias of the database.
    """
    topic = settings.dead_letter_topic
    if topic is None or message.topic == topic:  # a copy that cannot be sent has no copy of its own
        return
    found = {
        "kafka_dlt-original-topic": message.topic,
        "kafka_dlt-original-partition": message.partition,
        "kafka_dlt-original-offset": message.offset,
        "kafka_dlt-original-consumer-group": group or None,
        "kafka_dlt-exception-fqcn": None if isinstance(error, str) else _name(error),
        "kafka_dlt-exception-message": text_of(error)[:ERROR_LENGTH],
        "kafka_dlt-exception-stacktrace": text,
    }
    given = message.headers if isinstance(message.headers, dict) else {}  # or what somebody wrote into the row by hand
    kept = {
        name: value for name, value in given.items() if not name.startswith(RESERVED_PREFIX) and name != CONTENT_TYPE
    }
    headers = {name: clean_text(str(value)) for name, value in {**kept, **found}.items() if value is not None}
    OutboxMessage.objects.using(using).create(
        event_type=message.event_type or UNREADABLE,
        event_version=message.event_version,
        topic=topic,
        message_key=message.message_key,
        payload=json_value(_content(message)),
        headers=headers,
    )


def _content(message: OutboxMessage | InboxMessage) -> Any:
    """The payload; of a record that could not be read, its bytes."""
    raw_key, raw_value = (getattr(message, name, None) for name in ("raw_key", "raw_value"))
    if raw_key is None and raw_value is None:
        return message.payload
    return {"key_base64": _base64(raw_key), "value_base64": _base64(raw_value)}


def has_bytes(payload: Any) -> bool:
    """True if this is what the copy of a record that could not be read carries."""
    return isinstance(payload, dict) and payload.keys() == {"key_base64", "value_base64"}


def _base64(raw: bytes | memoryview | None) -> str | None:
    if raw is None or len(raw) > LARGEST_RAW_BYTES:
        return None
    return base64.b64encode(raw).decode()


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
