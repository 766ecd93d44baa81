"""The event as applications see it, when they publish it and in a handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    To publish, or in a mapper of ``INBOX``, only ``type`` and ``payload`` are required. The event of a mapper takes
    its ``id`` from the record's position and its ``source`` from the topic if they are None. A handler receives all
    attributes except ``delay`` and ``max_retry``, which are for ``publish_many``:

    Attributes:
        type: name of what happened, such as ``"order.created"``.
        payload: any JSON value, or ``RawBytes``. None for a tombstone; to publish one, pass ``TOMBSTONE``.
        key: events of one topic and key are handled in the order in which they were published;
            ``""`` means no key and no order.
        headers: text by name, sent as Kafka headers.
        topic: the Kafka topic; None, when publishing, takes it from the settings.
        version: version of the payload's schema.
        id: identity of the event, the same at each redelivery. Use it to make side effects idempotent.
        source: the service that published it, by its setting ``SOURCE``.
        time: when it was published.
        attempt: how many times it has been sent or, through the inbox, tried; counted from 1.
        partition: Kafka partition of the record.
        offset: Kafka offset of the record.
        is_tombstone: True if its record has no value. False for the payload ``None``, which is JSON's null.
        delay: seconds or a timedelta to wait before it is sent.
        max_retry: number of failures after which it is dead; None takes ``MAX_RETRY``.
    """

    type: str
    payload: Any = None
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    topic: str | None = None
    version: str = "v1"
    id: str | None = None
    source: str | None = None
    time: datetime | None = None
    attempt: int = 0
    partition: int | None = None
    offset: int | None = None
    is_tombstone: bool = False
    delay: timedelta | float | None = None
    max_retry: int | None = None
