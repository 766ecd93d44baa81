"""What the statements of relay and consumer take and return, besides rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class Published(NamedTuple):
    """An acknowledged publication; ``attempt`` is its number."""

    id: int
    attempt: int
    partition: int | None
    offset: int | None


class Earlier(NamedTuple):
    """A pending, published or dead message that must be handled before another one of its key.

    Attributes:
        is_coming: it is published after the other one, so its record will be read later.
        carried_for: the time since it was left to Debezium; None if it was not.
    """

    id: int
    status: str
    due_at: datetime | None
    is_coming: bool
    carried_for: timedelta | None


class Unsent(NamedTuple):
    """A message that is pending or dead."""

    topic: str
    message_key: str
    id: int
    status: str


class LogPosition(NamedTuple):
    """Where PostgreSQL's log is, and how far the connector has read it.

    Attributes:
        written: the end of the log, in bytes.
        horizon: transactions with an older id have ended, and their commits are before the end of the log.
        sent: up to here the connector has sent everything to Kafka, in bytes; None if its replication slot is missing,
            invalid or being created.
        is_active: the connector is connected to its slot.
    """

    written: int
    horizon: str
    sent: int | None
    is_active: bool
