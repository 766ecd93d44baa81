"""Questions to the cluster through confluent-kafka.

``DescribeCluster`` is not asked: to a broker that is about to stop and knows of no broker, the library (2.16) ends the
process with a failed assertion.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.brokers.calls import CONNECT_SECONDS, SLICE_SECONDS
from django_outbox.brokers.cluster import Admin, TopicDescription
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.errors import client_error, is_answer, told_by
from django_outbox.brokers.errors import ClientError
from django_outbox.brokers.silence import Replicas, address_of
from django_outbox.exceptions import BrokerUnavailable

_FIRST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LAST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class ConfluentAdmin(Admin):
    def __init__(
        self, client: AdminClient, faults: Faults, seconds: float, tries: int, *, asks_any: bool = False
    ) -> None:
        """``asks_any``: ask any broker about topics, as some are silent."""
        self._asks_any = asks_any
        self._client = client  # whose error_cb is faults
        self._faults = faults
        self._seconds = seconds  # for one question
        self._tries = tries  # of the first question, in this time: the library may wait for the one broker that is away
        self._interrupted = faults.access.interrupted

    def describe_topics(self, topics: Collection[str], *, with_rights: bool = False) -> dict[str, TopicDescription]:
        if self._asks_any and not with_rights:
            deadline = time.monotonic() + self._seconds
            return {topic: self._described_by_any(topic, deadline) for topic in topics}
        asked = TopicCollection(list(topics))
        seconds = self._seconds / self._tries
        answers: Mapping[str, Future[Any]] = {}
        for _ in range(self._tries):
            answers = self._client.describe_topics(
                asked, request_timeout=seconds, include_authorized_operations=with_rights
            )
            if self._has_answer(answers.values(), seconds):
                self._faults.heard()
                return {topic: _description(answer) for topic, answer in answers.items()}
        raise self._no_answer(answers.values())

    def _described_by_any(self, topic: str, deadline: float) -> TopicDescription:
        """What any broker says. ``DescribeTopics`` would go to the controller as the brokers name it, which may be away."""
        while True:
            try:
                told = self._client.list_topics(topic, timeout=min(0.5, max(deadline - time.monotonic(), 0.0)))
                break
            except KafkaException as error:
                if self._faults.refusal or self._interrupted() or time.monotonic() >= deadline:
                    raise self._faults.unavailable(told_by(error), seconds=self._seconds) from error
        self._faults.heard()
        addresses = {node.id: _address(node) for node in told.brokers.values()}
        described = told.topics[topic]
        if described.error is not None:
            return TopicDescription(error=client_error(described.error))
        return TopicDescription(
            partitions={
                each.id: Replicas(
                    addresses.get(each.leader, "") if each.leader >= 0 else None,
                    frozenset(addresses.get(number, "") for number in each.isrs),
                )
                for each in described.partitions.values()
            }
        )

    def progress(self, group: str, places: Collection[TopicPartition]) -> dict[TopicPartition, Progress]:
        theirs = [KafkaTopicPartition(place.topic, place.partition) for place in places]
        first, last = (
            self._client.list_offsets(dict.fromkeys(theirs, which), request_timeout=self._seconds)
            for which in (_FIRST, _LAST)
        )
        asked = self._client.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, theirs)], request_timeout=self._seconds
        )
        self._await([*first.values(), *last.values(), *asked.values()])
        try:
            low, high = (
                {_ours(place): answer.result().offset for place, answer in found.items()} for found in (first, last)
            )
            committed = {_ours(place): place.offset for place in asked[group].result().topic_partitions}
        except KafkaException as error:
            raise self._faults.unavailable(told_by(error)) from error
        return {
            place: Progress(low[place], high[place], committed[place] if committed.get(place, -1) >= 0 else None)
            for place in places
        }

    def topic_configs(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str | None]]:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        asked = self._client.describe_configs(resources, request_timeout=self._seconds)
        answers = {resource.name: answer for resource, answer in asked.items()}
        errors = self._errors(answers)
        return {
            topic: {name: each.value for name, each in answer.result().items()}
            for topic, answer in answers.items()
            if topic not in errors
        }

    def create_topics(self, topics: Collection[str], partitions: int, replication: int) -> dict[str, ClientError]:
        wanted = [NewTopic(topic, num_partitions=partitions, replication_factor=replication) for topic in topics]
        return self._errors(
            self._client.create_topics(wanted, request_timeout=self._seconds, operation_timeout=self._seconds)
        )

    def is_stable(self, group: str) -> bool:
        """False while Tansu rebalances a group; True if the broker does not say. Also asked while the process ends."""
        try:
            answer = self._client.describe_consumer_groups([group], request_timeout=CONNECT_SECONDS)[group]
            # Kafka has a name for each state. Tansu has none for a group with a leader during a rebalance.
            return bool(answer.result(2 * CONNECT_SECONDS).state != ConsumerGroupState.UNKNOWN)
        except (KafkaException, TimeoutError):
            return True

    def _has_answer(self, answers: Collection[Future[Any]], seconds: float) -> bool:
        """Whether a broker answers within ``seconds``, even with errors of single topics."""
        deadline = time.monotonic() + seconds
        while wait(answers, min(SLICE_SECONDS, seconds)).not_done:
            self._client.poll(0)  # lets the client report its errors
            if self._faults.refusal or self._faults.is_down or self._interrupted() or time.monotonic() >= deadline:
                return False
        return all(is_answer(answer.exception()) for answer in answers)

    def _no_answer(self, answers: Collection[Future[Any]]) -> BrokerUnavailable:
        """The error to raise when ``_has_answer`` is false."""
        errors = [answer.exception() for answer in answers if answer.done()]
        told = next((told_by(error) for error in errors if not is_answer(error)), None)
        only_late = told is None or told.code() == KafkaError._TIMED_OUT
        return self._faults.unavailable(None if only_late else told, seconds=self._seconds)

    def _await(self, answers: Collection[Future[Any]]) -> None:
        """Wait for answers, which all come in time, even if they are errors."""
        while wait(answers, SLICE_SECONDS).not_done:
            if self._interrupted():
                raise self._faults.unavailable()

    def _errors(self, answers: Mapping[str, Future[Any]]) -> dict[str, ClientError]:
        """The errors by topic; raises ``BrokerUnavailable`` without an answer, or for one that concerns the client."""
        self._await(answers.values())
        errors: dict[str, ClientError] = {}
        for topic, answer in answers.items():
            exception = answer.exception()
            if not is_answer(exception):
                raise self._faults.unavailable(told_by(exception)) from exception
            if exception is not None:
                errors[topic] = client_error(exception)
        return errors


def _description(answer: Future[Any]) -> TopicDescription:
    error = answer.exception()
    if error is not None:
        return TopicDescription(error=client_error(error))
    described = answer.result()
    return TopicDescription(
        partitions={each.id: _replicas(each) for each in described.partitions},
        operations=[operation.name for operation in described.authorized_operations or ()],
    )


def _replicas(partition: Any) -> Replicas:
    led = partition.leader is not None and partition.leader.id >= 0
    in_sync = frozenset(_address(node) for node in partition.isr or ())
    return Replicas(_address(partition.leader) if led else None, in_sync)


def _address(node: Any) -> str:
    return address_of(node.host, node.port) if node.host else ""


def _ours(place: KafkaTopicPartition) -> TopicPartition:
    return TopicPartition(place.topic, place.partition)
