"""Consumer groups and their topics: which topics consumers read, and where messages wait unread."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from django.utils.translation import gettext

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import GroupHandlers, Registry, registry
from django_outbox.models import OutboxMessage, Worker
from django_outbox.observability import text as texts
from django_outbox.operations.counts import distinct, has_partial_indexes, own
from django_outbox.operations.workers import Cause
from django_outbox.state.dialects import oldest_first
from django_outbox.state.unhandled import longest_unhandled_by_topic

MOST_TOPICS = 1000
MOST_ROWS = 10_000


def loaded_registry() -> Registry:
    """The handlers of this project, as far as they can be imported."""
    with suppress(HandlersNotImportable):
        registry.load()
    return registry


def topics_by_group() -> dict[str, frozenset[str]]:
    """The topics that each consumer group of this project reads, the main group first."""
    handlers = loaded_registry()
    return {group: GroupHandlers(handlers, group).default_topics for group in handlers.groups}


def known_topics() -> frozenset[str]:
    """All topics that this project writes to or reads."""
    return settings.written_topics.union(*topics_by_group().values())


def unfinished_topics(using: str) -> frozenset[str]:
    """Topics of pending and published messages, at most a thousand of each.

    One index lookup for each topic. Without partial indexes: the topics of the ten thousand oldest messages of each.
    """
    topics: set[str] = set()
    messages = own(OutboxMessage, using)
    for status in ("pending", "published"):
        if has_partial_indexes(using):
            topics.update(islice(distinct(messages.filter(status=status), "topic"), MOST_TOPICS))
        else:
            topics.update(oldest_first(messages, status).values_list("topic", flat=True)[:MOST_ROWS])
    return frozenset(topics)


def default_topics() -> frozenset[str]:
    """The topics that a consumer of the main group reads if it is started without ``--topics``."""
    return GroupHandlers(loaded_registry(), settings.consumer_group).default_topics


def read_topics(workers: Iterable[Any]) -> frozenset[str]:
    """The topics that running consumers of the main group report, and the default ones unless all report."""
    other_groups = loaded_registry().named_groups - {settings.consumer_group}
    reported = [
        worker.topics
        for worker in workers
        if worker.kind == Worker.Kind.CONSUMER and not worker.is_lost and worker.group not in other_groups
    ]
    topics = frozenset(topic for text in reported for topic in text.split(", ") if topic)
    # Workers of older versions report nothing, and a long list is cut.
    is_complete = bool(reported) and all(text and not text.endswith("…") for text in reported)
    return topics if is_complete else topics | default_topics()


class UnreadTopic(NamedTuple):
    """A topic with messages for handlers here that no consumer of the main group reads."""

    topic: str
    seconds: float | None
    """How long the oldest of its published messages has waited; None if none is published yet."""
    is_default: bool
    """It is one of ``default_topics``."""

    @property
    def title(self) -> str:
        return gettext("No consumer reads the topic %(topic)s") % {"topic": self.topic}

    @property
    def cause(self) -> Cause:
        if self.seconds is None:
            waited = gettext("Its messages are for handlers here.")
        else:
            age = texts.duration(self.seconds).replace("\xa0", " ")
            waited = gettext("Messages have waited for their handler for %(age)s.") % {"age": age}
        if self.is_default:
            why = gettext(
                "The running consumers were started with other topics, or before this one was in the settings."
            )
            remedy = gettext("Restart the consumers, without --topics or with this topic as well.")
        else:
            why = gettext(
                "Consumers read the topics in TOPIC, ROUTES, TASK_TOPICS and INBOX, and those that handlers name. This one "
                "is not among them."
            )
            remedy = gettext(
                'Add it to OUTBOX["ROUTES"], or name it in @handler(..., topic="%(topic)s"), and restart the consumers. '
                "If the topic is a mistake, correct it where the messages are published."
            ) % {"topic": self.topic}
        return Cause(f"{waited} {why}", remedy)


def awaited(using: str, workers: Collection[Any]) -> tuple[float | None, list[UnreadTopic]]:
    """How long messages have waited for their handler in topics that are read, and the topics that are not read.

    If handlers cannot be imported, all topics count as read.
    """
    ages = longest_unhandled_by_topic(using)
    try:
        registry.load()
    except HandlersNotImportable:
        return max(ages.values(), default=None), []
    read, default = read_topics(workers), default_topics()
    unread = [UnreadTopic(topic, age, topic in default) for topic, age in sorted(ages.items()) if topic not in read]
    return max((age for topic, age in ages.items() if topic in read), default=None), unread
