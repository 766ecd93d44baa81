"""Sending batches through kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import Acknowledged, Record, Refused, SendResult
from django_outbox.brokers.calls import CLOSE_SECONDS, GRACE_SECONDS, SLICE_SECONDS, Patience
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import Blame
from django_outbox.brokers.kafka.errors import client_error
from django_outbox.brokers.kafka.partitioner import KeyPartitioner
from django_outbox.brokers.producer import BatchProducer, LookUpTopics
from django_outbox.brokers.silence import SilentBrokers
from django_outbox.exceptions import BrokerUnavailable


class KafkaBrokerProducer(BatchProducer):
    """Sends through a client that it replaces when one record has made it unusable.

    At the first error that is not retriable, the client (version 3.0) ends for good and fails all records that it holds
    with that error.
    """

    def __init__(
        self, connect: Callable[[], KafkaProducer], access: Access, look_up: LookUpTopics, silence: SilentBrokers
    ) -> None:
        super().__init__(access, look_up, silence)
        self._connect = connect
        self._client = connect()
        self._spoiled = False

    @property
    def usable(self) -> bool:
        return self._usable and not self._spoiled

    def close(self) -> None:
        self._usable = False
        end_client(self._client, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _send_once(
        self, records: Sequence[Record], results: list[SendResult | None], chosen: Iterable[int], patience: Patience
    ) -> set[int]:
        if self._spoiled:
            self._replace_client(patience, results.count(None))
        futures = {}
        for index in chosen:
            if not self._usable:
                break
            results[index], future = self._start(records[index], patience)
            if future is not None:
                futures[index] = future
        refused: dict[int, list[int]] = {}  # by the identity of the error, as distinct errors may be equal
        for index, future in futures.items():
            if not future.is_done:
                _await(future, futures.values(), patience)
            if future.succeeded():
                results[index] = _acknowledged(future.value)
                continue
            results[index], error = self._failure(records[index].topic, future)
            if results[index] is not None and Blame.BATCH in client_error(error).blame:
                refused.setdefault(id(error), []).append(index)
        return {index for together in refused.values() if len(together) > 1 for index in together}

    def _partition_of(self, topic: str, key: bytes) -> int | None:
        is_known = isinstance(self._client.config["partitioner"], KeyPartitioner)
        return super()._partition_of(topic, key) if is_known else None

    def _replace_client(self, patience: Patience, left: int) -> None:
        end_client(self._client)
        self._last_error = ""
        if patience.is_over(left):
            self._usable = False
            return
        try:
            self._client = self._connect()
        except BrokerUnavailable as error:
            self._usable = False
            self._refused = True
            self._last_error = str(error)
        else:
            self._spoiled = False

    def _start(self, record: Record, patience: Patience) -> tuple[SendResult | None, Any]:
        partition = self._choose(record.topic, record.key)
        while True:
            try:
                return None, self._client.send(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    partition=partition,
                )
            except kafka_errors.KafkaError as error:
                # There may be no room, or the client does not know the topic.
                may_wait = isinstance(error, kafka_errors.KafkaTimeoutError) and not patience.is_over()
                if not may_wait:
                    return self._judge(record.topic, client_error(error)), None
            except (TypeError, ValueError) as error:
                if partition is None:
                    return Refused(f"It cannot be encoded: {error}"), None
                partition = None  # it may be new, so that the client does not know it yet

    def _failure(self, topic: str, future: Any) -> tuple[SendResult | None, kafka_errors.KafkaError]:
        """The result of a record that was not acknowledged, and the error behind it."""
        error: kafka_errors.KafkaError = future.exception or kafka_errors.KafkaTimeoutError()
        found = client_error(error)
        result = self._judge(topic, found)
        if result is not None and not error.retriable:
            self._spoiled = True
            if not _failed_itself(future, error):
                self._last_error = found.text
                result = None
        return result, error


def end_client(client: KafkaProducer, seconds: float = CLOSE_SECONDS) -> None:
    """End the client without sending what it still holds.

    Its own ``close()`` would send it first, and leave the sender thread running if that takes too long. No
    acknowledgement is lost: all were awaited.
    """
    with suppress(Exception):
        client._unregister_cleanup()
        client._sender.force_close()
        client._sender.join(seconds)
    client._closed = True


def _acknowledged(metadata: Any) -> Acknowledged:
    return Acknowledged(metadata.partition, metadata.offset if metadata.offset >= 0 else None)


def _await(future: Any, others: Collection[Any], patience: Patience) -> None:
    """Wait for an answer, as long as answers to the others come."""
    while not future.is_done and not patience.is_over(sum(not other.is_done for other in others)):
        with suppress(kafka_errors.KafkaError):
            future.get(timeout=SLICE_SECONDS)


def _failed_itself(future: Any, error: kafka_errors.KafkaError) -> bool:
    """False if the record failed because of another one: then nothing is known of it.

    Neighbours of an invalid record get a plain ``KafkaError``. Records that the client gave up when it ended get the
    offset -1, and records that failed themselves get none.
    """
    if type(error) is kafka_errors.KafkaError:
        return False
    try:
        result = future._produce_future.value
    except AttributeError:
        return False
    return result is None or result[0] is None
