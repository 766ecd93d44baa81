"""Options of kafka-python: which may be set, and that passwords among them are not shown."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import Broker
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import CONNECTING, connecting, kafka_broker
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
    assert set(threading.enumerate()) <= threads  # some of other tests may have ended


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
