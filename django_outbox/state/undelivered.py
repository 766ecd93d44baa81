"""Messages that Debezium carries and that were not handled yet: published, at an unknown place of the log."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from django.db.models import QuerySet

from django_outbox.models import OutboxMessage
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.results import LogPosition
from django_outbox.state.outbox import published_before, requeue_all


def log_position(slot: str, *, using: str) -> LogPosition | None:
    """Where the database's log is, and how far the connector has read it; None on databases other than PostgreSQL."""
    return dialect_of(using).log_position(slot)


def has_undelivered(topic: str, *, age: timedelta, event_types: Collection[str] | None, using: str) -> bool:
    """True if a topic has such messages that have been published for some time.

    Args:
        age: minimum time since the publication.
        event_types: types with a handler; None for all.
    """
    return _undelivered(topic, age, event_types, using).exists()


def requeue_undelivered(
    topic: str, *, age: timedelta, horizon: str | None, event_types: Collection[str] | None, most: int, using: str
) -> int:
    """Requeue such messages, uncounted: the relay sends them. Returns how many changed.

    Rows locked by another session are skipped.

    Args:
        age, event_types: see ``has_undelivered``.
        horizon: only rows that were committed before; see ``LogPosition``. None for all.
        most: how many at most.
    """
    messages = _undelivered(topic, age, event_types, using)
    if horizon is not None:
        messages = dialect_of(using).inserted_before(messages, horizon)
    return requeue_all(messages, using, most=most)


def _undelivered(
    topic: str, age: timedelta, event_types: Collection[str] | None, using: str
) -> QuerySet[OutboxMessage]:
    return published_before(age, topic, event_types, using).filter(partition=None)
