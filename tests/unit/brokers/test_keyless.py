"""Records without a key while partitions wait: they go to the others, through both client libraries."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from django_outbox.brokers.base import Acknowledged, Record
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.producer import ConfluentBrokerProducer
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.kafka.producer import KafkaBrokerProducer
from django_outbox.brokers.producer import BatchProducer
from django_outbox.brokers.silence import Replicas, SilentBrokers
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from tests.support.brokers.records import SECONDS

TOPIC = "topic"
ACCESS = Access(parse_url("kafka://broker:9092"), "PLAINTEXT", TLS(), lambda: False)
CHOSEN_BY_CLIENT = 0
PARTITIONS = {0: Replicas(None), 1: Replicas("a:9092"), 2: Replicas("b:9092")}  # the first one waits


class Client:
    """Both kinds of client; acknowledges each record at once, and chooses the partition that waits if it may choose."""

    def __init__(self, known: int) -> None:
        """``known`` is the number of partitions that it knows of."""
        self._known = known
        self.config = {"partitioner": None}

    def list_topics(self, topic: str, timeout: float) -> None:
        """Connects."""

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int = -1,
        *,
        on_delivery: Callable[[KafkaError | None, Any], None],
        headers: object,
    ) -> None:
        if partition >= self._known:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        place = CHOSEN_BY_CLIENT if partition < 0 else partition
        on_delivery(None, Message(topic=topic, partition=place, offset=1))

    def flush(self, timeout: float) -> int:
        return 0

    def send(self, topic: str, *, partition: int | None, **record: object) -> Any:
        if partition is not None and partition >= self._known:
            raise ValueError(f"Unrecognized partition {partition} for topic {topic}")
        place = CHOSEN_BY_CLIENT if partition is None else partition
        return SimpleNamespace(is_done=True, succeeded=lambda: True, value=SimpleNamespace(partition=place, offset=1))


def confluent(client: Any, silence: SilentBrokers) -> BatchProducer:
    return ConfluentBrokerProducer(client, Faults(ACCESS), lambda topics, seconds: {}, silence)


def kafka(client: Any, silence: SilentBrokers) -> BatchProducer:
    return KafkaBrokerProducer(lambda: client, ACCESS, lambda topics, seconds: {}, silence)


Make = Callable[[Any, SilentBrokers], BatchProducer]
both = pytest.mark.parametrize("make", [confluent, kafka])


def partitions_of(make: Make, known: int = len(PARTITIONS)) -> list[int]:
    """Where the records of a producer's first batch go."""
    silence = SilentBrokers(lambda topics, seconds: None, lambda address: True)
    silence.record({TOPIC: PARTITIONS})
    results = make(Client(known), silence).send([Record(TOPIC, None, b"")] * 6, SECONDS)
    places = [result.partition for result in results if isinstance(result, Acknowledged)]
    assert len(places) == len(results), results
    return places


@both
def test_the_first_batch_of_a_producer_goes_to_partitions_that_do_not_wait(make: Make) -> None:
    assert sorted(partitions_of(make)) == [1] * 3 + [2] * 3


@both
def test_the_client_chooses_where_it_does_not_know_a_new_partition_yet(make: Make) -> None:
    assert sorted(partitions_of(make, known=2)) == [CHOSEN_BY_CLIENT] * 3 + [1] * 3
