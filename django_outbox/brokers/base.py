"""The contract of a broker backend: what relay and consumer need of a broker.

A backend subclasses ``Broker``, which makes a ``Producer`` and a ``Subscription``. All times are in seconds. A backend
raises none of its client library's errors: it returns a result, or raises an error that is documented here.

The contract is one long file on purpose: whoever writes a backend reads it from top to bottom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django_outbox.brokers.waiting import NOTHING_WAITS, PartitionTrouble, WaitingPartitions
from django_outbox.conf import BrokerSettings

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):  # NamedTuples are created in half the time of frozen dataclasses
    """A record to send. With ``key`` None, the client chooses the partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """A record as it was read.

    Attributes:
        offset: position in the partition, from 0.
        fault: why the client library could not decode the record in full; empty if it could. A record with a fault is
            never taken for an event.
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
    """A consumer group's progress in one partition, in offsets.

    Attributes:
        low: the first offset that the log still holds.
        high: the offset after the last record. On Tansu it is too low until a member has received the whole last batch.
        committed: where the group goes on; None if it has committed nothing.
        position: the next offset that this member reads; None for anyone else, and until a member has its position.
    """

    low: int
    high: int
    committed: int | None
    position: int | None = None

    @property
    def is_at_end(self) -> bool:
        """True if nothing is left to read for the member or, without one, for the group."""
        behind = self.committed if self.position is None else self.position
        return max(behind or 0, self.low) >= self.high


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How long a topic keeps its records; None means for ever. A compacted topic keeps the last record of each key."""

    retention: timedelta | None
    compacted: bool


class Acknowledged(NamedTuple):
    """The record is in the log. ``offset`` is None if the broker does not say where."""

    partition: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """This record can never be sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This record failed, and no other is affected. The reason may pass."""

    reason: str


@dataclass(frozen=True, slots=True)
class TopicTrouble:
    """The topic cannot be written to, or not be read in full, now. No record is at fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class TopicMissing(TopicTrouble):
    """The topic does not exist."""

    reason: str = "it does not exist"


@dataclass(frozen=True, slots=True)
class TopicForbidden(TopicTrouble):
    """The broker does not allow this client to write to the topic, or to read it."""


SendResult = Acknowledged | Refused | Failed | TopicTrouble | PartitionTrouble


class Producer(ABC):
    """Sends batches. Used by one thread, and closed after a ``BrokerUnavailable``."""

    @abstractmethod
    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        """Send all records and wait until each is acknowledged or has failed.

        Records with the same topic and key get into the log in the given order. Records without an answer must never be
        sent after this returns or raises.

        Args:
            records: may be made while they are taken, so that the first are on their way meanwhile. An error of the
                iterable is raised, and the producer is closed.
            timeout: for the whole batch.

        Returns:
            One result per record, in the same order.

        Raises:
            BrokerUnavailable: no record is known to be in the log and no topic is at fault: the broker does not answer
                or refuses this client.
        """

    @property
    def usable(self) -> bool:
        """False after a missed deadline. Close this producer then, and make another."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Abandon unsent records and free all resources, within about a second. Never raises; may be called twice."""


