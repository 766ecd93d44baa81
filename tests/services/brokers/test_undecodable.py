"""Records that a client library cannot take apart: they stop neither their neighbours nor other topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import confluent_kafka
import pytest
from kafka import KafkaProducer
from kafka.record.default_records import DefaultRecordBatch

from django_outbox.brokers.base import Record, Subscription, TopicPartition
from django_outbox.brokers.errors import HEADERS_ARE_NO_TEXT
from django_outbox.consumer.consumer import Consumer
from django_outbox.exceptions import MessagesLeft, RecordsUndecodable
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage
from django_outbox.worker.stop import Stop
from tests.support.app.models import Effect
from tests.support.brokers.backends import Backend, kafka_broker
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.records import SECONDS, is_caught_up, make_topic, numbered, read, send
from tests.support.processes import wait_until

CLOUDEVENT = {"ce_specversion": "1.0", "ce_source": "warehouse", "ce_type": "order.created"}


class Latin1(str):
    """The name of a header as some other service encodes it."""

    __slots__ = ()

    def encode(self, *arguments: Any) -> bytes:
        return super().encode("latin-1")


def send_foreign(url: str, topic: str, names: Sequence[str], compression: str | None = None) -> None:
    """Send a batch of CloudEvents of another service, each with a header of one of these names."""
    address = url.removeprefix("kafka://")
    with KafkaProducer(bootstrap_servers=address, compression_type=compression, linger_ms=500) as producer:
        for number, name in enumerate(names):
            headers = [(known, text.encode()) for known, text in {**CLOUDEVENT, "ce_id": f"e{number}"}.items()]
            producer.send(topic, key=b"k", value=b"%d" % number, headers=[*headers, (name, b"v")])


def send_compressed(url: str, topic: str, codec: str) -> None:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": url.removeprefix("kafka://"), "compression.type": codec, "acks": "all"}
    )
    headers = [(name, text.encode()) for name, text in {**CLOUDEVENT, "ce_id": codec}.items()]
    producer.produce(topic, b'"%s"' % (b"x" * 1000), headers=headers)
    assert producer.flush(SECONDS) == 0


def consumer_of(broker: Any, *topics: str, group: str) -> Consumer:
    """A consumer that notes what its handler gets."""
    registry = Registry()
    registry.register("order.created", lambda event: Effect.objects.create(name=event.id, event_id=event.id))
    return Consumer(broker, using="default", topics=topics, group=group, handlers=registry)


def handled() -> list[str]:
    return list(Effect.objects.order_by("id").values_list("name", flat=True))


# One record


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_record_with_a_header_whose_name_is_no_text_is_marked_and_its_neighbours_are_as_they_were_sent(
    backend: Backend, kafka_url: str, topic: str, compression: str | None
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=1)
    bad = [Latin1("straße")] * 50  # so many that Python has made its calls faster before the end
    send_foreign(kafka_url, topic, ["a", *bad, "ä"], compression)
    member = broker.subscribe([topic], topic)
    records = read(member, 52)
    assert [(record.offset, record.key, record.value) for record in records] == [
        (number, b"k", b"%d" % number) for number in range(52)
    ]
    assert [record.fault for record in records] == ["", *[HEADERS_ARE_NO_TEXT] * 50, ""]
    assert [records[number].headers[-1] for number in (0, 51)] == [("a", b"v"), ("ä", b"v")]
    member.commit({TopicPartition(topic, 0): 52})
    assert is_caught_up(member)
    member.close()


@pytest.mark.django_db(transaction=True)
def test_a_record_with_a_header_whose_name_is_no_text_is_dead_and_its_neighbours_are_handled(
    backend: Backend, kafka_url: str, topic: str, stop: Stop
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=1)
    send_foreign(kafka_url, topic, ["a", Latin1("straße"), "b"])
    consumer_of(broker, topic, group=topic).run(stop, drain=True)
    assert handled() == ["e0", "e2"]
    dead = InboxMessage.objects.get(status="dead")
    assert (bytes(dead.raw_key), bytes(dead.raw_value), dead.offset) == (b"k", b"1", 1)
    assert dead.last_error == f"It cannot be read: {HEADERS_ARE_NO_TEXT}."
    assert broker.progress([topic], topic)[TopicPartition(topic, 0)].committed == 3


# A topic


def all_of(member: Subscription) -> list[bytes | None]:
    """What can be read before the rest cannot be taken apart."""
    values: list[bytes | None] = []
    with pytest.raises(RecordsUndecodable) as raised:
        wait_until(lambda: values.extend(record.value for record in member.poll(0.3, 500)))
    values.append(str(raised.value).encode())
    return values


@pytest.mark.parametrize(("codec", "package"), [("snappy", "python-snappy"), ("lz4", "lz4"), ("zstd", "zstandard")])
def test_kafka_python_names_the_package_that_a_topics_compression_needs(
    kafka_url: str, topic: str, codec: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"kafka.codec.has_{codec}", lambda: False)
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 2))
    producer.close()
    send_compressed(kafka_url, topic, codec)
    member = broker.subscribe([topic], topic)
    *values, reason = all_of(member)
    assert values == [b"0", b"1"]
    assert (
        reason
        == (
            f"its partition 0 has records that are compressed with {codec}, which cannot be read here. "
            f"Install the package {package} and restart the consumer."
        ).encode()
    )
    member.close()


def test_kafka_python_says_where_a_log_is_broken(kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = DefaultRecordBatch.validate_crc
    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", lambda batch: batch.base_offset != 1 and sound(batch))
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    for record in numbered(topic, 3):
        send(producer, record)
    producer.close()
    member = broker.subscribe([topic], topic)
    first, reason = all_of(member)
    assert first == b"0"
    assert reason is not None
    assert b"its partition 0 cannot be read on from offset 1 (" in reason
    assert b"failed crc check" in reason
    member.close()


def test_what_disk_or_network_have_changed_is_never_given_out(
    backend: Backend, proxy: Proxy, proxied_url: str, topic: str
) -> None:
    broker = backend.make(proxied_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, Record(topic, b"k", b"100 euros"))
    producer.close()
    proxy.alter = lambda data: data.replace(b"100 euros", b"900 euros")
    member = broker.subscribe([topic], topic)
    (reason,) = all_of(member)
    assert reason is not None
    assert b"its partition 0 cannot be read on from offset 0 (" in reason
    member.close()

    proxy.heal()
    member = broker.subscribe([topic], topic)
    assert [record.value for record in read(member, 1)] == [b"100 euros"]
    member.close()


@pytest.mark.django_db(transaction=True)
def test_a_topic_that_cannot_be_taken_apart_stops_no_other_and_loses_nothing(
    kafka_url: str, topic: str, stop: Stop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = kafka_broker(kafka_url)
    other = f"{topic}-other"
    for name in (topic, other):
        make_topic(broker, name, partitions=1)
    send_foreign(kafka_url, topic, ["a"])
    send_compressed(kafka_url, topic, "gzip")
    producer = broker.producer(SECONDS)
    headers = tuple((name, text.encode()) for name, text in {**CLOUDEVENT, "ce_id": "other"}.items())
    send(producer, Record(other, b"k", b"1", headers))
    producer.close()
    with monkeypatch.context() as missing:
        missing.setattr("kafka.codec.has_gzip", lambda: False)
        with pytest.raises(MessagesLeft, match=f"{topic}: its partition 0 cannot be read on from offset 1 .*gzip"):
            consumer_of(broker, topic, other, group=topic).run(stop, drain=True)
        assert sorted(handled()) == ["e0", "other"]
        assert f"Topic {topic}: its partition 0 cannot be read on from offset 1" in caplog.text
        assert broker.progress([topic], topic)[TopicPartition(topic, 0)].committed == 1

    consumer_of(broker, topic, other, group=topic).run(stop, drain=True)
    assert sorted(handled()) == ["e0", "gzip", "other"]
