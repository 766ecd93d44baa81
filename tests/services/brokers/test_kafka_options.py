"""Options of kafka-python: which may be set, and that passwords among them are not shown."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import Broker
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import CONNECTING, IMPATIENT, connecting, kafka_broker
from tests.support.brokers.records import SECONDS, make_topic
from tests.support.brokers.servers import PASSWORD, USER


@pytest.mark.parametrize(
    ("key", "connect", "options"),
    [
        ("PRODUCER_OPTIONS", "producer", {"compression_type": "s3cret"}),
        ("PRODUCER_OPTIONS", "producer", {"retries": 0}),
        ("PRODUCER_OPTIONS", "producer", {"linger_ms": 10**9}),
        ("CONSUMER_OPTIONS", "subscribe", {"heartbeat_interval_ms": 9000, "session_timeout_ms": 3000}),
        ("CONSUMER_OPTIONS", "subscribe", {"isolation_level": "s3cret"}),
        ("OPTIONS", "missing_topics", {"client_dns_lookup": "s3cret"}),
    ],
)
def test_what_the_client_refuses_is_named_and_not_shown(
    kafka_url: str, key: str, connect: str, options: dict[str, object]
) -> None:
    broker = kafka_broker(kafka_url, **{key.lower(): options})
    threads = set(threading.enumerate())
    with pytest.raises(ImproperlyConfigured, match="kafka-python refuses its options") as raised:
        CONNECTING[connect](broker)
    for option in options:
        assert f'OUTBOX["BROKER"]["{key}"] ({option})' in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert set(threading.enumerate()) == threads


def test_a_certificate_that_is_not_there_is_a_wrong_option(kafka_url: str) -> None:
    url = f"{kafka_url.replace('kafka:', 'kafka+ssl:')}?ssl_cafile=/nowhere/ca.pem&bootstrap_timeout_ms=300"
    with pytest.raises(
        ImproperlyConfigured, match=r"ssl_cafile names cannot be read \(No such file .*'/nowhere/ca.pem'"
    ):
        kafka_broker(url).producer(SECONDS)


def test_options_reach_the_clients_that_know_them(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(
        f"{kafka_url}?linger_ms=3&metadata_max_age_ms=70000",
        options={"client_id": "shop", "metadata_max_age_ms": 80000, "fetch_min_bytes": 2, "ssl_password": None},
        producer_options={"linger_ms": 4, "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)]},
        consumer_options={**IMPATIENT, "metadata_max_age_ms": 90000},
    )
    make_topic(broker, topic, partitions=1)
    producer, subscription = broker.producer(SECONDS), broker.subscribe([topic], topic)
    made, read_with = producer._client.config, subscription._client.config  # type: ignore[attr-defined]
    assert (made["client_id"], made["linger_ms"], made["metadata_max_age_ms"]) == ("shop", 4, 80000)
    assert (made["acks"], made["enable_idempotence"]) == (-1, True)
    assert made["socket_options"][0] == (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    assert (read_with["client_id"], read_with["fetch_min_bytes"]) == ("shop", 2)
    assert read_with["metadata_max_age_ms"] == 90000
    assert read_with["session_timeout_ms"] == IMPATIENT["session_timeout_ms"]
    assert (read_with["enable_auto_commit"], read_with["auto_offset_reset"]) == (False, "earliest")
    producer.close()
    subscription.close()


# Passwords


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that the client and the outbox log, at the lowest level."""
    for name in ("kafka", "django_outbox"):
        caplog.set_level(1, name)
    return caplog


@connecting
def test_a_password_is_not_shown_when_a_server_asks_for_none(
    kafka_url: str, everything_logged: pytest.LogCaptureFixture, connect: Callable[[Broker], object]
) -> None:
    address = kafka_url.removeprefix("kafka://")
    url = f"kafka+sasl://{USER}:{PASSWORD}@{address}?bootstrap_timeout_ms=200"
    broker = kafka_broker(url, options={"ssl_password": PASSWORD})
    with pytest.raises(BrokerUnavailable) as raised:
        connect(broker)
    assert address in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value)) + repr(broker) + str(broker) + repr(vars(broker))
    assert PASSWORD not in shown
    assert USER not in str(raised.value)
    assert everything_logged.text
    assert PASSWORD not in everything_logged.text
