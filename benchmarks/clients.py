"""Kafka's two client libraries with the few calls that raw loops and checks need, and no more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import kafka
from kafka.structs import OffsetAndMetadata

from benchmarks.backends import CONFLUENT, CONSUMER_OPTIONS, FETCH_WAIT_MS, KAFKA_PYTHON

confluent_kafka: Any
try:
    confluent_kafka = import_module("confluent_kafka")
except ImportError:
    confluent_kafka = None

SEND_SECONDS = 30.0


class Message(NamedTuple):
    """A record to send."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class Read(NamedTuple):
    """A record that was read."""

    partition: int
    offset: int
    headers: list[tuple[str, bytes]]


class Sender(Protocol):
    """Sends batches and says where each record went."""

    def send(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Send all, wait for all; returns partition and offset of each."""
        ...

    def send_all(self, messages: Iterable[Message]) -> None:
        """Send all, wait for all."""
        ...

    def close(self) -> None: ...


class GroupReader(Protocol):
    """Reads a topic as the only member of a group."""

    def poll(self, limit: int, timeout: float) -> list[Read]: ...

    def commit(self, offsets: dict[int, int]) -> None: ...

    def close(self) -> None: ...


def address(url: str) -> str:
    """The hosts of a broker's URL, as the clients take them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def fastest() -> str:
    """The faster client that is installed."""
    return KAFKA_PYTHON if confluent_kafka is None else CONFLUENT


def sender(client: str, url: str) -> Sender:
    return ConfluentSender(url) if client == CONFLUENT else KafkaPythonSender(url)


def group_reader(client: str, url: str, topic: str, group: str) -> GroupReader:
    kind = ConfluentGroupReader if client == CONFLUENT else KafkaPythonGroupReader
    return kind(url, topic, group)


class ConfluentSender:
    def __init__(self, url: str) -> None:
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": address(url), "acks": "all", "enable.idempotence": True, "linger.ms": 0}
        )

    def send(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        places: list[Any] = [None] * len(messages)

        def delivered(index: int) -> Any:
            def note(error: Any, message: Any) -> None:
                if error is not None:
                    raise RuntimeError(str(error))
                places[index] = (message.partition(), message.offset())

            return note

        for index, message in enumerate(messages):
            self._producer.produce(
                message.topic, message.value, message.key, headers=message.headers, on_delivery=delivered(index)
            )
        self._producer.flush(SEND_SECONDS)
        if None in places:
            raise RuntimeError("the broker did not accept a batch")
        return places

    def send_all(self, messages: Iterable[Message]) -> None:
        produce = self._producer.produce
        for message in messages:
            produce(message.topic, message.value, message.key, headers=message.headers, on_delivery=_require_sent)
        if self._producer.flush(SEND_SECONDS):
            raise RuntimeError("the broker did not accept a batch")

    def close(self) -> None:
        self._producer.flush(SEND_SECONDS)


def _require_sent(error: Any, message: Any) -> None:
    if error is not None:
        raise RuntimeError(str(error))


class KafkaPythonSender:
    def __init__(self, url: str) -> None:
        self._producer = kafka.KafkaProducer(bootstrap_servers=address(url).split(","), metrics_enabled=False)

    def send(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        futures = [
            self._producer.send(message.topic, message.value, message.key, headers=message.headers)
            for message in messages
        ]
        answers = [future.get(timeout=SEND_SECONDS) for future in futures]
        return [(answer.partition, answer.offset) for answer in answers]

    def send_all(self, messages: Iterable[Message]) -> None:
        send = self._producer.send
        futures = [send(message.topic, message.value, message.key, headers=message.headers) for message in messages]
        for future in futures:
            future.get(timeout=SEND_SECONDS)

    def close(self) -> None:
        self._producer.close(timeout=SEND_SECONDS)


class ConfluentGroupReader:
    def __init__(self, url: str, topic: str, group: str) -> None:
        self._topic = topic
        self._consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": address(url),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **CONSUMER_OPTIONS[CONFLUENT],
            }
        )
        self._consumer.subscribe([topic])

    def poll(self, limit: int, timeout: float) -> list[Read]:
        return [
            Read(message.partition(), message.offset(), message.headers() or [])
            for message in self._consumer.consume(limit, timeout)
            if message.error() is None
        ]

    def commit(self, offsets: dict[int, int]) -> None:
        places = [confluent_kafka.TopicPartition(self._topic, *place) for place in offsets.items()]
        self._consumer.commit(offsets=places, asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


class KafkaPythonGroupReader:
    def __init__(self, url: str, topic: str, group: str) -> None:
        self._topic = topic
        self._consumer = kafka.KafkaConsumer(
            topic,
            bootstrap_servers=address(url).split(","),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metrics_enabled=False,
            **CONSUMER_OPTIONS[KAFKA_PYTHON],
        )

    def poll(self, limit: int, timeout: float) -> list[Read]:
        batches = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=limit)
        return [
            Read(record.partition, record.offset, record.headers) for records in batches.values() for record in records
        ]

    def commit(self, offsets: dict[int, int]) -> None:
        self._consumer.commit(
            {
                kafka.TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
                for partition, offset in offsets.items()
            }
        )

    def close(self) -> None:
        self._consumer.close(autocommit=False)


