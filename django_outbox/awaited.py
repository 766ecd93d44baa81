"""Which published messages a handler here waits for, and for how long."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Max, Min, Q

from django_outbox.conf import settings
from django_outbox.dead_letters import unread_topic
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.fields import DatabaseNow
from django_outbox.handlers import Handler, registry
from django_outbox.models import OutboxMessage

LOOKED_AT = 10_000

Kind = tuple[str, str | None]
"""An event type and the topic that it has to come from; None if any will do."""


@dataclass(frozen=True)
class Awaited:
    """What the main group has yet to handle once it is published. All else is for others, who read it from the topic.

    Attributes:
        kinds: what has a handler.
        everything: that the rest is awaited too, as the consumer has yet to call it dead.
        unread: a topic that nobody here reads.
    """

    kinds: frozenset[Kind]
    everything: bool
    unread: str | None

    @classmethod
    def by(cls, handlers: Iterable[Handler]) -> Awaited:
        """Awaited by these handlers, which are those of the main group."""
        kinds = frozenset((handler.event_type, handler.topic) for handler in handlers)
        unread = unread_topic([topic for _, topic in kinds])
        return cls(kinds, everything=settings.unknown_event == "dead", unread=unread)

    def includes(self, event_type: str, topic: str) -> bool:
        """True if a published message of this type and topic is awaited."""
        kinds = {(event_type, topic), (event_type, None)}
        return topic != self.unread and (self.everything or not kinds.isdisjoint(self.kinds))

    @property
    def condition(self) -> Q | None:
        """The same for a query of published messages; None if none of them is awaited."""
        if self.everything:
            return Q(status="published") & self._read
        condition = Q()
        if types := sorted(event_type for event_type, topic in self.kinds if topic is None):
            condition = Q(event_type__in=types) & self._read
        for kind in sorted((kind for kind in self.kinds if kind[1] is not None), key=str):
            condition |= self.condition_of(kind)
        return condition or None

    def condition_of(self, kind: Kind) -> Q:
        """What is awaited of one kind."""
        event_type, topic = kind
        return Q(event_type=event_type) & (self._read if topic is None else Q(topic=topic))

    @property
    def _read(self) -> Q:
        return ~Q(topic=self.unread) if self.unread else Q()


def longest_awaited(using: str) -> float | None:
    """Seconds since the longest awaited of the published messages was sent; None if no handler here waits.

    Of each event type, the ten thousand first in the log are looked at.
    """
    published = OutboxMessage.objects.using(using).filter(status="published", publish_count__gt=0)
    awaited = _awaited_here()
    if awaited.everything and awaited.condition is not None:
        messages = published.filter(awaited.condition, id__gt=0).order_by("status", "id")
        row = messages.values_list("published_at", DatabaseNow()).first()
        return _seconds(row[0], row[1]) if row and row[0] else None
    ages = []
    for kind in awaited.kinds:
        # In the order of the index that the reconciler uses, so that a planner with old statistics takes it as well.
        found: Any = published.filter(awaited.condition_of(kind)).order_by("event_type", "topic", "partition", "offset")
        found = found.annotate(clock=DatabaseNow()).values("published_at", "clock")[:LOOKED_AT]
        times = found.aggregate(since=Min("published_at"), now=Max("clock"))
        if times["since"]:
            ages.append(_seconds(times["since"], times["now"]))
    return max(ages, default=None)


def _awaited_here() -> Awaited:
    """By the handlers of this project; if they cannot be imported, everything may be."""
    try:
        registry.load()
    except HandlersNotImportable:
        return Awaited(frozenset(), everything=True, unread=unread_topic())
    return Awaited.by(registry.for_group(settings.consumer_group))


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
