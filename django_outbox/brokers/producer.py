"""Sending batches: what is at fault for an error, and what is sent again. Shared by the client libraries."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import cast

from django_outbox.brokers.base import (
    Acknowledged,
    Failed,
    Producer,
    Record,
    Refused,
    SendResult,
    TopicPartition,
    TopicTrouble,
)
from django_outbox.brokers.calls import Patience
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import ClientError, topic_result
from django_outbox.brokers.partitioner import partition_of
from django_outbox.brokers.silence import BatchPatience, SilentBrokers
from django_outbox.brokers.waiting import NOTHING_WAITS, PartitionTrouble
from django_outbox.exceptions import BrokerUnavailable

TopicFaults = dict[str, Refused | TopicTrouble]
"""Why topics cannot be written to, by topic; topics in order are left out."""
LookUpTopics = Callable[[Collection[str], float], TopicFaults]
"""Asks the broker, within ``seconds``, which of these topics cannot be written to, and why."""

# How long the broker has to answer after a batch without any answer.
_SIGN_OF_LIFE_SECONDS = 1.0
# Records that are made before the first of them is sent. Few enough that the processor's cache still holds them then.
_PART_SIZE = 200


class BatchProducer(Producer):
    """Sends through a client library.

    If a whole batch gets no answer, either the broker is away or the batch's topics are in trouble. Another client asks
    the broker about the topics; if it answers, the topics are at fault.
    """

    def __init__(self, access: Access, look_up: LookUpTopics, silence: SilentBrokers) -> None:
        self._silence = silence
        self._waiting = NOTHING_WAITS
        self._location = access.url.location
        self._interrupted = access.interrupted
        self._look_up = look_up
        self._usable = True
        self._refused = False  # by the broker, or by its own state: no topic can be blamed
        self._last_error = ""  # empty: there was no answer in time
        self._known_topics: set[str] = set()

    @property
    def usable(self) -> bool:
        return self._usable

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        if not self._usable:
            raise BrokerUnavailable(f"{self._location} did not accept a batch: the producer is closed.")
        taken: list[Record] = []
        patience = BatchPatience(
            time.monotonic() + timeout,
            self._interrupted,
            lambda: self._silence.examine({record.topic for record in list(taken)}),
        )
        results: list[SendResult | None] = []
        source = iter(records)
        try:
            suspects = self._send_once(taken, results, self._taking(source, taken, results, timeout), patience)
            taken += source  # what a producer that has ended did not take
            results += [None] * (len(taken) - len(results))
            if suspects or not all(results):  # a result is true, and comparing each with None would cost much more
                self._send_again(taken, results, suspects, patience)
        except BaseException:  # such as a signal: nothing may be sent after this returns
            self.close()
            raise
        if patience.met_silence:
            self._let_wait(taken, results)
        if not all(results):
            self._settle(taken, results, timeout)
        if not self.usable:  # what it still holds must not go out after the rows are unlocked
            self.close()
        return cast(list[SendResult], results)

    def _taking(
        self, source: Iterator[Record], taken: list[Record], results: list[SendResult | None], timeout: float
    ) -> Iterator[int]:
        """Take the records in parts, and set the results of those whose topic cannot be written to.

        Returns the indices of the others.
        """
        faults: TopicFaults = {}
        deadline = time.monotonic() + timeout
        self._waiting = NOTHING_WAITS
        while part := list(islice(source, _PART_SIZE)):
            begin = len(taken)
            taken += part
            try:
                left = max(deadline - time.monotonic(), 0.0)
                faults |= self._faults({record.topic for record in part} - faults.keys(), left)
            except BrokerUnavailable as error:
                if not begin:
                    raise
                self._usable = False  # after this batch, whose first records are on their way
                self._last_error = str(error)
                return
            # Once for all records, so that those of a key have the same result.
            self._waiting = self._silence.waiting() if not begin else self._waiting
            if faults or self._waiting.partitions:
                results += [faults.get(record.topic) or self._wait(record) for record in part]
            else:
                results += [None] * len(part)
            yield from [index for index in range(begin, len(taken)) if results[index] is None]

    def _wait(self, record: Record) -> PartitionTrouble | None:
        """The result of a record whose partition waits; None if it can be sent."""
        topic, key = record.topic, record.key
        reason = self._waiting.reasons.get(topic)
        if reason is None:
            return None
        if topic not in self._waiting.topics:
            partition = None if key is None else self._partition_of(topic, key)
            if partition is None or TopicPartition(topic, partition) not in self._waiting.partitions:
                return None
        return PartitionTrouble(reason)

    def _partition_of(self, topic: str, key: bytes) -> int | None:
        """The partition to which the client sends a key; None if that is unknown."""
        count = self._silence.number_of(topic)
        return partition_of(key, count) if count else None

    def _choose(self, topic: str, key: bytes | None) -> int | None:
        """The partition for a record without a key while partitions wait; None leaves the choice to the client."""
        if key is None and topic in self._waiting.reasons:
            return self._silence.any_but(self._waiting, topic)
        return None

    @abstractmethod
    def _send_once(
        self, records: Sequence[Record], results: list[SendResult | None], chosen: Iterable[int], patience: Patience
    ) -> set[int]:
        """Send the chosen records in their order and set their results; those without an answer keep None.

        Records and results are added while this iterates over ``chosen``. It ends early if this producer has ended.
        Returns the indices of suspects: records that the broker refused together, so that any of them may be the reason,
        and records that may not be in the log although the client says so.
        """

    def _get_ready(self, topics: Collection[str], timeout: float) -> None:
        """Called before topics are used for the first time."""

    def _reason(self, timeout: float) -> str:
        """Why records have no answer."""
        return self._last_error or f"no acknowledgement within {timeout:g} s"

    def _send_again(
        self, records: Sequence[Record], results: list[SendResult | None], suspects: set[int], patience: Patience
    ) -> None:
        """Send the records without a result again until the deadline; the suspects of ``_send_once()`` alone.

        If that puts a record behind a later one of its key, the later one is sent again, too.
        """
        for index in suspects:
            results[index] = None
        while self._usable and (left := [index for index, result in enumerate(results) if result is None]):
            if patience.is_late:
                return
            chosen = _first_of(left, suspects)
            found = self._send_once(records, results, chosen, patience)
            if left[0] in suspects:
                if isinstance(results[left[0]], Acknowledged):
                    _forget_later_ones(records, results, left[0])
                found.clear()  # nothing else was refused with it
            for index in found:
                results[index] = None
            if not found and all(results[index] is None for index in chosen):
                return
            suspects |= found

    def _judge(self, topic: str, error: ClientError) -> SendResult | None:
        """The result of a record with this error; None if the broker or this producer is at fault."""
        result: SendResult | None = topic_result(error)
        if isinstance(result, TopicTrouble):
            self._known_topics.discard(topic)
        if result is not None:
            return result
        if not error.ends_producer and error.fails_record:
            return Failed(error.text)
        self._refused = self._refused or error.ends_producer
        self._usable = False
        if not error.late:
            self._last_error = error.text
        return None

    def _faults(self, topics: set[str], timeout: float) -> TopicFaults:
        """Which topics cannot be written to. Known topics are not asked about again."""
        unknown = topics - self._known_topics
        if not unknown:
            return {}
        faults = self._look_up(unknown, timeout)
        if present := unknown - faults.keys():
            self._get_ready(present, timeout)
            self._known_topics |= present
        return faults

    def _let_wait(self, records: Sequence[Record], results: list[SendResult | None]) -> None:
        """Set the results of records that were abandoned, as brokers are silent while others answer.

        Those whose partitions need no silent broker are sent again with the next batch. A topic waits where the client
        alone knows the partition: its records would end each batch.
        """
        reasons = self._silence.waiting().reasons
        for index, result in enumerate(results):
            if result is None:
                topic, key = records[index].topic, records[index].key
                reason = reasons.get(topic, "a broker did not answer")
                is_known = key is None or self._partition_of(topic, key) is not None
                results[index] = PartitionTrouble(reason) if is_known else TopicTrouble(reason)

    def _settle(self, records: Sequence[Record], results: list[SendResult | None], timeout: float) -> None:
        """Set the results of records without an answer, now that the others are known.

        Raises ``BrokerUnavailable`` if no record was acknowledged, and the broker does not answer.
        """
        reason = self._reason(timeout)
        unanswered = {record.topic for record, result in zip(records, results, strict=True) if result is None}
        self._known_topics -= unanswered
        faults: TopicFaults = {}
        if not any(isinstance(result, Acknowledged) for result in results):
            self.close()  # nothing may be sent while this asks
            try:
                if self._refused or self._interrupted():
                    raise BrokerUnavailable(reason)
                faults = self._look_up(unanswered, min(_SIGN_OF_LIFE_SECONDS, timeout / 5))
            except BrokerUnavailable as error:
                raise BrokerUnavailable(f"{self._location} did not accept a batch: {reason}.") from error
        for index, result in enumerate(results):
            if result is None:
                results[index] = faults.get(records[index].topic) or TopicTrouble(reason)


def _first_of(left: Sequence[int], suspects: Collection[int]) -> Sequence[int]:
    """What to send next: a suspect alone, or everything up to the next suspect."""
    if left[0] in suspects:
        return left[:1]
    return list(takewhile(lambda index: index not in suspects, left)) if suspects else left


def _forget_later_ones(records: Sequence[Record], results: list[SendResult | None], index: int) -> None:
    """Forget the acknowledgements of later records of the same key, so that they are sent again."""
    topic, key = records[index].topic, records[index].key
    if key is None:
        return
    for later in range(index + 1, len(records)):
        if records[later].key == key and records[later].topic == topic and isinstance(results[later], Acknowledged):
            results[later] = None
