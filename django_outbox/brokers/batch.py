"""Sending a batch, and telling a topic in trouble from a broker that is away, whatever the client library."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import cast

from django_outbox.brokers.base import Acknowledged, Outcome, Producer, Record, Refused, TopicTrouble
from django_outbox.brokers.calls import Patience
from django_outbox.exceptions import BrokerUnavailable

TopicFaults = dict[str, Refused | TopicTrouble]
"""Why topics cannot be written to, by topic; those in order are left out."""

# After a batch without any answer the broker has so long to show that it is there at all.
_SIGN_OF_LIFE_SECONDS = 1.0


class BatchProducer(Producer):
    """Sends through a client library.

    If a whole batch gets no answer, either the broker is away, or the topics of this batch are in
    trouble, of which one may fill it. The broker is asked about them by another client: if it
    answers, the topics it is.
    """

    def __init__(
        self,
        location: str,
        look_up: Callable[[Collection[str], float], TopicFaults],
        interrupted: Callable[[], bool],
    ) -> None:
        """
        Args:
            location: of the broker, for people.
            look_up: asks what is wrong with topics, within so many seconds.
            interrupted: whether the process is to end.
        """
        self._location = location
        self._look_up = look_up
        self._interrupted = interrupted
        self._usable = True
        self._refused = False  # by the broker, or by a state of its own that no topic can be blamed for
        self._known_topics: set[str] = set()

    @property
    def usable(self) -> bool:
        return self._usable

    def send(self, records: Sequence[Record], timeout: float) -> list[Outcome]:
        if not self._usable:
            raise BrokerUnavailable(f"{self._location} did not take a batch: the producer is closed.")
        patience = Patience(time.monotonic() + timeout, self._interrupted)
        faults = self._faults({record.topic for record in records}, timeout)
        outcomes: list[Outcome | None] = [None] * len(records)
        if faults:
            outcomes = [faults.get(record.topic) for record in records]
        try:
            if not all(outcomes):
                self._send_undecided(records, outcomes, patience)
        except BaseException:  # a signal, say: nothing may be sent behind the caller's back
            self.close()
            raise
        if not all(outcomes):  # an outcome is true; to compare each with None would cost much more
            self._settle(records, outcomes, timeout)
        if not self.usable:  # what it still holds could go out once these rows are no longer locked
            self.close()
        return cast(list[Outcome], outcomes)

    @abstractmethod
    def _send_undecided(self, records: Sequence[Record], outcomes: list[Outcome | None], patience: Patience) -> None:
        """Send the records that have no outcome yet and note theirs; leave those without an answer as they are."""

    @abstractmethod
    def _reason(self, timeout: float) -> str:
        """Why records have no answer."""

    def _get_ready(self, topics: Collection[str], timeout: float) -> None:
        """Called before topics are used for the first time."""

    def _faults(self, topics: set[str], timeout: float) -> TopicFaults:
        """Which topics cannot be written to. Known ones are not asked about again."""
        unknown = topics - self._known_topics
        if not unknown:
            return {}
        faults = self._look_up(unknown, timeout)
        if present := unknown - faults.keys():
            self._get_ready(present, timeout)
            self._known_topics |= present
        return faults

    def _settle(self, records: Sequence[Record], outcomes: list[Outcome | None], timeout: float) -> None:
        """Say what became of records without an answer, now that the others are known.

        Raises:
            BrokerUnavailable: all are without, and the broker does not answer.
        """
        reason = self._reason(timeout)
        unanswered = {record.topic for record, outcome in zip(records, outcomes, strict=True) if outcome is None}
        self._known_topics -= unanswered
        faults: TopicFaults = {}
        if not any(isinstance(outcome, Acknowledged) for outcome in outcomes):
            self.close()  # nothing may be sent while this asks
            try:
                if self._refused or self._interrupted():
                    raise BrokerUnavailable(reason)
                faults = self._look_up(unanswered, min(_SIGN_OF_LIFE_SECONDS, timeout / 5))
            except BrokerUnavailable as error:
                raise BrokerUnavailable(f"{self._location} did not take a batch: {reason}.") from error
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = faults.get(records[index].topic) or TopicTrouble(reason)
