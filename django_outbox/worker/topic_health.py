"""Topics that a worker cannot use now: why, and when to try each again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from django_outbox.brokers.base import TopicMissing, TopicTrouble
from django_outbox.worker.incident import Incident
from django_outbox.worker.outage_log import OutageLog, topic_subject


@dataclass(slots=True)
class TopicFault:
    """A topic that cannot be used now."""

    fault: TopicTrouble
    incident: Incident  # its log lines and backoff
    text: str = ""  # the fault, and what to do about it
    retry_at: float = 0.0  # when to try the topic again, by the clock


class TopicHealth:
    """The faults of topics. Each is logged when it begins, once a minute, and when it ends."""

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float],
        advice: Mapping[type[TopicTrouble], str],
        *,
        consequence: str,
        missing_level: int = logging.ERROR,
        outages: OutageLog,
    ) -> None:
        """
        Args:
            advice: what to do, by kind of fault.
            consequence: of every fault, as the end of a sentence.
            missing_level: level of the log lines of topics that do not exist.
        """
        self._log = log
        self._clock = clock
        self._advice = advice
        self._consequence = consequence
        self._missing_level = missing_level
        self._outages = outages
        self.faults: dict[str, TopicFault] = {}
        """By topic."""

    def __bool__(self) -> bool:
        return bool(self.faults)

    def __str__(self) -> str:
        return self.describe(self.faults)

    def describe(self, topics: Iterable[str]) -> str:
        return " ".join(f"{topic}: {self.faults[topic].text}" for topic in topics)

    def report(
        self, topic: str, fault: TopicTrouble, *, advice: str | None = None, retry_after: float | None = None
    ) -> float:
        """Report that a topic cannot be used, and return the seconds after which to try it again.

        Args:
            fault: a fault of another kind than before is logged at once.
            advice: None takes the advice for this kind of fault.
            retry_after: seconds; None takes a backoff of up to half a minute.
        """
        known = self.faults.get(topic)
        if known is None or type(known.fault) is not type(fault):
            incident = Incident(
                self._log,
                topic_subject(topic),
                self._clock,
                level=self._missing_level if isinstance(fault, TopicMissing) else logging.ERROR,
                outages=self._outages,
                separate=type(fault) is not TopicTrouble,
            )
            known = self.faults[topic] = TopicFault(fault, incident)
        known.fault = fault
        known.text = f"{fault.reason}. {advice or self._advice[type(fault)]}; {self._consequence}."
        backoff = known.incident.report(known.text)
        delay = backoff if retry_after is None else retry_after
        known.retry_at = self._clock() + delay
        return delay

    def resolve(self, topics: Iterable[str]) -> None:
        """Report that topics can be used."""
        for topic in set(topics) & self.faults.keys():
            self.faults.pop(topic).incident.resolve()
