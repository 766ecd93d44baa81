"""Sending batches through kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import (
    Acknowledged,
    Failed,
    Outcome,
    Producer,
    Record,
    Refused,
    TopicTrouble,
)
from django_outbox.brokers.kafka_client import (
    CLIENT_AT_FAULT,
    CLOSE_SECONDS,
    PRODUCER_AT_FAULT,
    REFUSED_FOR_GOOD,
    TOPIC_AT_FAULT,
    error_text,
    topic_faults,
)
from django_outbox.exceptions import BrokerUnavailable


class KafkaBrokerProducer(Producer):
    def __init__(self, client: KafkaProducer, admin: Callable[[], Any]) -> None:
        self._client = client
        self._admin = admin
        self._usable = True
        self._last_error: BaseException = kafka_errors.KafkaTimeoutError()
        self._known_topics: set[str] = set()

    @property
    def usable(self) -> bool:
        return self._usable

    def send(self, records: Sequence[Record], timeout: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout
        outcomes: list[Outcome | None] = []
        futures: list[Any] = []
        faults = self._look_up({record.topic for record in records})
        for record in records:
            outcome, future = self._start(record, faults)
            outcomes.append(outcome)
            futures.append(future)
        for index, future in enumerate(futures):
            if future is not None:
                outcomes[index] = self._finish(records[index].topic, future, deadline)
        return self._settle(outcomes, timeout)

    def close(self) -> None:
        if self._usable:
            with suppress(Exception):
                self._client.close(timeout=CLOSE_SECONDS)
                return
        self._abandon()

    def _abandon(self) -> None:
        """End the sender thread without sending what it still holds.

        ``close(timeout=0)`` raises before it comes to this, so the parts are called here. Batches
        that are left fail at once, and closing the sockets stops what is in flight.
        """
        self._usable = False
        with suppress(Exception):
            self._client._unregister_cleanup()
            self._client._sender.initiate_close()
            self._client._sender.force_close()
            self._client._sender.join(CLOSE_SECONDS)
        self._client._closed = True

    def _look_up(self, topics: set[str]) -> dict[str, str]:
        """Why topics cannot be written to. Known ones are not asked for again."""
        unknown = topics - self._known_topics
        if not unknown:
            return {}
        try:
            with self._admin() as admin:
                faults = topic_faults(admin, unknown)
        except (kafka_errors.KafkaError, OSError) as error:
            raise BrokerUnavailable(error_text(error)) from error
        self._known_topics |= unknown - faults.keys()
        return faults

    def _start(self, record: Record, faults: Mapping[str, str]) -> tuple[Outcome | None, Any]:
        if record.topic in faults:
            return TopicTrouble(faults[record.topic]), None
        if not self._usable:
            return None, None
        try:
            return None, self._client.send(
                record.topic, value=record.value, key=record.key, headers=list(record.headers)
            )
        except kafka_errors.KafkaError as error:
            return self._judge(record.topic, error), None
        except (TypeError, ValueError) as error:
            return Refused(f"It cannot be encoded: {error}"), None

    def _finish(self, topic: str, future: Any, deadline: float) -> Outcome | None:
        try:
            metadata = future.get(timeout=max(0.0, deadline - time.monotonic()))
        except kafka_errors.KafkaError as error:
            return self._judge(topic, error)
        return Acknowledged(metadata.partition, metadata.offset if metadata.offset >= 0 else None)

    def _judge(self, topic: str, error: kafka_errors.KafkaError) -> Outcome | None:
        """Whose fault an error is; None means the broker's or this producer's."""
        if isinstance(error, REFUSED_FOR_GOOD):
            return Refused(error_text(error))
        if isinstance(error, TOPIC_AT_FAULT):
            self._known_topics.discard(topic)
            return TopicTrouble(error_text(error))
        if isinstance(error, PRODUCER_AT_FAULT + CLIENT_AT_FAULT) or error.retriable:
            self._usable = False
            self._last_error = error
            return None
        return Failed(error_text(error))

    def _settle(self, outcomes: list[Outcome | None], timeout: float) -> list[Outcome]:
        """Say what became of records without an answer, now that the others are known."""
        if None not in outcomes:
            return [outcome for outcome in outcomes if outcome is not None]
        reason = error_text(self._last_error)
        if isinstance(self._last_error, kafka_errors.KafkaTimeoutError):
            reason = f"no acknowledgement within {timeout:g} s"
        if not any(isinstance(outcome, Acknowledged) for outcome in outcomes):
            raise BrokerUnavailable(f"The broker did not take a batch: {reason}.")
        return [outcome or TopicTrouble(reason) for outcome in outcomes]
