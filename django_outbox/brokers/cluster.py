"""The topics and consumer groups of a Kafka cluster. Shared by the client libraries."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import (
    Broker,
    Progress,
    Refused,
    TopicForbidden,
    TopicMissing,
    TopicPartition,
    TopicSettings,
    TopicTrouble,
)
from django_outbox.brokers.calls import CONNECT_SECONDS, Result
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import NO_SUCH_NAME, NOT_EVEN_SEEN, NOT_READABLE, ClientError, Code, topic_result
from django_outbox.brokers.producer import TopicFaults
from django_outbox.brokers.secrets import keep
from django_outbox.brokers.silence import Replicas, SilentBrokers
from django_outbox.brokers.url import parse_url
from django_outbox.brokers.waiting import WaitingPartitions
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import TopicNotCreated, TopicNotReadable

_LONGEST_RETENTION_MS = 36500 * 86_400_000  # a hundred years; anything longer counts as for ever


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A cluster's answer about one topic."""

    error: ClientError | None = None  # why there is no description
    partitions: Mapping[int, Replicas] = field(default_factory=dict)  # by number
    operations: Collection[str] = ()  # what this client may do with the topic; empty if the cluster does not say

    @property
    def write_fault(self) -> Refused | TopicTrouble | None:
        """Why the topic cannot be written to. If some partitions have a leader, only the others wait."""
        if self.error is not None:
            return topic_result(self.error) or TopicTrouble(self.error.text)
        return None if any(each.is_led for each in self.partitions.values()) else self._leaderless_fault

    @property
    def read_fault(self) -> TopicTrouble | None:
        """Why the topic cannot be read."""
        fault = self.write_fault or self._leaderless_fault
        if isinstance(fault, Refused):
            return TopicMissing(NO_SUCH_NAME)
        if isinstance(fault, TopicForbidden):
            return TopicForbidden(NOT_EVEN_SEEN)
        # Any right includes DESCRIBE: without it, the cluster does not know this client's rights.
        if self.error is None and "DESCRIBE" in self.operations and "READ" not in self.operations:
            return TopicForbidden(NOT_READABLE)
        return fault

    @property
    def is_absent(self) -> bool:
        """True if the topic does not exist, or cannot exist."""
        return self.error is not None and self.error.code in (Code.UNKNOWN_TOPIC_OR_PARTITION, Code.INVALID_TOPIC)

    @property
    def leaderless(self) -> str:
        """Which partitions have no leader, as a reason; empty if all have one."""
        numbers = ", ".join(str(number) for number, each in self.partitions.items() if not each.is_led)
        return f"no leader of partition {numbers}" if numbers else ""

    @property
    def _leaderless_fault(self) -> TopicTrouble | None:
        return TopicTrouble(self.leaderless) if self.leaderless else None

    def places(self, topic: str) -> set[TopicPartition]:
        """The partitions that have a leader."""
        return {TopicPartition(topic, number) for number, each in self.partitions.items() if each.is_led}


class Admin(ABC):
    """A library's client for questions to the cluster. Any question may raise ``BrokerUnavailable``."""

    @abstractmethod
    def describe_topics(self, topics: Collection[str], *, with_rights: bool = False) -> dict[str, TopicDescription]:
        """Describe topics without creating them. To be asked first, as it finds out whether a broker answers."""

    @abstractmethod
    def progress(self, group: str, places: Collection[TopicPartition]) -> dict[TopicPartition, Progress]:
        """The group's progress in these partitions, which exist and have a leader."""

    @abstractmethod
    def topic_configs(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str | None]]:
        """The topics' configuration in Kafka's names; topics without an answer are left out."""

    @abstractmethod
    def create_topics(self, topics: Collection[str], partitions: int, replication: int) -> dict[str, ClientError]:
        """Create topics; -1 leaves a number to the cluster. Returns the errors by topic."""


