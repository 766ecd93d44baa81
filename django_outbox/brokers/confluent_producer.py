"""Sending batches through confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from django_outbox.brokers import base
from django_outbox.brokers.base import Acknowledged, Failed, Outcome, Record, Refused, TopicTrouble
from django_outbox.brokers.confluent_client import (
    CLOSE_SECONDS,
    PRODUCER_AT_FAULT,
    Faults,
    close_in_time,
    drop_unsent,
    error_text,
    topic_outcome,
)
from django_outbox.brokers.confluent_library import KafkaError, KafkaException, Producer
from django_outbox.exceptions import BrokerUnavailable

TopicFaults = dict[str, KafkaError]
"""Why topics cannot be written to, by topic; those in order are left out."""

DeliveryReport = Callable[[KafkaError | None, Any], None]

# A wait in the library ends so often, for Python to see signals and for this to look at the clock.
_SLICE_SECONDS = 0.1

# The broker judges a batch of the library as a whole: the fault may be that of one record.
_WHOLE_BATCH = frozenset(
    {
        KafkaError._INVALID_DIFFERENT_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
    }
)
_GIVEN_UP = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
_LATE = _GIVEN_UP | {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT}


@dataclass(slots=True)
class _Batch:
    """Records on their way.

    Attributes:
        records: all of them.
        outcomes: of each; None while it has none.
        deadline: on the monotonic clock.
        spoiled: indices of records that were refused together with others.
    """

    records: Sequence[Record]
    outcomes: list[Outcome | None]
    deadline: float
    spoiled: set[int] = field(default_factory=set)


class ConfluentBrokerProducer(base.Producer):
    """Hands all records of a batch to the library and waits until each has its answer."""

    def __init__(
        self, client: Producer, faults: Faults, look_up: Callable[[Collection[str], float], TopicFaults]
    ) -> None:
        """
        Args:
            client: connected.
            faults: the client's ``error_cb``.
            look_up: asks what is wrong with topics, within so many seconds.
        """
        self._client = client
        self._faults = faults
        self._look_up = look_up
        self._usable = True
        self._closed = False
        self._last_error: KafkaError | None = None
        self._known_topics: set[str] = set()

    @property
    def usable(self) -> bool:
        return self._usable

    def send(self, records: Sequence[Record], timeout: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout
        faults = self._topic_faults({record.topic for record in records}, timeout)
        outcomes: list[Outcome | None] = [None] * len(records)
        if faults:
            outcomes = [faults.get(record.topic) for record in records]
        try:
            if self._usable:
                self._send_undecided(_Batch(records, outcomes, deadline))
        except BaseException:  # a signal, say: nothing may be sent behind the caller's back
            self.close()
            raise
        return self._settle(outcomes, timeout)

    def close(self) -> None:
        self._usable = False
        self._closed = True
        drop_unsent()
        close_in_time(self._end)

    def _end(self) -> None:
        # Without waiting for the library's threads, of which one may look up a host's name.
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._client.close()

    def _topic_faults(self, topics: set[str], timeout: float) -> dict[str, Outcome | None]:
        """Which topics cannot be written to. Known ones are not asked about again."""
        unknown = topics - self._known_topics
        if not unknown:
            return {}
        faults = self._look_up(unknown, timeout)
        present = unknown - faults.keys()
        if present and not self._known_topics:
            self._get_ready(min(present), timeout)
        self._known_topics |= present
        return {topic: topic_outcome(error) or TopicTrouble(error_text(error)) for topic, error in faults.items()}

    def _get_ready(self, topic: str, timeout: float) -> None:
        """Have the library connect and get its producer id: on its own it would take a second to think of it."""
        with suppress(KafkaException):  # the records will tell
            self._client.list_topics(topic, timeout=min(1.0, timeout / 4))

    def _send_undecided(self, batch: _Batch) -> None:
        produce, outcomes = self._client.produce, batch.outcomes
        for index, record in enumerate(batch.records):
            if outcomes[index] is None:
                try:  # this line is what the speed of the backend hangs on
                    produce(
                        record.topic,
                        record.value,
                        record.key,
                        on_delivery=self._report(batch, index),
                        headers=list(record.headers),
                    )
                except (BufferError, KafkaException, TypeError, ValueError):
                    self._start(batch, index)
                    if not self._usable:
                        break
        self._await_answers(batch.deadline)
        if batch.spoiled:
            self._send_alone(batch)

    def _start(self, batch: _Batch, index: int) -> None:
        """Hand one record to the library, when there is room for it, or say why that will not do."""
        record = batch.records[index]
        while self._usable:
            try:
                self._client.produce(
                    record.topic,
                    record.value,
                    record.key,
                    on_delivery=self._report(batch, index),
                    headers=list(record.headers),
                )
            except BufferError:
                if self._keeps_waiting(batch.deadline):
                    self._client.poll(_SLICE_SECONDS)
                    continue
                self._abandon()
            except KafkaException as error:
                batch.outcomes[index] = self._judge(record.topic, error.args[0])
            except (TypeError, ValueError) as error:
                batch.outcomes[index] = Refused(f"It cannot be encoded: {error}")
            return

    def _report(self, batch: _Batch, index: int) -> DeliveryReport:
        """What the library calls with a record's outcome."""
        outcomes = batch.outcomes

        def report(error: KafkaError | None, message: Any) -> None:
            if error is None:
                outcomes[index] = Acknowledged(message.partition(), message.offset())
            else:
                outcomes[index] = self._judge(batch.records[index].topic, error)
                if error.code() in _WHOLE_BATCH:
                    batch.spoiled.add(index)

        return report

    def _await_answers(self, deadline: float) -> None:
        """Wait until all records have their outcome, or give them up."""
        if self._closed:
            return
        before = None
        while left := self._client.flush(max(0.0, min(_SLICE_SECONDS, deadline - time.monotonic()))):
            if before is None:
                drop_unsent()  # should this process be killed while the broker hangs
            elif left < before:
                self._faults.heard()
            if not self._keeps_waiting(deadline):
                self._abandon()
                return
            before = left
        self._faults.heard()

    def _keeps_waiting(self, deadline: float) -> bool:
        return time.monotonic() < deadline and not self._faults.refusal and not self._faults.is_down

    def _abandon(self) -> None:
        """Give up all that has no answer, so that it is not sent later either."""
        self._usable = False
        drop_unsent()
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._client.flush(CLOSE_SECONDS)  # reports what was purged
        self.close()

    def _send_alone(self, batch: _Batch) -> None:
        """Send what was refused with others again, record by record: only one of them may be at fault.

        Where that puts a record behind a later one of its key, that one is sent again, too.
        """
        spoiled, batch.spoiled = batch.spoiled, set()
        for index in spoiled:
            batch.outcomes[index] = None  # and none it is if this comes to nothing
        moved: set[tuple[str, bytes | None]] = set()
        for index, record in enumerate(batch.records):
            place = (record.topic, record.key)
            if index in spoiled or (record.key is not None and place in moved):
                if not self._usable:
                    return
                batch.outcomes[index] = None
                self._start(batch, index)
                self._await_answers(batch.deadline)
                if isinstance(batch.outcomes[index], Acknowledged):
                    moved.add(place)

    def _judge(self, topic: str, error: KafkaError) -> Outcome | None:
        """Whose fault an error is; None means the broker's or this producer's."""
        outcome = topic_outcome(error)
        if isinstance(outcome, TopicTrouble):
            self._known_topics.discard(topic)
        if outcome is not None:
            return outcome
        code = error.code()
        if code == KafkaError._INVALID_DIFFERENT_RECORD:
            return Failed(error_text(error))
        if error.fatal() or code < 0 or code in PRODUCER_AT_FAULT:
            self._usable = False
            if code not in _LATE:
                self._last_error = error
            return None
        return Failed(error_text(error))

    def _settle(self, outcomes: list[Outcome | None], timeout: float) -> list[Outcome]:
        """Say what became of records without an answer, now that the others are known."""
        if all(outcomes):  # an outcome is true; to compare each with None would cost as much as half of the rest
            return cast(list[Outcome], outcomes)
        reason = self._reason(timeout)
        if not any(isinstance(outcome, Acknowledged) for outcome in outcomes):
            raise BrokerUnavailable(f"{self._faults.location} did not take a batch: {reason}.")
        return [outcome or TopicTrouble(reason) for outcome in outcomes]

    def _reason(self, timeout: float) -> str:
        if self._faults.refusal is None and self._last_error is not None:
            return error_text(self._last_error)
        told = self._faults.reason
        if self._faults.refusal is not None or self._faults.is_down:
            return told or "all its brokers are down"
        late = f"no acknowledgement within {timeout:g} s"
        return f"{late} ({told})" if told else late
