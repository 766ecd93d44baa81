"""The names of spans and of what they say, by OpenTelemetry's conventions for messaging.

Source: Semantic Conventions 1.44.0, "Messaging spans" and "Kafka"
(https://opentelemetry.io/docs/specs/semconv/messaging/). These conventions are still in development:
1.45.0 renames some of the attributes. Which version is followed here is told to the backend by
``SCHEMA_URL``, and is to be changed in this module alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from django_outbox.events.event import Event

SCOPE = "django_outbox"
"""Who makes the spans."""
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

# Of this package's own.
ATTEMPT = "django_outbox.attempt"
REDONE = "django_outbox.redone"
NOT_SENT = "django_outbox.not_sent"
REASON = "django_outbox.reason"
ROLLED_BACK = "rolled_back"
"""The ``error.type`` of a try that nothing was wrong with, but the transaction that it shared."""

KAFKA = "kafka"


class Message(Protocol):
    """What spans say of a message that is on its way to the broker."""

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
    """Such as ``process orders``; the operation alone if there is more than one destination."""
    return operation if destination is None else f"{operation} {destination}"


def one_topic(messages: Iterable[Message]) -> str | None:
    """The topic of all these messages; None if there are several."""
    topics = {message.topic for message in messages}
    return topics.pop() if len(topics) == 1 else None


def created(message: Message) -> dict[str, Any]:
    """What the span says that creates a message."""
    return {**_operation(CREATE), DESTINATION: message.topic, **of_message(message), EVENT_TYPE: message.event_type}


def of_message(message: Message) -> dict[str, Any]:
    """What is said of one of several messages."""
    return {MESSAGE_ID: str(message.event_id), **({KEY: message.message_key} if message.message_key else {})}


def sent(count: int, topic: str | None) -> dict[str, Any]:
    """What the span says that sends a batch; ``topic`` None if the messages are for several."""
    return {**_operation(SEND), MESSAGE_COUNT: count, **({} if topic is None else {DESTINATION: topic})}


def processed(event: Event, group: str) -> dict[str, Any]:
    """What the span says in which the handlers of an event run."""
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
    """The class of an error, as in ``django.db.utils.IntegrityError``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _operation(name: str) -> dict[str, Any]:
    return {SYSTEM: KAFKA, OPERATION_NAME: name, OPERATION_TYPE: name}
