"""What a real broker lost is sent again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.brokers.base import Broker
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings as outbox_settings
from django_outbox.consumer.consumer import Consumer
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.relay.relay import Relay
from tests.support.brokers.records import delete_topic
from tests.support.outbox import statuses
from tests.support.processes import Command, wait_until
from tests.support.servers.base import Service

BACKENDS = {
    "kafka-python": "django_outbox.brokers.kafka.KafkaBroker",
    "confluent": "django_outbox.brokers.confluent.ConfluentBroker",
}


@pytest.fixture(params=list(BACKENDS))
def broker(request: pytest.FixtureRequest, kafka_outbox: dict[str, Any], settings: Any) -> Broker:
    options = {"session_timeout_ms": 3000, "heartbeat_interval_ms": 500}
    if request.param == "confluent":
        options = {name.replace("_", "."): value for name, value in options.items()}
    wanted = {**kafka_outbox["BROKER"], "BACKEND": BACKENDS[request.param], "CONSUMER_OPTIONS": options}
    settings.OUTBOX = {**kafka_outbox, "BROKER": wanted}
    return get_broker(outbox_settings.broker)


@pytest.fixture
def relay(broker: Broker, transactional_db: None) -> Iterator[Relay]:
    def create(topics: Any) -> None:
        broker.create_topics(topics, partitions=1, replication=1)

    relay = Relay(broker, using="default", create_topics=create)
    yield relay
    relay.close()


def test_what_was_in_a_topic_that_is_made_anew_is_sent_again_and_handled_once(
    broker: Broker, relay: Relay, send: Any, topic: str
) -> None:
    """As after a broker that lost its disk. The group had read some of it."""
    now = [0.0]
    handled: list[int] = []
    handlers = Registry()
    handlers.load = lambda: None  # type: ignore[method-assign]
    handlers.register("test.effect", lambda event: handled.append(event.payload))

    def consumer() -> Consumer:
        return Consumer(broker, using="default", handlers=handlers, clock=lambda: now[0])

    def handle_until(condition: Callable[[], bool], consumer: Consumer) -> None:
        def step() -> bool:
            relay.run_once()
            consumer.run_once(0.2)
            return condition()

        wait_until(step, 60)

    first = consumer()
    for n in range(3):
        send("test.effect", n, key="k")
    handle_until(lambda: len(handled) == 3, first)
    first.close()
    for n in range(3, 6):
        send("test.effect", n, key="k")
    assert relay.run_once().published == 3
    delete_topic(broker, topic)
    wait_until(lambda: broker.missing_topics([topic]) == {topic}, 30)
    relay.close()
    broker.create_topics([topic], partitions=1, replication=1)
    wait_until(lambda: not broker.missing_topics([topic]), 30)
    OutboxMessage.objects.filter(status="published").update(published_at=timezone.now() - timedelta(minutes=5))
    send("test.effect", 6, key="k")

    second = consumer()
    second.run_once(1.0)
    now[0] += 30

    def later() -> bool:
        now[0] += 1  # so that it looks again every now and then, and what waits is looked at
        OutboxMessage.objects.filter(status="pending").update(next_retry_at=timezone.now())
        return len(handled) == 7

    handle_until(later, second)
    second.close()
    assert handled == [0, 1, 2, 3, 4, 5, 6]
    assert statuses() == ["consumed"] * 7
    assert set(OutboxMessage.objects.values_list("retry_count", flat=True)) == {0}


@pytest.mark.brokers("tansu")  # which keeps everything in memory
@pytest.mark.databases("postgresql")  # a suspended consumer may hold the one write lock of SQLite
@pytest.mark.parametrize("client", list(BACKENDS))
def test_what_a_development_broker_held_is_sent_again_after_its_restart(
    client: str, own_broker: Service, manage: Callable[..., Command], send: Any, consumed: Any, topic: str
) -> None:
    """While relay and consumer run, and nothing more is published."""
    env = {"OUTBOX_BACKEND": BACKENDS[client], "KAFKA_URL": own_broker.start().url}
    manage("outbox_relay", "--create-topics", "--partitions", 2, env=env)
    consumer = manage("outbox_consume", env=env)
    send("test.effect", "before")
    consumed(1)
    consumer.send_signal(signal.SIGSTOP)
    send("test.effect", "on its way")
    wait_until(lambda: statuses() == ["consumed", "published"])
    own_broker.stop()
    own_broker.start()
    OutboxMessage.objects.filter(status="published").update(published_at=timezone.now() - timedelta(minutes=5))
    consumer.send_signal(signal.SIGCONT)

    consumed(2, timeout=240)  # half a minute each for metadata and reconciler, and more where clients try again
