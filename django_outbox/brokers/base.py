"""What the relay and the consumer need of a broker, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable

LONGEST_RETENTION_MS = 36500 * 86_400_000  # a hundred years, beyond which nothing is counted

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):  # made in less than half the time of a frozen dataclass, as is what answers it
    """A record to send. ``key`` None lets the broker's client choose the partition."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """A record as it was read.

    Attributes:
        offset: counts within the partition, from 0.
        fault: why the client library could not read it in full; empty of a sound one. Nobody takes
            what is left of such a record for an event.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    fault: str = ""


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a group is with one partition, in offsets.

    Attributes:
        low: the first that the log still holds.
        high: the one behind the last. Not every broker tells the true one: Tansu, for development,
            tells the one behind the first record of its last batch, which is too low until a member
            has been given more.
        committed: what the group has told the broker to go on with; None if nothing yet.
        position: what this member reads next, behind what ``poll()`` has returned; None for who is
            no member, and until a member has found its place.
    """

    low: int
    high: int
    committed: int | None
    position: int | None = None

    @property
    def is_at_end(self) -> bool:
        """True if nothing is left to read: for the member or, where there is none, for the group."""
        behind = self.committed if self.position is None else self.position
        return max(behind or 0, self.low) >= self.high


def are_at_end(places: Collection[TopicPartition], found: Mapping[TopicPartition, Progress], location: str) -> bool:
    """True if nothing is left to read of any of these partitions.

    Raises:
        BrokerUnavailable: the broker has told nothing of one of them.
    """
    for place in places:
        if place not in found:
            raise BrokerUnavailable(f"{location} tells nothing of {place.topic}[{place.partition}].")
    return all(found[place].is_at_end for place in places)


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What a topic does with its records.

    Attributes:
        retention: how long it keeps them; None: for ever.
        compacted: it keeps the last record of each key only.
    """

    retention: timedelta | None
    compacted: bool

    @classmethod
    def of(cls, values: Mapping[str, str | None]) -> TopicSettings | None:
        """Of the topic's configuration, in Kafka's names; None where that does not tell."""
        try:
            milliseconds = int(values.get("retention.ms") or "")
        except ValueError:
            return None
        policy = (values.get("cleanup.policy") or "delete").split(",")
        # What is compacted only is never too old.
        endless = milliseconds < 0 or "delete" not in policy or milliseconds > LONGEST_RETENTION_MS
        return cls(None if endless else timedelta(milliseconds=milliseconds), "compact" in policy)


class Acknowledged(NamedTuple):
    """The record is in the log. ``offset`` None: in the log, but the broker did not say where."""

    partition: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """This record can never be sent, whatever happens."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This record failed for a reason of its own that may pass."""

    reason: str


@dataclass(frozen=True, slots=True)
class TopicTrouble:
    """The topic cannot be written to, or not be read in full, now; no record is at fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class TopicMissing(TopicTrouble):
    """There is no such topic."""

    reason: str = "it does not exist"


@dataclass(frozen=True, slots=True)
class TopicForbidden(TopicTrouble):
    """The broker knows this client, but does not let it write to the topic, or not read it."""


@dataclass(frozen=True, slots=True)
class TopicUndecodable(TopicTrouble):
    """It has records that this client's library cannot take apart. ``advice`` says what helps."""

    advice: str


Outcome = Acknowledged | Refused | Failed | TopicTrouble


class Producer(ABC):
    """Sends batches. Used by one thread; thrown away after a ``BrokerUnavailable``."""

    @abstractmethod
    def send(self, records: Sequence[Record], timeout: float) -> list[Outcome]:
        """Send all records and wait for all acknowledgements against one deadline.

        Args:
            records: those of one key in the order in which they are to be read.
            timeout: seconds for the whole batch.

        Returns:
            One outcome a record, in the same order.

        Raises:
            BrokerUnavailable: no record is known to be in the log, and it is no topic's fault: the
                broker does not answer at all, or refuses this client.
        """

    @property
    def usable(self) -> bool:
        """False once a deadline was missed: close this producer and make another."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Give up what has not been sent and free all resources. Never raises, never waits long."""


