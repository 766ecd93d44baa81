"""Answers to commits that confluent-kafka makes while its consumer reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.commits import Offsets

AsException = Callable[[KafkaError, Collection[str]], Exception]
"""Makes an exception of an error that concerns these topics."""


class CommitReports:
    """Takes what a client reports to its ``on_commit``, which this is. One commit at a time is waited for."""

    def __init__(self) -> None:
        self._asked: Offsets = {}
        self._answer: Future[None] = Future()
        self._as_exception: AsException = lambda error, topics: KafkaException(error)

    def expect(self, offsets: Offsets, as_exception: AsException) -> Future[None]:
        """Return a future that ends with the report on the commit of these offsets."""
        self._asked, self._answer, self._as_exception = offsets, Future(), as_exception
        return self._answer

    @property
    def are_due(self) -> bool:
        """True if a commit has not been reported on yet."""
        return bool(self._asked) and not self._answer.done()

    def __call__(self, error: KafkaError | None, places: Sequence[KafkaTopicPartition]) -> None:
        if (
            self._answer.done()
            or {TopicPartition(place.topic, place.partition): place.offset for place in places} != self._asked
        ):
            return  # a commit of partitions that were given back
        failed = [(place.error, {place.topic}) for place in places if place.error is not None]
        if error is not None:  # the same for all partitions
            failed = [(error, {place.topic for place in places})]
        if failed:
            self._answer.set_exception(self._as_exception(*failed[0]))
        else:
            self._answer.set_result(None)
