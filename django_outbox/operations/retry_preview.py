"""What a retry of dead letters would do, for those who confirm it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, QuerySet

from django_outbox.observability import text as texts

SAMPLE = 10
TYPES = 10


@dataclass(frozen=True)
class RetryPreview:
    """
    Attributes:
        count: messages that would be retried.
        types: their most frequent event types, with counts.
        seconds: until the last of them is due.
    """

    count: int
    types: list[tuple[str, int]]
    seconds: int

    @property
    def duration(self) -> str:
        """The seconds in words; empty if all are due at once."""
        return texts.duration(self.seconds) if self.seconds else ""


def preview_retry(dead: QuerySet[Any], rate: int | None) -> RetryPreview:
    """What a retry at so many messages per second would do; None retries all at once."""
    types = dead.order_by().values_list("event_type").annotate(count=Count("id")).order_by("-count", "event_type")
    count = dead.count()
    return RetryPreview(count, list(types[:TYPES]), seconds_until_last(count, rate))


def seconds_until_last(count: int, rate: int | None) -> int:
    """Seconds until the last of so many messages is due."""
    return (count - 1) // rate if rate and count else 0


def newest(dead: QuerySet[Any]) -> list[Any]:
    """A few of the newest messages, as a sample."""
    return list(dead.order_by("-id")[:SAMPLE])
