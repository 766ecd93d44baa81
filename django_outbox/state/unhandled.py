"""Which published messages a handler here waits for, and for how long."""

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
from django_outbox.models import OutboxMessage, oldest_first
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.dead_letters import unread_topic

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
            return Q(status="published") & self.read
        condition = Q()
        if types := sorted(event_type for event_type, topic in self.kinds if topic is None):
            condition = Q(event_type__in=types) & self.read
        for kind in sorted((kind for kind in self.kinds if kind[1] is not None), key=str):
            condition |= self.condition_of(kind)
        return condition or None

    def condition_of(self, kind: Kind) -> Q:
        """What is awaited of one kind."""
        event_type, topic = kind
        return Q(event_type=event_type) & (self.read if topic is None else Q(topic=topic))

    @property
    def read(self) -> Q:
        """What is in topics that are read here."""
        return ~Q(topic=self.unread) if self.unread else Q()


def longest_awaited(using: str) -> float | None:
    """Seconds since the longest awaited of the published messages was sent; None if no handler here waits.

    Of each event type, the ten thousand first in the log are looked at and, if there are more, the first of each
    partition. Where that has no index of its own, and where all types are awaited, the ten thousand oldest are.
    """
    ages: list[float] = []
    for messages, by_partition in _searches(using):
        ages += _ages(messages, by_partition=by_partition)
    return max(ages, default=None)


def awaited_by_topic(using: str) -> dict[str, float]:
    """The same by topic, of the same messages. Reads more: for reports, not for gauges."""
    ages: dict[str, float] = {}

    def add(topic: str, since: datetime | None, now: datetime) -> None:
        if since is not None:
            ages[topic] = max(ages.get(topic, 0.0), _seconds(since, now))

    for messages, by_partition in _searches(using):
        rows = list(messages.values_list("topic", "published_at", DatabaseNow())[:LOOKED_AT])
        for row in rows:
            add(*row)
        if by_partition and len(rows) == LOOKED_AT:
            for topic, _, since, now in _first_of_partitions(messages.filter(partition__isnull=False)):
                add(topic, since, now)
    return ages


def _searches(using: str) -> Iterator[tuple[Any, bool]]:
    """Awaited messages in the order in which they are looked at, and whether that is the order of partitions."""
    published = OutboxMessage.objects.using(using).own().filter(publish_count__gt=0)
    awaited = awaited_here()
    if awaited.everything:
        yield oldest_first(published.filter(awaited.read), "published"), False
        return
    has_index = connections[using].features.supports_partial_indexes
    for kind in awaited.kinds:
        messages: Any = published.filter(awaited.condition_of(kind))
        if has_index:
            # In the order of the index that the reconciler uses, so that a planner with old statistics takes it as well.
            messages = messages.filter(status="published").order_by("event_type", "topic", "partition", "offset")
        else:
            messages = oldest_first(messages, "published")
        yield messages, has_index


def _ages(messages: Any, *, by_partition: bool = False) -> Iterator[float]:
    """How long ago the longest awaited of the first of some messages was sent, and with ``by_partition`` others."""
    first = messages.annotate(clock=DatabaseNow()).values("published_at", "clock")[:LOOKED_AT]
    found = first.aggregate(count=Count("clock"), since=Min("published_at"), now=Max("clock"))
    if found["since"]:
        yield _seconds(found["since"], found["now"])
    if by_partition and found["count"] == LOOKED_AT:
        for _, _, since, now in _first_of_partitions(messages.filter(partition__isnull=False)):
            if since:
                yield _seconds(since, now)


def _first_of_partitions(messages: Any) -> Iterator[tuple[str, int, datetime | None, datetime]]:
    """The first message of each partition, in the order of topics and partitions: place, when it was sent, and now."""
    rows = messages.values_list("topic", "partition", "published_at", DatabaseNow())
    row = rows.first()
    while row is not None:
        yield row
        topic, partition, _, _ = row
        row = rows.filter(topic=topic, partition__gt=partition).first() or rows.filter(topic__gt=topic).first()


def awaited_here() -> Awaited:
    """By the handlers of this project; if they cannot be imported, everything may be."""
    try:
        registry.load()
    except HandlersNotImportable:
        return Awaited(frozenset(), everything=True, unread=unread_topic())
    return Awaited.by(registry.for_group(settings.consumer_group))


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
