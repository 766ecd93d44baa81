"""Topics of the consumer: skips those that it cannot read, so that the others continue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from django_outbox.brokers.base import Broker, TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.brokers.errors import NOT_READABLE
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable, TopicNotReadable
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.topic_health import TopicHealth

CHECK_SECONDS = 30.0  # between two checks while all topics are readable
FAULT_CHECK_SECONDS = 5.0  # at most, while one is not
# Each try has the group rebalance, and time alone rarely helps.
UNDECODABLE_SECONDS = 300.0
PROBATION_SECONDS = 10.0  # within which a client that may not read a topic gets an error

_ADVICE: dict[type[TopicTrouble], str] = {
    TopicMissing: "Create the topic, or start outbox_relay with --create-topics",
    TopicForbidden: "Let this client read it, by an ACL for the operation Read",
    TopicTrouble: "Check its partitions and their replicas",
}


class TopicUndecodable(TopicTrouble):
    """The topic has records that the client library cannot decode."""


class ReadableTopics:
    """Decides which topics the consumer reads now.

    It skips topics that are missing or forbidden, as a client cannot subscribe to the rest otherwise. It does not skip
    a topic where only some partitions have no leader, as clients read the other partitions.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Collection[str],
        log: logging.Logger,
        clock: Callable[[], float],
        outages: OutageLog,
    ) -> None:
        self._broker = broker
        self._topics = frozenset(topics)
        self._clock = clock
        self._outages = outages
        self._health = TopicHealth(
            log,
            clock,
            _ADVICE,
            consequence="other topics are read meanwhile",
            missing_level=logging.WARNING,
            outages=outages,
        )
        self._refused: set[str] = set()  # reading them failed, although the broker reported no fault
        self._next_check_at = clock()
        self._is_idle = False
        self.current = self._topics
        """The topics to read now."""

    def __str__(self) -> str:
        return str(self._health)

    @property
    def unread(self) -> str:
        """Faults of topics that may have records; empty if there are none."""
        faults = self._health.faults.items()
        return self._health.describe(topic for topic, each in faults if type(each.fault) is not TopicMissing)

    def check_if_due(self, *, is_reading: bool) -> None:
        """Check all topics, more often during a fault.

        Args:
            is_reading: whether there is a subscription, which may work although the broker does not answer the check.

        Raises:
            BrokerUnavailable: unless ``is_reading``.
        """
        now = self._clock()
        if now < self._next_check_at and (is_reading or self._health):
            return
        self._next_check_at = now + CHECK_SECONDS
        try:
            faults = self._broker.unreadable_topics(self._topics)
        except BrokerUnavailable:
            if is_reading:
                return
            self._next_check_at = now
            raise
        with self._outages.combined():
            for topic in sorted(self._topics):
                fault = faults.get(topic)
                if fault is not None:
                    self._refused.discard(topic)
                    self._check_within(self._health.report(topic, fault))
                elif topic in self._refused:
                    self._check_refused(topic)
                else:
                    self._health.resolve([topic])
        self._update()

    def record_idle(self, is_idle: bool) -> None:
        """Check soon once this member of the group has no partitions.

        A topic may have been deleted. A client that joined its group meanwhile may not notice when it is created again.
        """
        if is_idle and not self._is_idle:
            self._check_soon()
        self._is_idle = is_idle

    def _check_soon(self) -> None:
        """Check at the next call of ``check_if_due``."""
        self._next_check_at = self._clock()

    def refuse(self, error: TopicNotReadable) -> None:
        """Skip topics for a while, as reading them failed.

        Longer after each failure, as somebody may be about to grant access; at once for a long time if the client
        cannot decode their records.
        """
        for topic in sorted(self._topics.intersection(error.topics)):
            if isinstance(error, RecordsUndecodable):
                fault = TopicUndecodable(error.reason)
                self._health.report(topic, fault, advice=error.advice, retry_after=UNDECODABLE_SECONDS)
            else:
                self._health.report(topic, TopicForbidden(NOT_READABLE))
            self._refused.add(topic)
        self._update()
        self._check_soon()

    def _check_refused(self, topic: str) -> None:
        """End the fault of a refused topic once it was read for ``PROBATION_SECONDS`` without an error."""
        known = self._health.faults[topic]
        wait = known.retry_at - self._clock()
        if wait > 0:
            if isinstance(known.fault, TopicUndecodable):
                known.incident.report(known.text)  # again if it is time to
            self._check_within(wait)
        elif wait + PROBATION_SECONDS > 0:
            self._check_within(wait + PROBATION_SECONDS)
        else:
            self._refused.discard(topic)
            self._health.resolve([topic])

    def _check_within(self, seconds: float) -> None:
        self._next_check_at = min(self._next_check_at, self._clock() + min(seconds, FAULT_CHECK_SECONDS))

    def _update(self) -> None:
        self.current = self._topics - {topic for topic in self._health.faults if self._is_skipped(topic)}

    def _is_skipped(self, topic: str) -> bool:
        known = self._health.faults[topic]
        if topic in self._refused:
            return self._clock() < known.retry_at
        return isinstance(known.fault, TopicMissing | TopicForbidden)
