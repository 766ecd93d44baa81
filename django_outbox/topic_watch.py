"""Which topics a consumer can read now: one in trouble is not to stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from django_outbox.brokers.base import Broker, TopicForbidden, TopicMissing, TopicTrouble, TopicUndecodable
from django_outbox.brokers.refusals import NOT_READABLE
from django_outbox.exceptions import BrokerUnavailable, RecordsUndecodable, TopicNotReadable
from django_outbox.outage_log import OutageLog, topic_subject
from django_outbox.runner import Trouble

LOOK_SECONDS = 30.0  # between two looks while all is well
IN_TROUBLE_SECONDS = 5.0  # at most, while a topic is in trouble
# Until a topic is tried again that time alone seldom mends: each try has the group join anew.
UNDECODABLE_SECONDS = 300.0
PROBATION_SECONDS = 10.0  # in which a client that may not read a topic is told so

_ADVICE: dict[type[TopicTrouble], str] = {
    TopicMissing: "Create the topic, or start outbox_relay with --create-topics",
    TopicForbidden: "Let this client read it, by an ACL for the operation Read",
    TopicTrouble: "See to its partitions and their replicas",
}


@dataclass(slots=True)
class _InTrouble:
    """A topic in trouble.

    Attributes:
        fault: what it is.
        trouble: tells of it, and how long to wait.
        refused_until: when to try a topic again that showed only when it was read that it cannot be;
            None of one of which the broker tells when it is asked.
    """

    fault: TopicTrouble
    trouble: Trouble
    refused_until: float | None = None

    @property
    def text(self) -> str:
        advice = self.fault.advice if isinstance(self.fault, TopicUndecodable) else _ADVICE[type(self.fault)]
        return f"{self.fault.reason}. {advice}; other topics are read meanwhile."


class TopicWatch:
    """Asks the broker what is in the way of reading each topic, and tells it once each.

    What is missing or forbidden is left out, so that a member of a group can be made for the rest. A
    topic of which only partitions have no leader is not: clients read the others by themselves.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Collection[str],
        log: logging.Logger,
        clock: Callable[[], float],
        outages: OutageLog | None = None,
    ) -> None:
        """
        Args:
            broker: whom to ask, beside any subscription.
            topics: all that are to be read.
            log: where trouble is logged.
            clock: seconds, monotonic.
            outages: what else may be part of the same outage.
        """
        self._outages = outages or OutageLog(log, clock)
        self._broker = broker
        self._topics = frozenset(topics)
        self._log = log
        self._clock = clock
        self._in_trouble: dict[str, _InTrouble] = {}
        self._next_look_at = clock()
        self.readable = self._topics
        """The topics to read now."""

    def __str__(self) -> str:
        return _told(self._in_trouble)

    @property
    def unread(self) -> str:
        """What is in the way of topics that may have records; empty if nothing is."""
        return _told({topic: each for topic, each in self._in_trouble.items() if type(each.fault) is not TopicMissing})

    def look_if_due(self, *, is_reading: bool) -> None:
        """Ask what is in the way now and then, more often while something is.

        Args:
            is_reading: whether there is a subscription, which a broker that does not answer now may
                still serve.

        Raises:
            BrokerUnavailable: with the reason, unless ``is_reading``.
        """
        now = self._clock()
        if now < self._next_look_at and (is_reading or self._in_trouble):
            return
        self._next_look_at = now + LOOK_SECONDS
        try:
            faults = self._broker.unreadable_topics(self._topics)
        except BrokerUnavailable:
            if is_reading:
                return
            self._next_look_at = now
            raise
        with self._outages.gathering():
            for topic in sorted(self._topics):
                self._note(topic, faults.get(topic))
        self._leave_out()

    def look_soon(self) -> None:
        """Ask at the next opportunity, as something may have changed."""
        self._next_look_at = self._clock()

    def blame(self, error: TopicNotReadable) -> None:
        """Note that reading topics ended with an error: leave them out for a while.

        For longer each time, as somebody may be about to allow it; for long if they have records that
        cannot be taken apart.
        """
        fault: TopicTrouble = TopicForbidden(NOT_READABLE)
        if isinstance(error, RecordsUndecodable):
            fault = TopicUndecodable(error.reason, error.advice)
        for topic in sorted(self._topics.intersection(error.topics)):
            wait = self._report(topic, fault)
            if isinstance(fault, TopicUndecodable):
                wait = UNDECODABLE_SECONDS
            self._in_trouble[topic].refused_until = self._clock() + wait
        self._leave_out()
        self._next_look_at = self._clock()

    def _note(self, topic: str, fault: TopicTrouble | None) -> None:
        """What a look has found of a topic."""
        known = self._in_trouble.get(topic)
        if fault is not None:
            self._look_again_in(self._report(topic, fault))
            self._in_trouble[topic].refused_until = None
        elif known is not None:
            left = 0.0 if known.refused_until is None else known.refused_until + PROBATION_SECONDS - self._clock()
            if left <= 0:
                del self._in_trouble[topic]
                known.trouble.over()
            else:
                if isinstance(known.fault, TopicUndecodable) and left > PROBATION_SECONDS:
                    known.trouble.report(known.text)
                self._look_again_in(left - PROBATION_SECONDS if left > PROBATION_SECONDS else left)

    def _report(self, topic: str, fault: TopicTrouble) -> float:
        known = self._in_trouble.get(topic)
        if known is None or type(known.fault) is not type(fault):
            trouble = Trouble(
                self._log,
                topic_subject(topic),
                self._clock,
                level=logging.WARNING if isinstance(fault, TopicMissing) else logging.ERROR,
                outages=self._outages,
                apart=type(fault) is not TopicTrouble,
            )
            known = self._in_trouble[topic] = _InTrouble(fault, trouble)
        known.fault = fault
        return known.trouble.report(known.text)

    def _look_again_in(self, seconds: float) -> None:
        self._next_look_at = min(self._next_look_at, self._clock() + min(seconds, IN_TROUBLE_SECONDS))

    def _leave_out(self) -> None:
        self.readable = self._topics - {topic for topic, each in self._in_trouble.items() if self._is_left_out(each)}

    def _is_left_out(self, topic: _InTrouble) -> bool:
        if topic.refused_until is not None:
            return self._clock() < topic.refused_until
        return isinstance(topic.fault, TopicMissing | TopicForbidden)


def _told(topics: dict[str, _InTrouble]) -> str:
    return " ".join(f"{topic}: {each.text}" for topic, each in topics.items())
