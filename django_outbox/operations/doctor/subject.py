"""What is examined: one database with an outbox, its broker, and this project."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_outbox.brokers.base import Broker, TopicMissing, TopicSettings, TopicTrouble, get_broker
from django_outbox.brokers.calls import Call
from django_outbox.conf import settings
from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.handlers.registry import registry
from django_outbox.models import Activity, InboxMessage, MessageFailure, OutboxMessage, Worker, outbox_database
from django_outbox.operations.status import topics_by_group, unfinished_topics

MODELS = (OutboxMessage, InboxMessage, MessageFailure, Worker, Activity)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Subject:
    """One installation.

    Attributes:
        using: alias of the database.
        clock: the time as this machine has it.
        patience: seconds that the broker has for its answers.
        has_database: False if the database is known not to answer.
    """

    using: str
    clock: Callable[[], datetime] = utc_now
    patience: float = 8.0
    has_database: bool = True

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """The connection of the current thread."""
        return connections[self.using]

    @property
    def database_option(self) -> str:
        """What a command of the outbox needs to reach this database."""
        return "" if self.using == outbox_database() else f" --database {self.using}"

    @property
    def migrate_option(self) -> str:
        """What ``migrate`` needs, which asks no router."""
        return "" if self.using == DEFAULT_DB_ALIAS else f" --database {self.using}"

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """What the database answers to a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, arguments or None)
            return list(cursor.fetchall())

    def value(self, query: str, *arguments: Any) -> Any:
        """The first value of the first row."""
        return self.rows(query, *arguments)[0][0]

    @property
    def tables(self) -> list[str]:
        return [model._meta.db_table for model in MODELS]

    @cached_property
    def topics(self) -> dict[str, frozenset[str]]:
        """What each consumer group of this project reads, the main one first."""
        return topics_by_group()

    @cached_property
    def inbox_topics(self) -> frozenset[str]:
        """Topics of which records come into the inbox: those of others, and all of the groups beside the main one."""
        main, *others = self.topics.values()
        return (main - settings.topics).union(*others)

    @cached_property
    def stored_topics(self) -> frozenset[str]:
        """Topics of pending and published messages; none if the database does not tell."""
        if self.has_database:
            with suppress(DatabaseError):
                return unfinished_topics(self.using)
        return frozenset()

    @cached_property
    def broker(self) -> BrokerAnswers:
        """What the broker says. It is asked once, and waited for no longer than ``patience``."""
        location = ""
        try:
            broker = get_broker(settings.broker)
            location = broker.location
            topics = settings.written_topics.union(self.stored_topics, *self.topics.values())
            return Call(lambda: ask(broker, topics, settings.consumer_group)).result(self.patience, lambda: False)
        except (OutboxError, ImproperlyConfigured) as error:
            return BrokerAnswers(location, trouble=in_one_line(error))
        except TimeoutError:
            return BrokerAnswers(location, trouble=f"{location} does not answer within {self.patience:g} s.")

    @property
    def handlers(self) -> list[Any]:
        """Those of all groups of this project.

        Raises:
            HandlersNotImportable: with the reason.
        """
        registry.load()
        return [handler for group in registry.groups for handler in registry.for_group(group)]


@dataclass(frozen=True)
class BrokerAnswers:
    """What a broker says.

    Attributes:
        location: where it is.
        missing: topics that do not exist.
        unreadable: why others cannot be read, by topic.
        partitions: how many each topic has.
        settings: what topics do with their records, where that is told.
        trouble: why it says nothing.
    """

    location: str
    missing: Collection[str] = ()
    unreadable: Mapping[str, TopicTrouble] = field(default_factory=dict)
    partitions: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, TopicSettings] = field(default_factory=dict)
    trouble: str = ""


def ask(broker: Broker, topics: frozenset[str], group: str) -> BrokerAnswers:
    """Ask a broker for all that the examinations want to know.

    Raises:
        BrokerUnavailable: with the reason.
    """
    troubles = broker.unreadable_topics(topics)
    missing = {topic for topic, trouble in troubles.items() if isinstance(trouble, TopicMissing)}
    unreadable = {topic: trouble for topic, trouble in sorted(troubles.items()) if topic not in missing}
    present = topics - troubles.keys()
    partitions: dict[str, int] = {}
    for place in broker.progress(present, group):
        partitions[place.topic] = partitions.get(place.topic, 0) + 1
    return BrokerAnswers(broker.location, sorted(missing), unreadable, partitions, broker.topic_settings(present))
