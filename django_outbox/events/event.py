"""The event as applications see it: what is published and what a handler receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    To publish, ``type`` and ``payload`` suffice, as they do for what ``INBOX`` makes of a record: there
    ``id`` None stands for the record's place and ``source`` None for its topic. What a handler
    receives is complete:

    Attributes:
        type: name of what happened, such as ``"order.created"``.
        payload: anything that JSON can carry.
        key: events of one topic and key are handled in the order in which they were written;
            ``""`` means no key and no order.
        headers: text by name, carried as Kafka headers.
        topic: the Kafka topic; None, when publishing, lets the settings choose.
        version: version of the payload's schema.
        id: identity of the event, the same at each redelivery; the key for idempotent side effects.
        source: the service that wrote it (for this one's own, the setting ``SOURCE``).
        time: when it was written.
        attempt: how many times it has been sent or, through the inbox, tried; counted from 1.
        partition: Kafka partition of the record in hand.
        offset: Kafka offset of the record in hand.
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