class Subscription(ABC):
    """Reads topics as a member of a consumer group. Used by one thread."""

    @abstractmethod
    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        """Wait up to ``timeout`` seconds for at most ``limit`` records.

        Those of a partition come in the order of their offsets.

        Raises:
            TopicNotReadable: some topics may not be read; close this subscription and make another
                without these.
            BrokerUnavailable: the broker is at fault; close this subscription and make another.
        """

    @abstractmethod
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the group what it has done: by partition, the next offset to read.

        Partitions that were taken away meanwhile are passed over: who has them reads again.

        Raises:
            TopicNotReadable: as of ``poll()``; nothing was committed for these topics.
            BrokerUnavailable: the broker is at fault.
        """

    @abstractmethod
    def take_assigned(self) -> set[TopicPartition]:
        """Partitions given to this member since the last call."""

    @property
    def is_assigned(self) -> bool:
        """True if this member has its assignment, which may be empty; False while it waits for one."""
        return True

    @property
    def is_idle(self) -> bool:
        """True if the member has its assignment and it is empty: others read everything, or there is nothing to read."""
        return False

    @property
    def needs_new_client(self) -> bool:
        """True if this member gets partitions only by joining again with another client."""
        return False

    @abstractmethod
    def caught_up(self) -> bool:
        """True if this member has its partitions and has read each one to its end.

        Raises:
            BrokerUnavailable: the broker is at fault, or does not tell of one of them.
        """

    @abstractmethod
    def progress(self) -> Mapping[TopicPartition, Progress]:
        """How far the group and this member are with the partitions that are assigned now.

        Left out are those that the broker knows nothing of: their topic is gone or forbidden, or
        they have no leader. Asks the broker beside the subscription, which goes on as if nothing had been asked. For the
        thread that polls, between polls; it may wait for some seconds.

        Raises:
            BrokerUnavailable: the broker is at fault.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group and free all resources. Commits nothing. Never raises."""


class Broker(ABC):
    """A way to reach one cluster. Cheap to make: nothing is connected before it is used.

    Attributes:
        interrupted: asked while something waits for the cluster. True ends the wait with
            ``BrokerUnavailable``: at once where nothing is in hand, and when no answer has come for
            a moment where there is.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.interrupted: Callable[[], bool] = lambda: False

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the broker is, for people; without user and password."""

    @abstractmethod
    def producer(self, timeout: float) -> Producer:
        """Connect a producer whose batches have ``timeout`` seconds.

        Raises:
            BrokerUnavailable: with the reason, after a few seconds at most.
        """

    @abstractmethod
    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        """Join a consumer group.

        Raises:
            BrokerUnavailable: with the reason, after a few seconds at most.
        """

    @abstractmethod
    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        """Which of these topics do not exist.

        Raises:
            BrokerUnavailable: with the reason, after a few seconds at most.
        """

    def unreadable_topics(self, topics: Iterable[str]) -> Mapping[str, TopicTrouble]:
        """Why topics cannot be read now; those in order are left out.

        Of a topic that is missing or forbidden nothing can be read, of one in another trouble
        perhaps a part. Not every broker tells all that is forbidden before it is tried.

        Raises:
            BrokerUnavailable: with the reason, after a few seconds at most.
        """
        return {topic: TopicMissing() for topic in self.missing_topics(topics)}

    @abstractmethod
    def progress(self, topics: Iterable[str], group: str) -> Mapping[TopicPartition, Progress]:
        """How far a group is with all partitions of these topics, as far as they exist.

        Does not join the group, which need not exist: then nothing is committed.

        Raises:
            TopicNotReadable: the broker does not tell of one of these topics; of others it may.
            BrokerUnavailable: with the reason, after a few seconds at most.
        """

    def topic_settings(self, topics: Iterable[str]) -> Mapping[str, TopicSettings]:
        """What these topics do with their records; those of which the broker does not tell are left out.

        Raises:
            BrokerUnavailable: with the reason, after a few seconds at most.
        """
        return {}

    @abstractmethod
    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        """Create topics; those that exist stay as they are. None leaves a number to the cluster.

        Raises:
            TopicNotCreated: if the broker refuses.
            BrokerUnavailable: with the reason, after a few seconds at most.
        """


def get_broker(settings: BrokerSettings) -> Broker:
    """The broker that the settings name.

    Raises:
        ImproperlyConfigured: if the backend cannot be imported or is no broker.
    """
    try:
        backend = import_string(settings.backend)
    except (ImportError, TypeError, ValueError) as error:  # the latter of a path such as "." or "..x"
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["BACKEND"] cannot be imported: {error}.') from error
    if not (isinstance(backend, type) and issubclass(backend, Broker)):
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["BACKEND"] is not a Broker: {settings.backend}.')
    return backend(settings)
