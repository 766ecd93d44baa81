"""Published messages that a handler of this project has not handled yet, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.models import Count, Max, Min, Q

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.dead_letters import unread_topic
from django_outbox.state.dialects import oldest_first

SAMPLE_SIZE = 10_000

Kind = tuple[str, str | None]
"""An event type and its topic; None for any topic."""


@dataclass(frozen=True)
class HandledEvents:
    """The events that the main consumer group handles. Other published messages are for other services."""

    kinds: frozenset[Kind]  # those with a handler
    everything: bool  # the consumer also handles all others, by making them dead
    unread: str | None  # a topic that this project does not read

    @classmethod
    def by(cls, handlers: Iterable[Handler]) -> HandledEvents:
        """The events of the handlers of the main group."""
        kinds = frozenset((handler.event_type, handler.topic) for handler in handlers)
        unread = unread_topic([topic for _, topic in kinds])
        return cls(kinds, everything=settings.unknown_event == "dead", unread=unread)

    def includes(self, event_type: str, topic: str) -> bool:
        """True if the group handles an event of this type from this topic."""
        kinds = {(event_type, topic), (event_type, None)}
        return topic != self.unread and (self.everything or not kinds.isdisjoint(self.kinds))

    @property
    def condition(self) -> Q | None:
        """The same as a condition on published messages; None if the group handles none."""
        if self.everything:
            return Q(status="published") & self.read
        condition = Q()
        if types := sorted(event_type for event_type, topic in self.kinds if topic is None):
            condition = Q(event_type__in=types) & self.read
        for kind in sorted((kind for kind in self.kinds if kind[1] is not None), key=str):
            condition |= self.condition_of(kind)
        return condition or None

    def condition_of(self, kind: Kind) -> Q:
        """A condition on messages of one kind."""
        event_type, topic = kind
        return Q(event_type=event_type) & (self.read if topic is None else Q(topic=topic))

    @property
    def read(self) -> Q:
        """A condition on messages in topics that this project reads."""
        return ~Q(topic=self.unread) if self.unread else Q()


def longest_unhandled(using: str) -> float | None:
    """Seconds since the oldest unhandled message was published; None if there is none.

    Reads, for each event type, the first ten thousand in the log and, if there are more, the first of each partition and
    one that Debezium carries. Without an index for that, or if all types are handled, it reads the oldest ten thousand.
    """
    return max((seconds for _, seconds in _ages(using, by_topic=False)), default=None)


def longest_unhandled_by_topic(using: str) -> dict[str, float]:
    """The same by topic. It reads more rows: for reports, not for gauges."""
    ages: dict[str, float] = {}
    for topic, seconds in _ages(using, by_topic=True):
        ages[topic] = max(seconds, ages.get(topic, 0.0))
    return ages


def _ages(using: str, *, by_topic: bool) -> Iterator[tuple[str, float]]:
    """The topic of unhandled messages, and the seconds since each was published; without topic only of the oldest."""
    for messages, by_partition in _searches(using):
        rows: list[Any]
        if by_topic:
            rows = list(messages.values_list("topic", "published_at", DatabaseNow())[:SAMPLE_SIZE])
            count = len(rows)
        else:
            first = messages.annotate(clock=DatabaseNow()).values("published_at", "clock")[:SAMPLE_SIZE]
            found = first.aggregate(count=Count("clock"), since=Min("published_at"), now=Max("clock"))
            rows, count = [("", found["since"], found["now"])], found["count"]
        if by_partition and count == SAMPLE_SIZE:
            rows += _first_of_partitions(messages)
        for topic, since, now in rows:
            if since is not None:
                yield topic, max(0.0, (now - since).total_seconds())


def _searches(using: str) -> Iterator[tuple[Any, bool]]:
    """Unhandled messages in the order of an index, and whether that is the order of partitions."""
    published = OutboxMessage.objects.using(using).own().filter(publish_count__gt=0)
    try:
        registry.load()
        handled = HandledEvents.by(registry.for_group(settings.consumer_group))
    except HandlersNotImportable:
        handled = HandledEvents(frozenset(), everything=True, unread=unread_topic())
    if handled.everything:
        yield oldest_first(published.filter(handled.read), "published"), False
        return
    has_index = connections[using].features.supports_partial_indexes
    for kind in handled.kinds:
        messages: Any = published.filter(handled.condition_of(kind))
        if has_index:
            # In the order of the reconciler's index, so that it is used even with stale statistics.
            messages = messages.filter(status="published").order_by("event_type", "topic", "partition", "offset")
        else:
            messages = oldest_first(messages, "published")
        yield messages, has_index


def _first_of_partitions(messages: Any) -> Iterator[tuple[str, datetime | None, datetime]]:
    """Topic, time of publication and current time of the first message of each partition, and of one without a partition."""
    rows = messages.values_list("topic", "published_at", DatabaseNow(), "partition")
    first = rows.first()
    while first is not None:
        of_topic = rows.filter(topic=first[0])
        row = of_topic.filter(partition__isnull=True).first()  # Debezium delivers it
        if row is not None:
            yield row[:3]
        row = of_topic.filter(partition__isnull=False).first()
        while row is not None:
            yield row[:3]
            row = of_topic.filter(partition__gt=row[3]).first()
        first = rows.filter(topic__gt=first[0]).first()