class Subscription(ABC):
    """Reads topics as a member of a consumer group. Used by one thread, and closed after a ``BrokerUnavailable``.

    Partitions are assigned and taken away during ``poll()``. A partition is read from the offset that the group has
    committed, or from its beginning. Each method except ``take_assigned()`` and ``close()`` raises ``BrokerUnavailable``
    if the broker does not answer or refuses this client.

    Attributes:
        on_revoked: called with partitions that are taken away, perhaps in another thread. Returns the next offsets to
            read, which are committed if the client library allows it at that moment.
    """

    on_revoked: Callable[[Collection[TopicPartition]], Mapping[TopicPartition, int]] = staticmethod(lambda taken: {})

    @abstractmethod
    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        """Wait for records and return at most ``limit`` of them, those of a partition in the order of their offsets.

        With a ``limit`` of 0, this only keeps the membership. It may return records that came with a new partition.

        Raises:
            TopicNotReadable: some topics cannot be read; make another subscription without them.
        """

    @abstractmethod
    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Store for the group, by partition, the next offset to read.

        Returns False if the group refused it in a rebalance, or since a topic was deleted; what it says of other partitions
        is not known then. Skips partitions that this member no longer has: their new owner reads the records again.

        Raises:
            TopicNotReadable: as in ``poll()``; nothing is committed for these topics.
        """

    def commit_soon(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """As ``commit()``, but returns False as well if the answer takes long. Then call it again between polls.

        The broker that stores the offsets may wait for others, while messages of other brokers can be handled.
        """
        return self.commit(offsets)

    @abstractmethod
    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Read nothing of these partitions for now, and go on with all others."""

    @abstractmethod
    def take_assigned(self) -> set[TopicPartition]:
        """Partitions assigned to this member since the last call."""

    @property
    def is_assigned(self) -> bool:
        """True if this member has its assignment, which may be empty; False while it waits for one."""
        return True

    @property
    def is_idle(self) -> bool:
        """True if this member's assignment is empty."""
        return False

    @property
    def needs_new_client(self) -> bool:
        """True if this member gets partitions only if it joins again with another client."""
        return False

    @abstractmethod
    def caught_up(self) -> bool:
        """True if this member has its assignment, and the broker says that it has read each partition to the end."""

    @abstractmethod
    def progress(self) -> Mapping[TopicPartition, Progress]:
        """The progress of this member and its group in the assigned partitions.

        Leaves out partitions that the broker does not describe: they have no leader, or their topic is gone or
        forbidden. Called between polls and without effect on them; takes a few seconds at most.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group without a commit and free all resources. Never raises; may be called twice."""


class Broker(ABC):
    """Reaches one cluster. Creating one connects nothing.

    Each method raises ``BrokerUnavailable`` with the reason after a few seconds if the broker does not answer or refuses
    this client. No method creates a topic, except ``create_topics()``.

    Attributes:
        interrupted: called during each wait. Once it returns true, waits end with ``BrokerUnavailable``: at once if
            nothing is in flight, otherwise after a moment without an answer.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.interrupted: Callable[[], bool] = lambda: False

    @property
    @abstractmethod
    def location(self) -> str:
        """The broker's address for messages, without user and password."""

    @property
    def waiting(self) -> WaitingPartitions:
        """The partitions to which producers send nothing for now. Their records get a ``PartitionTrouble``."""
        return NOTHING_WAITS

    @abstractmethod
    def producer(self, timeout: float) -> Producer:
        """Connect a producer whose batches have this timeout."""

    @abstractmethod
    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        """Join a consumer group."""

    @abstractmethod
    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        """Which of these topics do not exist."""

    def unreadable_topics(self, topics: Iterable[str]) -> Mapping[str, TopicTrouble]:
        """Why topics cannot be read now; readable topics are left out.

        Nothing can be read of a topic that is missing or forbidden, and perhaps a part of one in another trouble. A
        broker may not reveal every missing permission in advance.
        """
        return {topic: TopicMissing() for topic in self.missing_topics(topics)}

    @abstractmethod
    def progress(self, topics: Iterable[str], group: str) -> Mapping[TopicPartition, Progress]:
        """A group's progress in all partitions of those topics that exist. Does not join the group, which may not exist.

        Raises:
            TopicNotReadable: the broker does not describe one of the topics.
        """

    def topic_settings(self, topics: Iterable[str]) -> Mapping[str, TopicSettings]:
        """The settings of topics; topics without an answer are left out."""
        return {}

    @abstractmethod
    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        """Create topics and leave existing ones as they are. None leaves a number to the cluster.

        Raises:
            TopicNotCreated: the broker refuses.
        """
