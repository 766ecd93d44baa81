"""Debezium writes the records that the relay would write: key, value, headers and partition."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db import transaction

from django_outbox import publish, publish_many
from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.relay.relay import Relay
from tests.support.brokers.backends import BACKENDS, Backend
from tests.support.debezium import Log, with_connect
from tests.support.processes import wait_until
from tests.support.servers.kafka_connect import KafkaConnect

pytestmark = with_connect

PAYLOADS = [
    {"order_id": 7, "nested": {"list": [1, 2.5, None, True, 'ü\u2028\n"\\']}},
    {},
    [],
    None,
    "",
    "text",
    " ",
    0,
    12345678901234567890123,
    1e300,
    1.10,
    False,
    "x" * 100_000,
    {"${env:OUTBOX_DEBEZIUM_PASSWORD}": "${routedByValue}"},
]


def as_sent(record: Any) -> tuple[Any, ...]:
    """A record without the order of its headers, which has no meaning."""
    return record.partition, record.key, record.value, sorted(record.headers)


def send_again(backend: Backend, url: str) -> None:
    """Have the relay send all messages as it would have done in the first place."""
    OutboxMessage.objects.update(status="pending", publish_count=0, published_at=None, next_retry_at=DatabaseNow())
    relay = Relay(backend.make(url), using="default")
    try:
        wait_until(lambda: relay.run_once() and not OutboxMessage.objects.pending().exists())
    finally:
        relay.close()


def test_records_equal_those_of_the_relay(debezium: KafkaConnect, log: Log, kafka_url: str) -> None:
    with transaction.atomic():
        for number, payload in enumerate(PAYLOADS):
            publish("test.unhandled", payload, key=f"käufer-{number}", version="v7", max_retry=1)
        publish("typ.ä/☃", {}, key=" ")
        publish("test.unhandled", {}, key="${env:OUTBOX_DEBEZIUM_PASSWORD}")
        publish_many([Event(type="test.unhandled", payload=number, key=str(number)) for number in range(20)])
    number = OutboxMessage.objects.filter(status="published", offset=None).count()
    assert number == len(PAYLOADS) + 22
    log.read(number)

    for backend in BACKENDS:
        send_again(backend, kafka_url)
    records = log.read(3 * number)

    sent = defaultdict(list)
    for record in records:
        sent[dict(record.headers)["ce_outboxid"]].append(as_sent(record))
    assert [len(each) for each in sent.values()] == [3] * number
    for by_debezium, *by_relays in sent.values():
        assert by_relays == [by_debezium] * len(BACKENDS)