class TopicReader:
    """Reads all partitions of a topic without a group, with the faster client that is there.

    It begins at offset 0, not at what the broker tells as a partition's first offset: where several producers make
    a topic's first batches at once, Tansu 0.6 at times tells the second batch's (1 of 942 topics, no relay involved).
    """

    def __init__(self, url: str, topic: str, *, from_end: bool = False) -> None:
        self._confluent: Any = None
        self._kafka: Any = None
        if confluent_kafka is not None:
            self._confluent = confluent_kafka.Consumer(
                {
                    "bootstrap.servers": address(url),
                    "group.id": f"{topic}-reader",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "latest" if from_end else "earliest",
                    "fetch.wait.max.ms": FETCH_WAIT_MS,
                }
            )
            partitions = self._confluent.list_topics(topic, timeout=10).topics[topic].partitions
            start = confluent_kafka.OFFSET_END if from_end else 0
            self._confluent.assign([confluent_kafka.TopicPartition(topic, number, start) for number in partitions])
        else:
            self._kafka = kafka.KafkaConsumer(
                bootstrap_servers=address(url).split(","),
                auto_offset_reset="latest" if from_end else "earliest",
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
            places = [kafka.TopicPartition(topic, number) for number in self._kafka.partitions_for_topic(topic)]
            self._kafka.assign(places)
            for place in () if from_end else places:
                self._kafka.seek(place, 0)

    def poll(self, timeout: float, limit: int = 1000) -> list[list[tuple[str, bytes]]]:
        """The headers of the records that come within ``timeout``."""
        if self._confluent is not None:
            found = self._confluent.consume(limit, timeout) if limit > 1 else [self._confluent.poll(timeout)]
            return [message.headers() or [] for message in found if message is not None and message.error() is None]
        batches = self._kafka.poll(timeout_ms=int(timeout * 1000), max_records=limit)
        return [record.headers for records in batches.values() for record in records]

    def close(self) -> None:
        (self._confluent or self._kafka).close()


def distinct_messages(
    url: str, topic: str, expected: int, patience: float = 15.0, *, header: str = "ce_outboxid"
) -> int:
    """How many different messages, told by a header, can be read from a topic; stops at ``expected``."""
    reader = TopicReader(url, topic)
    seen: set[bytes] = set()
    deadline = time.monotonic() + patience
    try:
        while len(seen) < expected and time.monotonic() < deadline:
            found = reader.poll(0.5)
            seen.update(dict(headers)[header] for headers in found)
            if found:
                deadline = time.monotonic() + patience
    finally:
        reader.close()
    return len(seen)
