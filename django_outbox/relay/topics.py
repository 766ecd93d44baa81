"""Topics of the relay: creates missing ones, and skips those that cannot be written to, so that the others continue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from django_outbox.brokers.base import Broker, TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.brokers.waiting import NOTHING_WAITS, WaitingPartitions
from django_outbox.conf import settings
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated, in_one_line
from django_outbox.serializers.outage import registry_trouble
from django_outbox.worker.incident import Incident
from django_outbox.worker.outage_log import OutageLog, topic_subject
from django_outbox.worker.topic_health import TopicHealth

CreateTopics = Callable[[Iterable[str]], None]

# Between two checks for missing topics while nothing is due: a broker may restart without them.
CHECK_SECONDS = 10.0
# The turn of the other topics ends early if none of their messages was due for this long.
UNUSED_TURN_SECONDS = 1.0

_ADVICE: dict[type[TopicTrouble], str] = {
    TopicMissing: "Create the topic, or start the relay with --create-topics",
    TopicForbidden: "Let this client write to it, by an ACL for the operation Write",
    TopicTrouble: "Check its partitions and their replicas",
}
LOOK_SECONDS = 0.5
"""The longest time between two passes while partitions wait."""
SLOW_LOAD = "A schema takes long to load; its topic waits."
_NOT_CREATED_ADVICE = "Create it manually, or start the relay with other options"


class WritableTopics:
    """Decides which topics the relay writes to now. Messages of the others stay due, and no retry is counted."""

    def __init__(
        self,
        broker: Broker,
        create_topics: CreateTopics | None,
        log: logging.Logger,
        clock: Callable[[], float],
        outages: OutageLog,
    ) -> None:
        """``create_topics`` is called with topics that do not exist; None reports them."""
        self._broker = broker
        self._create_topics = create_topics
        self._clock = clock
        self._health = TopicHealth(log, clock, _ADVICE, consequence="its messages wait meanwhile", outages=outages)
        self._to_create: set[str] = set()
        self._next_check_at = clock()
        self._turn_ends_at = 0.0
        self._used_at = 0.0
        self._waits: dict[str, float] = {}  # when to try topics again for which a schema could not be loaded
        self._waiting_since = 0.0
        self._partitions = NOTHING_WAITS
        self._held: set[str] = set()  # topics of messages that wait for their partition
        self._held_since: float | None = None
        self._parts: dict[str, Incident] = {}  # of these topics
        self._log = log
        self._outages = outages

    def __bool__(self) -> bool:
        """True if some topic cannot be written to."""
        return bool(self._health or self._waits or self._parts)

    def __str__(self) -> str:
        schemas = (registry_trouble() or SLOW_LOAD) if self._waits else ""
        parts = [f"{topic}: {self._partitions.reasons[topic]}." for topic in self._parts]
        return " ".join(filter(None, [str(self._health), schemas, *parts]))

    def excluded(self) -> list[str]:
        """Topics that the next batch must skip."""
        now = self._clock()
        is_turn_of_others = now < min(self._turn_ends_at, self._used_at + UNUSED_TURN_SECONDS)
        failing = self._health.faults.items()
        topics = [topic for topic, fault in failing if fault.retry_at > now or is_turn_of_others]
        topics += [topic for topic, retry_at in self._waits.items() if retry_at > now and topic not in topics]
        return [*topics, *(self._partitions.topics.difference(topics))]

    def record_due(self) -> None:
        """Record that messages were due, so that the turn of the other topics continues."""
        self._used_at = self._clock()

    def record_batch(self, written: Iterable[str], faults: Mapping[str, TopicTrouble], seconds: float) -> None:
        """Record which topics of a batch were written to, and which were not.

        After a fault, the other topics have a turn as long as the batch took. So they get half of the time, however
        many topics fail and however long each try takes.
        """
        for topic, fault in faults.items():
            if isinstance(fault, TopicMissing) and self._create_topics is not None:
                self._to_create.add(topic)  # before the next batch, outside of the transaction
            else:
                self._health.report(topic, fault)
        self._health.resolve(set(written) - faults.keys())
        for topic in written:
            self._waits.pop(topic, None)
        self._used_at = self._clock()
        if faults:
            self._turn_ends_at = self._used_at + seconds

    def let_wait(self, topics: Mapping[str, float]) -> None:
        """Skip topics for some seconds, as a schema cannot be loaded. ``serializers/outage.py`` logs an outage of the registry."""
        now = self._clock()
        if not self._waits and not self._parts:
            self._waiting_since = now
        self._waits |= {topic: now + seconds for topic, seconds in topics.items()}

    def let_partitions_wait(self, waiting: WaitingPartitions) -> bool:
        """Take notice of the partitions that wait now; True if they are others than before."""
        is_changed = waiting.partitions != self._partitions.partitions
        self._partitions = waiting
        self._held.intersection_update(waiting.reasons)
        for topic in self._parts.keys() - self._held:
            self._parts.pop(topic).resolve()
        if self._held and self._held_since is None:
            self._held_since = self._clock()
        for topic in self._held:
            if topic not in self._parts:
                subject = topic_subject(topic) if topic in waiting.topics else f"A part of topic {topic}"
                self._parts[topic] = Incident(self._log, subject, self._clock, outages=self._outages)
            others = "" if topic in waiting.topics else " Messages for other partitions are sent."
            self._parts[topic].report(f"{waiting.reasons[topic]}.{others}")
        return is_changed

    def record_held(self, topics: Collection[str]) -> None:
        """Record the topics of messages that were not sent, as their partition cannot be written to."""
        self._held.update(topics)
        if not self._held:  # asked only after a batch: a partition that does not wait may only have been tried
            self._held_since = None

    def poll_interval(self, seconds: float) -> float:
        """Return how long to wait between two passes: not long while partitions wait."""
        return min(seconds, LOOK_SECONDS) if self._partitions.partitions else seconds

    def seconds_to_wait(self, patience: float) -> float | None:
        """Return the seconds until what waits for a schema or its partition is tried again.

        None if nothing does, or for longer than ``patience``.
        """
        now = self._clock()
        if self._parts and self._held_since is not None and now - self._held_since < patience:
            return LOOK_SECONDS
        if not self._waits or now - self._waiting_since >= patience:
            return None
        return max(0.0, min(self._waits.values()) - now)

    def forget_others(self, topics: Iterable[str]) -> None:
        """Drop the faults of all other topics: none of their messages is due."""
        self._waits = {topic: self._waits[topic] for topic in self._waits.keys() & set(topics)}
        self._health.resolve(self._health.faults.keys() - set(topics))
        self._to_create.intersection_update(topics)

    def check_missing(self) -> None:
        """Check topics that were missing, and create them if they still are.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        excluded = self.excluded()
        faults = self._health.faults.items()
        topics = {name for name, each in faults if isinstance(each.fault, TopicMissing) and name not in excluded}
        topics |= self._to_create
        if not topics:
            return
        missing = self._broker.missing_topics(topics)
        self._resolve(topics - missing)
        for topic in missing:
            if self._create_topics is None:
                self._health.report(topic, TopicMissing())
            else:
                self._create(topic, self._create_topics)

    def create_configured(self) -> None:
        """Create topics of the settings that do not exist. Called when the relay connects.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        self._next_check_at = self._clock() + CHECK_SECONDS
        if self._create_topics is not None:
            for topic in self._broker.missing_topics(settings.written_topics):
                self._create(topic, self._create_topics)

    def create_configured_if_due(self) -> None:
        """The same while the relay is idle. Errors are reported once a message is due."""
        if self._create_topics is None or self._clock() < self._next_check_at:
            return
        self._next_check_at = self._clock() + CHECK_SECONDS
        with suppress(BrokerUnavailable, TopicNotCreated):
            if missing := self._broker.missing_topics(settings.written_topics):
                self._create_topics(sorted(missing))

    def _create(self, topic: str, create_topics: CreateTopics) -> None:
        try:
            create_topics([topic])
        except TopicNotCreated as error:
            fault = TopicMissing(in_one_line(error).rstrip("."))
            self._to_create.discard(topic)
            self._health.report(topic, fault, advice=_NOT_CREATED_ADVICE)
        else:
            self._resolve([topic])

    def _resolve(self, topics: Iterable[str]) -> None:
        self._to_create.difference_update(topics)
        self._health.resolve(topics)
