"""Deadlines, passwords and logs of confluent-kafka's broker, as the library itself treats them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import pytest

from django_outbox.brokers.base import Broker
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import confluent_broker, connecting
from tests.support.brokers.records import SECONDS
from tests.support.brokers.servers import PASSWORD, USER
from tests.support.servers.process import free_port


@pytest.mark.parametrize("timeout", [0.001, 0.5, 86_400])
def test_any_deadline_of_a_batch_is_one_that_librdkafka_takes(timeout: float) -> None:
    broker = confluent_broker(f"kafka://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerUnavailable):
        broker.producer(timeout)


# Passwords and logs


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that the client and the outbox log, at the lowest level."""
    for name in ("confluent_kafka", "django_outbox"):
        caplog.set_level(1, name)
    return caplog


@connecting
def test_a_password_is_not_shown_when_a_server_asks_for_none(
    kafka_url: str, everything_logged: pytest.LogCaptureFixture, connect: Callable[[Broker], object]
) -> None:
    address = kafka_url.removeprefix("kafka://")
    url = f"kafka+sasl://{USER}:{PASSWORD}@{address}"
    broker = confluent_broker(url, options={"ssl.key.password": PASSWORD, "debug": "all"})
    with pytest.raises(BrokerUnavailable) as raised:
        connect(broker)
    assert address in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value)) + repr(broker) + str(broker)
    assert PASSWORD not in shown
    assert USER not in str(raised.value)
    assert everything_logged.text
    assert PASSWORD not in everything_logged.text


def test_the_library_logs_to_a_logger_of_its_name(everything_logged: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BrokerUnavailable):
        confluent_broker(f"kafka://127.0.0.1:{free_port()}").producer(SECONDS)
    assert {record.name for record in everything_logged.records} == {"confluent_kafka"}
    assert any(record.levelno == logging.ERROR for record in everything_logged.records)
