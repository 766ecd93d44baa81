"""Sending batches through kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from django_outbox.brokers.base import Acknowledged, Failed, Outcome, Record, Refused, TopicTrouble
from django_outbox.brokers.batch import BatchProducer, TopicFaults
from django_outbox.brokers.calls import CLOSE_SECONDS, GRACE_SECONDS, SLICE_SECONDS, Patience
from django_outbox.brokers.kafka.client import (
    CLIENT_AT_FAULT,
    OF_A_WHOLE_BATCH,
    PRODUCER_IS_BROKEN,
    error_text,
    is_the_brokers_own,
    topic_outcome,
)
from django_outbox.brokers.kafka.library import KafkaProducer, kafka_errors
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
        """Send in the order of the records, those one by one of which another one may have been at fault."""
        suspects: set[int] = set()
        while self._usable and (left := [index for index, outcome in enumerate(outcomes) if outcome is None]):
            if self._spoiled:
                self._replace_client(patience, len(left))
                continue
            chosen = _first_of(left, suspects)
            found = self._send_once(records, outcomes, chosen, patience)
            if not found and all(outcomes[index] is None for index in chosen):
                return
            suspects |= found

    def close(self) -> None:
        self._usable = False
        end_client(self._client, GRACE_SECONDS if self._interrupted() else CLOSE_SECONDS)

    def _replace_client(self, patience: Patience, left: int) -> None:
        end_client(self._client)
        if patience.is_over(left):
            self._usable = False
            self._last_error = kafka_errors.KafkaTimeoutError()
            return
        try:
            self._client = self._connect()
        except BrokerUnavailable as error:
            self._usable = False
            self._refused = True
            self._last_error = error
        else:
            self._spoiled = False

    def _send_once(
        self, records: Sequence[Record], outcomes: list[Outcome | None], chosen: Sequence[int], patience: Patience
    ) -> set[int]:
        """Send the chosen records and note their outcomes.

        Returns:
            Those that were refused together, by an error of which any of them may be the reason; they have no outcome.
        """
        futures = {}
        for index in chosen:
            if self._usable:
                outcomes[index], futures[index] = self._start(records[index], patience)
        started = [future for future in futures.values() if future is not None]
        judged: dict[int, list[int]] = {}  # by the error itself: others may be equal to it
        for index, future in futures.items():
            if future is not None:
                _await(future, started, patience)
                outcomes[index], error = self._finish(records[index].topic, future)
                if isinstance(error, OF_A_WHOLE_BATCH) and outcomes[index] is not None:
                    judged.setdefault(id(error), []).append(index)
        suspects = {index for together in judged.values() if len(together) > 1 for index in together}
        for index in suspects:
            outcomes[index] = None
        return suspects

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

    def _finish(self, topic: str, future: Any) -> tuple[Outcome | None, kafka_errors.KafkaError | None]:
        """A record's outcome, and the error that it comes from."""
        try:
            metadata = future.get(timeout=0)
        except kafka_errors.KafkaError as error:
            outcome = self._judge(topic, error)
            if outcome is None or error.retriable:
                return outcome, error
            self._spoiled = True
            self._last_error = error
            return outcome if _failed_itself(future, error) else None, error
        return Acknowledged(metadata.partition, metadata.offset if metadata.offset >= 0 else None), None

    def _judge(self, topic: str, error: kafka_errors.KafkaError) -> Outcome | None:
        """Whose fault an error is; None means the broker's or this producer's."""
        outcome = topic_outcome(error)
        if isinstance(outcome, TopicTrouble):
            self._known_topics.discard(topic)
        if outcome is not None:
            return outcome
        if isinstance(error, PRODUCER_IS_BROKEN + CLIENT_AT_FAULT):
            self._refused = True
        elif not error.retriable and not is_the_brokers_own(error):
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


def _first_of(left: Sequence[int], suspects: Collection[int]) -> Sequence[int]:
    """What to send next of what is left: a suspect alone, or all up to the next suspect."""
    if left[0] in suspects:
        return left[:1]
    return list(takewhile(lambda index: index not in suspects, left)) if suspects else left


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
