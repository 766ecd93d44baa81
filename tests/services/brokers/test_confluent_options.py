"""The settings of confluent-kafka's broker: options, passwords, and the library that may be missing."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from django_outbox.brokers.base import Broker
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import confluent_broker, connecting
from tests.support.brokers.servers import PASSWORD, USER

# Passwords


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


# The library
