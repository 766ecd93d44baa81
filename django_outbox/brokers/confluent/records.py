"""Reading records from librdkafka's messages."""

from __future__ import annotations

from operator import methodcaller

from confluent_kafka import Message

from django_outbox.brokers.base import Headers, ReceivedRecord, TopicPartition
from django_outbox.brokers.errors import HEADERS_ARE_NO_TEXT


def place_of(message: Message) -> TopicPartition:
    return TopicPartition(message.topic() or "", message.partition() or 0)


def received(message: Message) -> ReceivedRecord:
    headers, fault = _headers(message)
    return ReceivedRecord(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=headers,
        fault=fault,
    )


# For a name that is not UTF-8, the library returns headers with holes and leaves an error set. Calls from C always check
# for that; a call that the interpreter has specialized does not.
_call_headers = methodcaller("headers")


def _headers(message: Message) -> tuple[Headers, str]:
    """A record's headers and, if the library cannot read them, why."""
    try:
        return tuple(_call_headers(message) or ()), ""
    except (SystemError, UnicodeDecodeError):
        return (), HEADERS_ARE_NO_TEXT
