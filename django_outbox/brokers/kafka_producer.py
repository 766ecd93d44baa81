"""Sending batches through kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import Acknowledged, Failed, Outcome, Record, Refused, TopicTrouble
from django_outbox.brokers.batch import BatchProducer, TopicFaults
from django_outbox.brokers.calls import CLOSE_SECONDS, GRACE_SECONDS, SLICE_SECONDS, Patience
from django_outbox.brokers.kafka_client import CLIENT_AT_FAULT, PRODUCER_IS_BROKEN, error_text, topic_outcome
from django_outbox.exceptions import BrokerUnavailable


class KafkaBrokerProducer(BatchProducer):
    """Sends through a client that it replaces when one record has made it useless for all others.

    The client (version 3.0) ends for good at the first error that is not worth another try, and
    fails whatever it holds with that same error.
    """

    def __init__(
        self,
        connect: Callable[[], KafkaProducer],
        location: str,
        look_up: Callable[[Collection[str], float], TopicFaults],
        interrupted: Callable[[], bool],
    ) -> None:
        """
        Args:
            connect: makes a client that is connected.
            location: of the broker, for people.
            look_up: asks what is wrong with topics, within so many seconds.
            interrupted: whether the process is to end.
        """
        super().__init__(location, look_up, interrupted)
        self._connect = connect
        self._client = connect()
        self._spoiled = False
        self._last_error: BaseException = kafka_errors.KafkaTimeoutError()

    @property
    def usable(self) -> bool:
        return self._usable and not self._spoiled

    def _send_undecided(self, records: Sequence[Record], outcomes: list[Outcome | None], patience: Patience) -> None:
        left = outcomes.count(None)
        while left and self._usable:
            self._send_once(records, outcomes, patience)
            before, left = left, outcomes.count(None)
            if not self._spoiled or left in (0, before):
                return
            self._replace_client()

    def close(self) -> None:
        self._usable = False
        end_client(self._client, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _replace_client(self) -> None:
        end_client(self._client)
        try:
            self._client = self._connect()
        except BrokerUnavailable as error:
            self._usable = False
            self._refused = True
            self._last_error = error
        else:
            self._spoiled = False

    def _send_once(self, records: Sequence[Record], outcomes: list[Outcome | None], patience: Patience) -> None:
        futures = {}
        for index, record in enumerate(records):
            if outcomes[index] is None and self._usable:
                outcomes[index], futures[index] = self._start(record, patience)
        started = [future for future in futures.values() if future is not None]
        for index, future in futures.items():
            if future is not None:
                _await(future, started, patience)
                outcomes[index] = self._finish(records[index].topic, future)

    def _start(self, record: Record, patience: Patience) -> tuple[Outcome | None, Any]:
        while True:
            try:
                return None, self._client.send(
                    record.topic, value=record.value, key=record.key, headers=list(record.headers)
                )
            except kafka_errors.KafkaTimeoutError as error:  # no room, or the client knows nothing of the topic
                if patience.is_over():
                    return self._judge(record.topic, error), None
            except kafka_errors.KafkaError as error:
                return self._judge(record.topic, error), None
            except (TypeError, ValueError) as error:
                return Refused(f"It cannot be encoded: {error}"), None

    def _finish(self, topic: str, future: Any) -> Outcome | None:
        try:
            metadata = future.get(timeout=0)
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
        outcome = topic_outcome(error)
        if isinstance(outcome, TopicTrouble):
            self._known_topics.discard(topic)
        if outcome is not None:
            return outcome
        if isinstance(error, PRODUCER_IS_BROKEN + CLIENT_AT_FAULT):
            self._refused = True
        elif not error.retriable:
            return Failed(error_text(error))
        self._usable = False
        self._last_error = error
        return None

    def _reason(self, timeout: float) -> str:
        if isinstance(self._last_error, kafka_errors.KafkaTimeoutError):
            return f"no acknowledgement within {timeout:g} s"
        return error_text(self._last_error)


def end_client(client: KafkaProducer, seconds: float = CLOSE_SECONDS) -> None:
    """End the sender thread without sending what it still holds.

    The client's own ``close()`` would first send it, and leave the thread at work if that takes
    too long. Nothing that was answered is lost: all answers were awaited.
    """
    with suppress(Exception):
        client._unregister_cleanup()
        client._sender.force_close()
        client._sender.join(seconds)
    client._closed = True


def _await(future: Any, others: Sequence[Any], patience: Patience) -> None:
    """Wait for an answer, and no longer than answers to the others come."""
    while not future.is_done and not patience.is_over(sum(not other.is_done for other in others)):
        with suppress(kafka_errors.KafkaError):
            future.get(timeout=SLICE_SECONDS)


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
