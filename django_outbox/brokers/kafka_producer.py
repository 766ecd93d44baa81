"""Sending batches through kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import (
    MISSING_TOPIC,
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
)
from django_outbox.exceptions import BrokerUnavailable

TopicFaults = dict[str, kafka_errors.KafkaError]
"""Why topics cannot be written to, by topic; those in order are left out."""


class KafkaBrokerProducer(Producer):
    """Sends through a client that it replaces when one record has made it useless for all others.

    The client (version 3.0) ends for good at the first error that is not worth another try, and
    fails whatever it holds with that same error.
    """

    def __init__(
        self,
        connect: Callable[[], KafkaProducer],
        location: str,
        look_up: Callable[[Collection[str], float], TopicFaults],
    ) -> None:
        """
        Args:
            connect: makes a client that is connected.
            location: of the broker, for people.
            look_up: asks what is wrong with topics, within so many seconds.
        """
        self._connect = connect
        self._location = location
        self._look_up = look_up
        self._client = connect()
        self._usable = True
        self._spoiled = False
        self._last_error: BaseException = kafka_errors.KafkaTimeoutError()
        self._known_topics: set[str] = set()

    @property
    def usable(self) -> bool:
        return self._usable and not self._spoiled

    def send(self, records: Sequence[Record], timeout: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout
        faults = self._faults({record.topic for record in records}, timeout)
        outcomes = [faults.get(record.topic) for record in records]
        undecided = outcomes.count(None)
        while undecided and self._usable:
            self._send_undecided(records, outcomes, deadline)
            left = outcomes.count(None)
            if not self._spoiled or left in (0, undecided):
                break
            undecided = left
            self._replace_client()
        return self._settle(outcomes, timeout)

    def close(self) -> None:
        self._usable = False
        self._end_client()

    def _end_client(self) -> None:
        """End the sender thread without sending what it still holds.

        The client's own ``close()`` would first send it, and leave the thread at work if that takes
        too long. Nothing that was answered is lost: all answers were awaited.
        """
        with suppress(Exception):
            self._client._unregister_cleanup()
            self._client._sender.force_close()
            self._client._sender.join(CLOSE_SECONDS)
        self._client._closed = True

    def _replace_client(self) -> None:
        self._end_client()
        try:
            self._client = self._connect()
        except BrokerUnavailable as error:
            self._usable = False
            self._last_error = error
        else:
            self._spoiled = False

    def _faults(self, topics: set[str], timeout: float) -> dict[str, Outcome]:
        """Which topics cannot be written to. Known ones are not asked about again."""
        unknown = topics - self._known_topics
        if not unknown:
            return {}
        faults = self._look_up(unknown, timeout)
        self._known_topics |= unknown - faults.keys()
        return {topic: _topic_outcome(error) for topic, error in faults.items()}

    def _send_undecided(self, records: Sequence[Record], outcomes: list[Outcome | None], deadline: float) -> None:
        futures = {}
        for index, record in enumerate(records):
            if outcomes[index] is None and self._usable:
                outcomes[index], futures[index] = self._start(record)
        for index, future in futures.items():
            if future is not None:
                outcomes[index] = self._finish(records[index].topic, future, deadline)

    def _start(self, record: Record) -> tuple[Outcome | None, Any]:
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
            outcome = self._judge(topic, error)
            if outcome is None or error.retriable:
                return outcome
            self._spoiled = True
            self._last_error = error
            return outcome if _failed_itself(future, error) else None
        return Acknowledged(metadata.partition, metadata.offset if metadata.offset >= 0 else None)

    def _judge(self, topic: str, error: kafka_errors.KafkaError) -> Outcome | None:
        """Whose fault an error is; None means the broker's or this producer's."""
        if isinstance(error, REFUSED_FOR_GOOD):
            return Refused(error_text(error))
        if isinstance(error, TOPIC_AT_FAULT):
            self._known_topics.discard(topic)
            return _topic_outcome(error)
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
            raise BrokerUnavailable(f"{self._location} did not take a batch: {reason}.")
        return [outcome or TopicTrouble(reason) for outcome in outcomes]


def _topic_outcome(error: kafka_errors.KafkaError) -> Outcome:
    if isinstance(error, REFUSED_FOR_GOOD):
        return Refused(error_text(error))
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return TopicTrouble(MISSING_TOPIC)
    return TopicTrouble(error_text(error))


def _failed_itself(future: Any, error: kafka_errors.KafkaError) -> bool:
    """False if a record failed because another one did: then nothing is known of it.

    The others of a batch in which the broker found a record invalid get an error of no kind. What the
    client gave up when it ended got the offset -1, and what failed on its own got none.
    """
    if type(error) is kafka_errors.KafkaError:
        return False
    try:
        result = future._produce_future.value
    except AttributeError:
        return False
    return result is None or result[0] is None
