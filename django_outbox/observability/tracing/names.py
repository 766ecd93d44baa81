"""The names of spans and attributes, by OpenTelemetry's conventions for messaging.

Source: Semantic Conventions 1.44.0, "Messaging spans" and "Kafka"
(https://opentelemetry.io/docs/specs/semconv/messaging/). The conventions are in development: 1.45.0
renames some attributes. ``SCHEMA_URL`` tells the backend the version; only this module depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from django_outbox.events.event import Event

SCOPE = "django_outbox"
"""The instrumentation scope."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

CREATE, SEND, PROCESS = "create", "send", "process"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
MESSAGE_COUNT = "messaging.batch.message_count"
KEY = "messaging.kafka.message.key"
OFFSET = "messaging.kafka.offset"
ERROR_TYPE = "error.type"
EVENT_TYPE = "cloudevents.event_type"
EVENT_SOURCE = "cloudevents.event_source"

# Attributes of this package.
ATTEMPT = "django_outbox.attempt"
REDONE = "django_outbox.redone"
NOT_SENT = "django_outbox.not_sent"
REASON = "django_outbox.reason"
ROLLED_BACK = "rolled_back"
"""The ``error.type`` of a message that was rolled back because another one failed."""

KAFKA = "kafka"


class Message(Protocol):
    """The attributes of a message that spans use."""

    @property
    def event_id(self) -> Any: ...
    @property
    def event_type(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def message_key(self) -> str: ...
    @property
    def headers(self) -> dict[str, str]: ...


def span_name(operation: str, destination: str | None) -> str:
    """For example ``process orders``; only the operation if there are several destinations."""
    return operation if destination is None else f"{operation} {destination}"


def one_topic(messages: Iterable[Message]) -> str | None:
    """The common topic of messages; None if there are several."""
    topics = {message.topic for message in messages}
    return topics.pop() if len(topics) == 1 else None


def created(message: Message) -> dict[str, Any]:
    """The attributes of the span that creates a message."""
    return {**_operation(CREATE), DESTINATION: message.topic, **of_message(message), EVENT_TYPE: message.event_type}


def of_message(message: Message) -> dict[str, Any]:
    """The attributes of one message."""
    return {MESSAGE_ID: str(message.event_id), **({KEY: message.message_key} if message.message_key else {})}


def sent(count: int, topic: str | None) -> dict[str, Any]:
    """The attributes of the span that sends a batch; ``topic`` is None if there are several."""
    return {**_operation(SEND), MESSAGE_COUNT: count, **({} if topic is None else {DESTINATION: topic})}


def processed(event: Event, group: str) -> dict[str, Any]:
    """The attributes of the span in which the handlers of an event run."""
    attributes = {
        **_operation(PROCESS),
        DESTINATION: event.topic,
        PARTITION: None if event.partition is None else str(event.partition),
        OFFSET: event.offset,
        GROUP: group,
        MESSAGE_ID: event.id,
        KEY: event.key or None,
        EVENT_TYPE: event.type,
        EVENT_SOURCE: event.source,
        ATTEMPT: event.attempt,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def error_type(error: BaseException) -> str:
    """The class of an error, such as ``django.db.utils.IntegrityError``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _operation(name: str) -> dict[str, Any]:
    return {SYSTEM: KAFKA, OPERATION_NAME: name, OPERATION_TYPE: name}
