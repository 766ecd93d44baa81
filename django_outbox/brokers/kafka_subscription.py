"""Reading as a member of a consumer group through kafka-python."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from django_outbox.brokers.base import ReceivedRecord, Subscription, TopicPartition
from django_outbox.brokers.kafka_client import CLOSE_SECONDS, CONNECT_SECONDS, error_text
from django_outbox.exceptions import BrokerUnavailable


class KafkaSubscription(Subscription):
    def __init__(self, client: KafkaConsumer, topics: Sequence[str], location: str) -> None:
        self._client = client
        self._location = location
        self._listener = _Assignments()
        client.subscribe(topics=topics, listener=self._listener)

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        try:
            batches = self._client.poll(timeout_ms=int(timeout * 1000), max_records=limit)
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error
        return [
            ReceivedRecord(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
            )
            for records in batches.values()
            for record in records
        ]

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        mine = self._client.assignment()
        positions = {
            KafkaTopicPartition(place.topic, place.partition): OffsetAndMetadata(offset, "", -1)
            for place, offset in offsets.items()
            if KafkaTopicPartition(place.topic, place.partition) in mine
        }
        if not positions:
            return
        try:
            self._client.commit(positions, timeout_ms=int(CONNECT_SECONDS * 1000))
        except (
            kafka_errors.CommitFailedError,
            kafka_errors.RebalanceInProgressError,
            kafka_errors.IllegalGenerationError,
            kafka_errors.UnknownMemberIdError,
        ):
            # A rebalance is under way. Whoever gets the partition reads these records again and
            # skips them, as their rows say that they are done.
            return
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error

    def take_assigned(self) -> set[TopicPartition]:
        return self._listener.take()

    def caught_up(self) -> bool:
        if not self._listener.assigned_once:
            return False
        mine = self._client.assignment()
        if not mine:
            return True
        limit = int(CONNECT_SECONDS * 1000)
        try:
            ends = self._client.end_offsets(list(mine), timeout_ms=limit)
            return all((self._client.position(place, timeout_ms=limit) or 0) >= end for place, end in ends.items())
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        with suppress(Exception):
            self._client.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))

    def _unavailable(self, error: kafka_errors.KafkaError) -> BrokerUnavailable:
        return BrokerUnavailable(f"{self._location} does not answer ({error_text(error)}).")


class _Assignments(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes which partitions come. Called on the client's I/O thread, so it does no more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: set[TopicPartition] = set()
        self.assigned_once = False

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        with self._lock:
            self._new -= {TopicPartition(place.topic, place.partition) for place in revoked}

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        with self._lock:
            self._new |= {TopicPartition(place.topic, place.partition) for place in assigned}
            self.assigned_once = True

    def take(self) -> set[TopicPartition]:
        with self._lock:
            new, self._new = self._new, set()
            return new
