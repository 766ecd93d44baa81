"""Sending batches through confluent-kafka."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django_outbox.brokers.base import Acknowledged, Failed, Outcome, Record, Refused, TopicTrouble
from django_outbox.brokers.batch import BatchProducer, TopicFaults
from django_outbox.brokers.calls import CLOSE_SECONDS, GRACE_SECONDS, SLICE_SECONDS, Patience, close_in_time
from django_outbox.brokers.confluent.client import (
    NO_ANSWER,
    PRODUCER_IS_BROKEN,
    Faults,
    drop_unsent,
    error_text,
    topic_outcome,
)
from django_outbox.brokers.confluent.library import KafkaError, KafkaException, Producer

DeliveryReport = Callable[[KafkaError | None, Any], None]

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
# What the library says of records that this producer gave up, the last if it had to end before it was through.
_GIVEN_UP = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._DESTROY})
_LATE = _GIVEN_UP | {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT}


@dataclass(slots=True)
class _Batch:
    """Records on their way.

    Attributes:
        records: all of them.
        outcomes: of each; None while it has none.
        patience: with the answers.
        spoiled: indices of records that were refused together with others.
    """

    records: Sequence[Record]
    outcomes: list[Outcome | None]
    patience: Patience
    spoiled: set[int] = field(default_factory=set)


class ConfluentBrokerProducer(BatchProducer):
    """Hands all records of a batch to the library and waits until each has its answer."""

    def __init__(
        self,
        client: Producer,
        faults: Faults,
        look_up: Callable[[Collection[str], float], TopicFaults],
        interrupted: Callable[[], bool],
    ) -> None:
        """
        Args:
            client: connected.
            faults: the client's ``error_cb``.
            look_up: asks what is wrong with topics, within so many seconds.
            interrupted: whether the process is to end.
        """
        super().__init__(faults.location, look_up, interrupted)
        self._client = client
        self._trouble = faults
        self._closed = False
        self._last_error: KafkaError | None = None

    def close(self) -> None:
        if self._closed:
            return
        self._usable = False
        self._closed = True
        drop_unsent()
        close_in_time(self._end, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _end(self) -> None:
        # Without waiting for the library's threads, of which one may look up a host's name.
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._client.close()

    def _get_ready(self, topics: Collection[str], timeout: float) -> None:
        """Have the library connect and get its producer id: on its own it would take a second to think of it."""
        if not self._known_topics:
            with suppress(KafkaException):  # the records will tell
                self._client.list_topics(min(topics), timeout=min(1.0, timeout / 4))

    def _send_undecided(self, records: Sequence[Record], outcomes: list[Outcome | None], patience: Patience) -> None:
        batch = _Batch(records, outcomes, patience)
        produce = self._client.produce
        for index, record in enumerate(records):
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
        self._await_answers(batch.patience)
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
                if self._keeps_waiting(batch.patience, len(self._client)):
                    self._client.poll(SLICE_SECONDS)
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

    def _await_answers(self, patience: Patience) -> None:
        """Wait until all records have their outcome, or give them up."""
        if self._closed:
            return
        before = None
        while left := self._flush():
            if before is None:
                drop_unsent()  # should this process be killed while the broker hangs
            elif left < before:
                self._trouble.heard()
            if not self._keeps_waiting(patience, left):
                self._abandon()
                return
            before = left
        self._trouble.heard()

    def _flush(self, seconds: float = SLICE_SECONDS) -> int:
        """Let answers come in for a moment; returns how many are missing.

        The library raises here what it has told ``error_cb`` before: that it will not go on.
        """
        try:
            return self._client.flush(seconds)
        except KafkaException as error:
            self._trouble(error.args[0])
            return len(self._client)

    def _keeps_waiting(self, patience: Patience, left: int) -> bool:
        return not (patience.is_over(left) or self._trouble.refusal or self._trouble.is_down)

    def _abandon(self) -> None:
        """Give up all that has no answer, so that it is not sent later either."""
        self._usable = False
        drop_unsent()
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._flush(CLOSE_SECONDS)  # reports what was purged
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
                self._await_answers(batch.patience)
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
        if error.fatal() or code in PRODUCER_IS_BROKEN:
            self._refused = True
        elif code > 0 and code not in NO_ANSWER:
            return Failed(error_text(error))
        self._usable = False
        if code not in _LATE:
            self._last_error = error
        return None

    def _reason(self, timeout: float) -> str:
        told = self._trouble.reason
        if self._trouble.refusal is not None or self._trouble.is_down:
            self._refused = True  # no need to ask
        if self._trouble.refusal is None and self._last_error is not None:
            return error_text(self._last_error)
        if self._refused:
            return told or "all its brokers are down"
        late = f"no acknowledgement within {timeout:g} s"
        return f"{late} ({told})" if told else late
