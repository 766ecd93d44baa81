"""What a retry of dead letters would come to, for those who are asked whether they want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, QuerySet

from django_outbox.observability import text as texts

SAMPLE = 10
TYPES = 10


@dataclass(frozen=True)
class Outlook:
    """
    Attributes:
        count: messages that would be retried.
        types: the event types that most of them have, and how many have each.
        seconds: until the last of them is due.
    """

    count: int
    types: list[tuple[str, int]]
    seconds: int

    @property
    def duration(self) -> str:
        """The seconds in words; nothing if all are due at once."""
        return texts.duration(self.seconds) if self.seconds else ""


def outlook(dead: QuerySet[Any], rate: int | None) -> Outlook:
    """What would become of dead letters if so many a second were retried; None is all at once."""
    types = dead.order_by().values_list("event_type").annotate(count=Count("id")).order_by("-count", "event_type")
    count = dead.count()
    return Outlook(count, list(types[:TYPES]), seconds_until_last(count, rate))


def seconds_until_last(count: int, rate: int | None) -> int:
    """How long it takes until the last of so many messages is due."""
    return (count - 1) // rate if rate and count else 0


def newest(dead: QuerySet[Any]) -> list[Any]:
    """A few of them, to be looked at."""
    return list(dead.order_by("-id")[:SAMPLE])
