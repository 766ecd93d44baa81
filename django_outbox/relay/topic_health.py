"""Which topics the relay leaves alone, and for how long: one in trouble is not to stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django_outbox.brokers.base import TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.worker.incident import Incident
from django_outbox.worker.outage_log import OutageLog, topic_subject

_ADVICE: dict[type[TopicTrouble], str] = {
    TopicMissing: "Create the topic, or start the relay with --create-topics",
    TopicForbidden: "Let this client write to it, by an ACL for the operation Write",
    TopicTrouble: "See to its partitions and their replicas",
}
# The others' turn ends early if they have had nothing due for so long.
UNUSED_TURN_SECONDS = 1.0

_NOT_CREATED_ADVICE = "Create it by hand, or start the relay with other options"


@dataclass(slots=True)
class _Parked:
    """A topic in trouble.

    Attributes:
        incident: logs it, and says how long to wait.
        text: what it is, and what to do about it.
        until: when to try again, on the clock.
        missing: whether it is worth a question before messages are locked for it.
    """

    incident: Incident
    text: str = ""
    until: float = 0.0
    missing: bool = False


class ParkedTopics:
    """The topics in trouble. Their messages stay due and uncounted."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float], outages: OutageLog | None = None) -> None:
        """
        Args:
            log: where trouble is logged.
            clock: seconds, monotonic.
            outages: what else may be part of the same outage.
        """
        self._log = log
        self._outages = outages or OutageLog(log, clock)
        self._clock = clock
        self._parked: dict[str, _Parked] = {}
        self._turn_ends_at = 0.0
        self._used_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._parked)

    def __str__(self) -> str:
        # Of one that is only to be looked at, nothing is known yet.
        return " ".join(f"{topic}: {parked.text}" for topic, parked in self._parked.items() if parked.text)

    def park(self, topic: str, outcome: TopicTrouble) -> None:
        """Leave a topic alone for a while; each time for longer, up to half a minute."""
        kind = type(outcome)
        self._park(
            topic, outcome.reason, _ADVICE[kind], missing=kind is TopicMissing, separate=kind is not TopicTrouble
        )

    def park_uncreated(self, topic: str, reason: str) -> None:
        """The same for one that was to be created."""
        self._park(topic, reason, _NOT_CREATED_ADVICE, missing=True, separate=True)

    def note_missing(self, topic: str) -> None:
        """Have a topic looked at before the next batch, which may create it."""
        self._of(topic).missing = True

    def free(self, topics: Iterable[str]) -> None:
        """Note that all is well with topics."""
        for topic in set(topics) & self._parked.keys():
            self._parked.pop(topic).incident.resolve()

    def keep_only(self, topics: Iterable[str]) -> None:
        """Forget the others, for which no message waits any more: another relay has sent it, or somebody deleted it."""
        self.free(self._parked.keys() - set(topics))

    def take_turns(self, seconds: float) -> None:
        """Give the other topics a turn: try none of these for as long as the last try took.

        However many topics are in trouble, and however long each try takes, the others get as much time,
        if they need it.
        """
        self._used_at = self._clock()
        self._turn_ends_at = self._used_at + seconds

    def use_turn(self) -> None:
        """Note that messages were due."""
        self._used_at = self._clock()

    def left_alone(self) -> list[str]:
        """Those not to try now."""
        now = self._clock()
        others_turn = now < min(self._turn_ends_at, self._used_at + UNUSED_TURN_SECONDS)
        return [
            topic
            for topic, parked in self._parked.items()
            if parked.until > now or (parked.incident.is_open and others_turn)
        ]

    def to_look_at(self) -> list[str]:
        """Those that did not exist, and may now."""
        left_alone = self.left_alone()
        return [topic for topic, parked in self._parked.items() if parked.missing and topic not in left_alone]

    def _park(self, topic: str, reason: str, advice: str, *, missing: bool, separate: bool) -> None:
        parked = self._of(topic)
        parked.incident.separate = separate
        if parked.until <= self._clock():
            parked.missing = missing
            parked.text = f"{reason}. {advice}; its messages wait meanwhile."
            parked.until = self._clock() + parked.incident.report(parked.text)

    def _of(self, topic: str) -> _Parked:
        known = self._parked.get(topic)
        if known is None:
            incident = Incident(self._log, topic_subject(topic), self._clock, outages=self._outages)
            known = self._parked[topic] = _Parked(incident)
        return known
