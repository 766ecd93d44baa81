"""The names of spans and attributes, by OpenTelemetry's conventions for messaging.

Source: Semantic Conventions 1.44.0, "Messaging spans" and "Kafka"
(https://opentelemetry.io/docs/specs/semconv/messaging/). The conventions are in development: 1.45.0
renames some attributes. ``SCHEMA_URL`` tells the backend the version; only this module depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_outbox.events.event import Event
from django_outbox.events.writer import Outgoing
from django_outbox.state.rows import NewMessage

Message = NewMessage | Outgoing

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

DESTINATION = "messaging.destination.name"
BATCH_SIZE = "messaging.batch.message_count"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
KEY = "messaging.kafka.message.key"
EVENT_TYPE = "cloudevents.event_type"
ERROR_TYPE = "error.type"

# Attributes of this package.
REDONE = "django_outbox.redone"
NOT_SENT = "django_outbox.not_sent"
REASON = "django_outbox.reason"
ROLLED_BACK = "rolled_back"
"""The ``error.type`` of a message that was rolled back because another one failed."""


def created(message: Message) -> dict[str, Any]:
    """The attributes of the span that creates a message."""
    return {**_operation("create"), DESTINATION: message.topic, **of_message(message), EVENT_TYPE: message.event_type}


def of_message(message: Message) -> dict[str, Any]:
    """The attributes of one message."""
    return {MESSAGE_ID: str(message.event_id), **({KEY: message.message_key} if message.message_key else {})}


def identity(event: Event) -> dict[str, Any]:
    """The attributes of one event of a batch."""
    return {MESSAGE_ID: str(event.id), **({KEY: event.key} if event.key else {})}


def sent(messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
    """The name and the attributes of the span that sends a batch; the topic is among them if there is only one."""
    attributes = {**_operation("send"), BATCH_SIZE: len(messages)}
    topics = {message.topic for message in messages}
    if len(topics) != 1:
        return "send", attributes
    (topic,) = topics
    return f"send {topic}", {**attributes, DESTINATION: topic}


def processed(events: Sequence[Event], group: str) -> dict[str, Any]:
    """The attributes of the span in which handlers run. Of a batch, it has only what its events share."""
    event = events[0]
    if len(events) > 1:
        return {
            **_operation("process"),
            DESTINATION: event.topic,
            BATCH_SIZE: len(events),
            GROUP: group,
            EVENT_TYPE: event.type,
        }
    attributes = {
        **_operation("process"),
        DESTINATION: event.topic,
        "messaging.destination.partition.id": None if event.partition is None else str(event.partition),
        "messaging.kafka.offset": event.offset,
        GROUP: group,
        MESSAGE_ID: event.id,
        KEY: event.key or None,
        EVENT_TYPE: event.type,
        "cloudevents.event_source": event.source,
        "django_outbox.attempt": event.attempt,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def error_type(error: BaseException) -> str:
    """The class of an error, such as ``django.db.utils.IntegrityError``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _operation(name: str) -> dict[str, Any]:
    return {"messaging.system": "kafka", "messaging.operation.name": name, "messaging.operation.type": name}
