"""Where messages wait for their handler, and whether a consumer reads these topics."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import GroupHandlers, registry
from django_outbox.models import Worker
from django_outbox.state.unhandled import awaited_by_topic


class UnreadTopic(NamedTuple):
    """A topic with messages for handlers here that no consumer of the main group reads.

    Attributes:
        seconds: how long the longest awaited of its messages has waited; None if none is published yet.
        is_known: consumers read it unless they are started with other topics.
    """

    topic: str
    seconds: float | None
    is_known: bool


class Waits(NamedTuple):
    """How long messages have waited for their handler.

    Attributes:
        read: seconds, in topics that are read; None if none waits there.
        unread: the topics that are not read, by name.
    """

    read: float | None
    unread: list[UnreadTopic]


@dataclass(frozen=True)
class Reach:
    """The topics that consumers of the main group read.

    Attributes:
        known: those that a consumer reads if it is started without ``--topics``.
        running: those that the running consumers read, as far as they say.
        is_complete: there are running consumers, and all of them say what they read.
    """

    known: frozenset[str]
    running: frozenset[str]
    is_complete: bool

    @classmethod
    def of(cls, workers: Iterable[Any]) -> Reach:
        """With these workers, which have ``is_lost``."""
        main = settings.consumer_group
        apart = registry.named_groups - {main}
        told = [
            worker.topics
            for worker in workers
            if worker.kind == Worker.Kind.CONSUMER and not worker.is_lost and worker.group not in apart
        ]
        topics = frozenset(topic for text in told for topic in text.split(", ") if topic)
        # Workers of older versions say nothing, and a long list is cut.
        is_complete = bool(told) and all(text and not text.endswith("…") for text in told)
        return cls(GroupHandlers(registry, main).default_topics, topics, is_complete)

    def includes(self, topic: str) -> bool:
        return topic in self.running or (not self.is_complete and topic in self.known)


def waits(using: str, workers: Collection[Any]) -> Waits:
    """Ask the database what is awaited where. If handlers cannot be imported, all topics count as read."""
    ages = awaited_by_topic(using)
    try:
        registry.load()
    except HandlersNotImportable:  # what they read is not known
        return Waits(max(ages.values(), default=None), [])
    reach = Reach.of(workers)
    read = [seconds for topic, seconds in ages.items() if reach.includes(topic)]
    unread = [
        UnreadTopic(topic, seconds, topic in reach.known)
        for topic, seconds in sorted(ages.items())
        if not reach.includes(topic)
    ]
    return Waits(max(read, default=None), unread)