class ClusterBroker(Broker):
    """A broker of a Kafka cluster; subclasses bring a client library."""

    library: ClassVar[str]  # its name, for messages

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self._url = parse_url(settings.url)
        keep(self._url.username, self._url.password)
        given = {
            "URL": self._url.options,
            "OPTIONS": settings.options,
            "PRODUCER_OPTIONS": settings.producer_options,
            "CONSUMER_OPTIONS": settings.consumer_options,
        }
        self._given = {key: self._check_options(key, options) for key, options in given.items()}
        self._silence = SilentBrokers(self.topic_faults, self._answers)

    @staticmethod
    @abstractmethod
    def _check_options(key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one key of ``OUTBOX["BROKER"]`` as the client takes them; those of ``URL`` are text.

        Raises ImproperlyConfigured, which names key and option but not the value: it may be a password.
        """

    @abstractmethod
    def _ask(
        self, question: Callable[[Admin], Result], seconds: float = CONNECT_SECONDS, in_all: float | None = None
    ) -> Result:
        """Connect a client for questions, ask, and close it; raises ``BrokerUnavailable`` without an answer in time.

        Args:
            seconds: for each answer.
            in_all: seconds for connecting and all answers, if that is more.
        """

    @abstractmethod
    def _access(self) -> Access:
        """How clients connect to the cluster."""

    def _is_interrupted(self) -> bool:
        return self.interrupted()  # which may be replaced at any time

    def _answers(self, host: str) -> bool:
        return self._access().answers(host)

    @property
    def _hosts(self) -> Collection[str]:
        """The brokers to connect to first."""
        return self._silence.answering or self._url.hosts

    @property
    def location(self) -> str:
        return self._url.location

    @property
    def waiting(self) -> WaitingPartitions:
        return self._silence.waiting()

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        faults = self.topic_faults(set(topics))
        return {topic for topic, fault in faults.items() if isinstance(fault, TopicMissing | Refused)}

    def unreadable_topics(self, topics: Iterable[str]) -> dict[str, TopicTrouble]:
        wanted = set(topics)
        if not wanted:
            return {}
        described = self._ask(lambda admin: admin.describe_topics(wanted, with_rights=True))
        return {topic: fault for topic, each in described.items() if (fault := each.read_fault)}

    def progress(self, topics: Iterable[str], group: str) -> dict[TopicPartition, Progress]:
        wanted = set(topics)

        def question(admin: Admin) -> dict[TopicPartition, Progress]:
            places: set[TopicPartition] = set()
            for topic, each in admin.describe_topics(wanted).items():
                if not each.is_absent and (reason := each.error.text if each.error else each.leaderless):
                    raise TopicNotReadable({topic}, f"{self.location} does not describe {topic}: {reason}.")
                places |= each.places(topic)
            return admin.progress(group, places) if places else {}

        return self._ask(question) if wanted else {}

    def topic_settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        wanted = set(topics)

        def question(admin: Admin) -> Mapping[str, Mapping[str, str | None]]:
            present = {topic for topic, each in admin.describe_topics(wanted).items() if each.error is None}
            return admin.topic_configs(present) if present else {}

        configs = self._ask(question) if wanted else {}
        return {topic: found for topic, values in configs.items() if (found := settings_of(values))}

    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        wanted = list(dict.fromkeys(topics))

        def create(admin: Admin) -> None:
            admin.describe_topics(wanted)
            errors = admin.create_topics(
                wanted, -1 if partitions is None else partitions, -1 if replication is None else replication
            )
            for topic, error in errors.items():
                if error.code != Code.TOPIC_ALREADY_EXISTS:
                    raise TopicNotCreated(f"The topic {topic!r} cannot be created: {error.text.rstrip('.')}.")
            deadline = time.monotonic() + CONNECT_SECONDS
            # The brokers of the cluster learn of new topics one by one.
            while time.monotonic() < deadline and any(
                each.write_fault or each.leaderless for each in admin.describe_topics(wanted).values()
            ):
                time.sleep(0.05)

        if wanted:
            self._ask(create, in_all=3 * CONNECT_SECONDS)

    def topic_faults(self, topics: Collection[str], seconds: float = CONNECT_SECONDS) -> TopicFaults:
        """Why topics cannot be written to; topics in order are left out."""
        if not topics:
            return {}
        described = self._ask(lambda admin: admin.describe_topics(topics), seconds)
        self._silence.record({topic: each.partitions for topic, each in described.items()})
        return {topic: fault for topic, each in described.items() if (fault := each.write_fault)}

    def _look_up(
        self, group: str, places: Collection[TopicPartition], seconds: float
    ) -> dict[TopicPartition, Progress]:
        """A group's progress in those of these partitions that exist and have a leader."""

        def question(admin: Admin) -> dict[TopicPartition, Progress]:
            described = admin.describe_topics({place.topic for place in places})
            led = set().union(*(each.places(topic) for topic, each in described.items()))
            known = led.intersection(places)
            return admin.progress(group, known) if known else {}

        return self._ask(question, seconds) if places else {}

    def _refused_options(self, reason: str, places: Iterable[tuple[str, str]]) -> ImproperlyConfigured:
        """The error for options that the library does not take together; ``places``: their keys and names."""
        named = ", ".join(f'OUTBOX["BROKER"]["{key}"] ({name})' for key, name in places)
        return ImproperlyConfigured(
            f"{self.library} refuses its options: {reason}." + (f" Options are set in {named}." if named else "")
        )


def settings_of(configs: Mapping[str, str | None]) -> TopicSettings | None:
    """A topic's settings from its configuration in Kafka's names; None if retention is unknown."""
    try:
        milliseconds = int(configs.get("retention.ms") or "")
    except ValueError:
        return None
    policy = (configs.get("cleanup.policy") or "delete").split(",")
    # Compaction alone never removes a record for its age.
    endless = milliseconds < 0 or "delete" not in policy or milliseconds > _LONGEST_RETENTION_MS
    return TopicSettings(None if endless else timedelta(milliseconds=milliseconds), "compact" in policy)
