"""Sending batches through confluent-kafka."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from django_outbox.brokers.base import Acknowledged, Record, Refused, SendResult
from django_outbox.brokers.calls import CLOSE_SECONDS, GRACE_SECONDS, SLICE_SECONDS, Patience, close_in_time
from django_outbox.brokers.confluent.client import Faults, drop_unsent
from django_outbox.brokers.confluent.errors import client_error
from django_outbox.brokers.confluent.first_records import FirstRecords
from django_outbox.brokers.errors import Blame
from django_outbox.brokers.producer import BatchProducer, LookUpTopics
from django_outbox.brokers.silence import SilentBrokers

DeliveryReport = Callable[[KafkaError | None, Any], None]

# As Acknowledged(...), in half the time.
_acknowledged: Callable[[tuple[int, int]], Acknowledged] = partial(tuple.__new__, Acknowledged)


class ConfluentBrokerProducer(BatchProducer):
    """Hands all records of a batch to the library and waits for their delivery reports."""

    def __init__(
        self,
        client: Producer,
        faults: Faults,
        look_up: LookUpTopics,
        silence: SilentBrokers,
        *,
        own_partitioner: bool = False,
    ) -> None:
        """
        Args:
            client: connected; its ``error_cb`` is ``faults``.
            own_partitioner: True if the project chose how the library chooses partitions.
        """
        super().__init__(faults.access, look_up, silence)
        self._own_partitioner = own_partitioner
        self._first = FirstRecords(silence)
        self._client = client
        self._trouble = faults
        self._closed = False

    def close(self) -> None:
        if self._closed:
            return
        self._usable = False
        self._closed = True
        drop_unsent()
        close_in_time(self._end, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _end(self) -> None:
        # Without waiting for the library's threads, one of which may be looking up a host's name.
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._client.close()

    def _get_ready(self, topics: Collection[str], timeout: float) -> None:
        """Have the library connect and get its producer id, which it would start only after a second."""
        if not self._own_partitioner:
            self._first.renew(topics)
        if not self._known_topics:
            with suppress(KafkaException):  # sending will show the error
                self._client.list_topics(min(topics), timeout=min(1.0, timeout / 4))

    def _send_once(
        self, records: Sequence[Record], results: list[SendResult | None], chosen: Iterable[int], patience: Patience
    ) -> set[int]:
        suspects: set[int] = set()
        first = self._first
        first.begin()
        # Success without an offset may only mean that a later record arrived; see FirstRecords. Here, there is none.
        alone = isinstance(chosen, Sequence) and len(chosen) == 1

        def report(index: int, error: KafkaError | None, message: Any) -> None:
            """What the library calls with a record's result."""
            if index in first.heads:
                first.answered(index)
            if error is None:
                offset = message.offset()
                if offset is None and not alone:
                    suspects.add(index)
                else:
                    results[index] = _acknowledged((message.partition(), offset))
                return
            if error.code() == KafkaError._DESTROY and self._usable:
                # A topic was deleted, and the library has dropped its partition before this record had an answer.
                error = KafkaError(KafkaError._UNKNOWN_PARTITION)
            found = client_error(error)
            results[index] = self._judge(records[index].topic, found)
            if Blame.BATCH in found.blame:
                suspects.add(index)

        anywhere = self._client.produce

        def start(index: int, partition: int | None = None) -> None:
            """Hand a record to the library, for this partition if it has no key."""
            topic, key, value, headers = record = records[index]
            if key is not None:
                partition = None  # the library knows best how many there are
            on_delivery = partial(report, index)
            produce = anywhere
            if self._waiting.partitions or partition is not None:
                produce = partial(self._produce_elsewhere, partition=partition)
            try:  # the speed of this backend depends on this line
                produce(topic, value, key, on_delivery=on_delivery, headers=list(headers))
            except (BufferError, KafkaException, TypeError, ValueError):
                results[index] = self._start(record, on_delivery, patience, partition)
                if results[index] is not None and index in first.heads:
                    first.answered(index)

        def start_released() -> bool:
            """Start the records whose first one was answered; False if this producer was closed meanwhile."""
            for index, partition in first.released(results, suspects, self._waiting):
                start(index, partition)
                if not self._usable:
                    break
            return not self._closed

        for index in chosen:  # which finds out first what waits
            topic, goes, partition = records[index].topic, True, None
            if topic in first.new:
                goes, partition = first.may_go(index, topic, records[index].key, self._waiting)
            if goes:
                start(index, partition)
            if not self._usable:
                break
        self._await_answers(patience, start_released)
        return suspects

    def _produce_elsewhere(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        on_delivery: DeliveryReport,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None = None,
    ) -> None:
        """Hand a record to the library, for this partition, or one without a key for a partition that does not wait."""
        produce = partial(self._client.produce, topic, value, key, on_delivery=on_delivery, headers=list(headers))
        chosen = self._choose(topic, key) if partition is None else partition
        if chosen is not None:
            try:
                produce(partition=chosen)
                return
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise  # else it is new, and the library does not know it yet
        produce()

    def _partition_of(self, topic: str, key: bytes) -> int | None:
        return None if self._own_partitioner else super()._partition_of(topic, key)

    def _start(
        self, record: Record, on_delivery: DeliveryReport, patience: Patience, partition: int | None
    ) -> SendResult | None:
        """Hand one record to the library as soon as it has room; returns the result if it does not take the record."""
        while self._usable:
            try:
                self._produce_elsewhere(
                    record.topic,
                    record.value,
                    record.key,
                    on_delivery=on_delivery,
                    headers=record.headers,
                    partition=partition,
                )
                return None
            except BufferError:
                if self._keeps_waiting(patience, len(self._client)):
                    self._client.poll(SLICE_SECONDS)
                else:
                    self._abandon()
            except KafkaException as error:
                return self._judge(record.topic, client_error(error))
            except (TypeError, ValueError) as error:
                return Refused(f"It cannot be encoded: {error}")
        return None

    def _await_answers(self, patience: Patience, start_released: Callable[[], bool]) -> None:
        """Wait until all records have their result, or abandon them. Starts those that waited for others."""
        if self._closed:
            return
        before = None
        while left := self._flush() + (self._first.unfinished if self._usable else 0):
            if before is None:
                drop_unsent()  # in case this process is killed while the broker hangs
            elif left < before:
                self._trouble.heard()
            if not self._keeps_waiting(patience, left):
                self._abandon()
                return
            before = left
            if self._usable and not start_released():
                return
        self._trouble.heard()

    def _flush(self, seconds: float = SLICE_SECONDS) -> int:
        """Let delivery reports come in for a moment; returns how many are missing.

        A fatal error is raised here that was reported to ``error_cb`` before.
        """
        try:
            return self._client.flush(seconds)
        except KafkaException as error:
            self._trouble(error.args[0])
            return len(self._client)

    def _keeps_waiting(self, patience: Patience, left: int) -> bool:
        return not (patience.is_over(left) or self._trouble.refusal or self._trouble.is_down)

    def _abandon(self) -> None:
        """Give up all records without an answer, so that they are not sent later."""
        self._usable = False
        drop_unsent()
        self._client.purge(in_queue=True, in_flight=True, blocking=False)
        self._flush(CLOSE_SECONDS)  # reports what was purged
        self.close()

    def _reason(self, timeout: float) -> str:
        told = self._trouble.reason
        if self._trouble.refusal is not None or self._trouble.is_down:
            self._refused = True  # no need to ask
        if self._trouble.refusal is None and self._last_error:
            return self._last_error
        if self._refused:
            return told or "all its brokers are down"
        late = f"no acknowledgement within {timeout:g} s"
        return f"{late} ({told})" if told else late
