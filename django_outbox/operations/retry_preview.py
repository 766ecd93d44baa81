"""What a retry of dead letters would do, for those who confirm it."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, QuerySet

SAMPLE = 10
TYPES = 10


def frequent_types(dead: QuerySet[Any]) -> list[tuple[str, int]]:
    """The most frequent event types of messages, with counts."""
    types = dead.order_by().values_list("event_type").annotate(count=Count("id"))
    return list(types.order_by("-count", "event_type")[:TYPES])


def seconds_until_last(count: int, rate: int | None) -> int:
    """Seconds until the last of so many messages is due, at so many per second; None retries all at once."""
    return (count - 1) // rate if rate and count else 0


def newest(dead: QuerySet[Any]) -> list[Any]:
    """A few of the newest messages, as a sample."""
    return list(dead.order_by("-id")[:SAMPLE])
