"""What every check of the doctor uses: the findings that it reports, and the installation that it examines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_outbox.brokers.base import Broker, TopicMissing, TopicSettings, TopicTrouble
from django_outbox.brokers.calls import Call
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings
from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.handlers.registry import registry
from django_outbox.models import (
    Activity,
    InboxMessage,
    MessageFailure,
    OutboxMessage,
    Pause,
    TaskRun,
    Worker,
    outbox_database,
)
from django_outbox.operations.topics import topics_by_group, unfinished_topics

MODELS = (OutboxMessage, InboxMessage, MessageFailure, Worker, Activity, Pause, TaskRun)


class Level(IntEnum):
    """The severity of a finding."""

    OK = 0
    NOTE = 1
    """Good to know, and perhaps intended."""
    WARNING = 2
    """It works, but badly or not for long."""
    FAULT = 3
    """Something does not work."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One problem, in one sentence."""

    level: Level
    summary: str
    why: str = ""
    """Its consequence or cause."""
    remedy: str = ""
    """The command or setting that fixes it."""


note = partial(Finding, Level.NOTE)
warning = partial(Finding, Level.WARNING)
fault = partial(Finding, Level.FAULT)


@dataclass
class Installation:
    """What the doctor examines: a database with an outbox, its broker, and this project."""

    using: str
    """Alias of the database."""
    broker_timeout: float = 8.0
    """Seconds to wait for the broker."""
    has_database: bool = True
    """False if the database is known not to answer."""

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """The connection of the current thread."""
        return connections[self.using]

    @property
    def database_option(self) -> str:
        """The option that makes an outbox command use this database."""
        return "" if self.using == outbox_database() else f" --database {self.using}"

    @property
    def migrate_option(self) -> str:
        """The same for ``migrate``, which does not use routers."""
        return "" if self.using == DEFAULT_DB_ALIAS else f" --database {self.using}"

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows that a query returns."""
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
        """The topics that each consumer group of this project reads, the main group first."""
        return topics_by_group()

    @cached_property
    def stored_topics(self) -> frozenset[str]:
        """Topics of pending and published messages; empty if the database does not answer."""
        if self.has_database:
            with suppress(DatabaseError):
                return unfinished_topics(self.using)
        return frozenset()

    @cached_property
    def broker(self) -> BrokerState:
        """What the broker reports. It is queried once, for at most ``broker_timeout``."""
        try:
            broker = get_broker(settings.broker)
            topics = settings.written_topics.union(self.stored_topics, *self.topics.values())
            call = Call(lambda: query_broker(broker, topics, settings.consumer_group))
            return call.result(self.broker_timeout, lambda: False)
        except (OutboxError, ImproperlyConfigured) as error:
            return BrokerState(trouble=in_one_line(error))
        except TimeoutError:
            return BrokerState(trouble=f"{broker.location} does not answer within {self.broker_timeout:g} s.")

    @property
    def handlers(self) -> list[Any]:
        """The handlers of all groups of this project.

        Raises:
            HandlersNotImportable: with the reason.
        """
        registry.load()
        return [handler for _, handler in registry.of_all_groups()]


@dataclass(frozen=True)
class BrokerState:
    """What a broker reports."""

    missing: Collection[str] = ()
    """Topics that do not exist."""
    unreadable: Mapping[str, TopicTrouble] = field(default_factory=dict)
    """Why other topics cannot be read."""
    partitions: Mapping[str, int] = field(default_factory=dict)
    """The number of partitions of each topic."""
    settings: Mapping[str, TopicSettings] = field(default_factory=dict)
    """By topic, as far as the broker reports them."""
    trouble: str = ""
    """Why the broker does not answer."""


def query_broker(broker: Broker, topics: frozenset[str], group: str) -> BrokerState:
    """Query a broker for all that the checks need.

    Raises:
        BrokerUnavailable: with the reason.
    """
    troubles = broker.unreadable_topics(topics)
    missing = [topic for topic, trouble in sorted(troubles.items()) if isinstance(trouble, TopicMissing)]
    unreadable = {topic: troubles[topic] for topic in sorted(troubles.keys() - set(missing))}
    present = topics - troubles.keys()
    partitions = Counter(place.topic for place in broker.progress(present, group))
    return BrokerState(missing, unreadable, partitions, broker.topic_settings(present))
