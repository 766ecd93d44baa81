"""Options of kafka-python: which may be set, and that passwords among them are not shown."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from kafka.protocol.sasl import SaslAuthenticateRequest

from django_outbox.brokers.kafka import broker as kafka
from django_outbox.brokers.kafka.client import connection_options
from django_outbox.brokers.url import parse_url
from tests.support.brokers.backends import IMPATIENT, kafka_broker
from tests.support.brokers.records import SECONDS
from tests.support.brokers.servers import PASSWORD, USER
from tests.support.servers.process import free_port


@pytest.mark.parametrize("key", ["OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("lingerms", "does not know: 'lingerms'"),
        ("bootstrap_servers", "must not set 'bootstrap_servers': the hosts come from the URL"),
        ("kafka_client", "must not set 'kafka_client'"),
    ],
)
def test_an_option_that_nobody_may_set_is_named(key: str, option: str, reason: str) -> None:
    assert reason in refusal(key, option, "s3cret")


@pytest.mark.parametrize("key", ["OPTIONS", "PRODUCER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option", ["acks", "enable_idempotence", "transactional_id", "key_serializer", "value_serializer"]
)
def test_a_producers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees depend on" in refusal(key, option, "s3cret")


@pytest.mark.parametrize("key", ["OPTIONS", "CONSUMER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option", ["auto_offset_reset", "enable_auto_commit", "group_id", "key_deserializer", "value_deserializer"]
)
def test_a_consumers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees depend on" in refusal(key, option, "s3cret")


@pytest.mark.parametrize(
    ("key", "option", "value", "takes"),
    [
        ("OPTIONS", "request_timeout_ms", "s3cret", "a number"),
        ("OPTIONS", "request_timeout_ms", True, "a number"),
        ("OPTIONS", "ssl_check_hostname", "s3cret", "true or false"),
        ("OPTIONS", "ssl_check_hostname", 1, "true or false"),
        ("OPTIONS", "sasl_plain_password", 12345, "text"),
        ("PRODUCER_OPTIONS", "linger_ms", None, "a number"),
        ("PRODUCER_OPTIONS", "socket_options", "s3cret", "a list"),
        ("CONSUMER_OPTIONS", "session_timeout_ms", "s3cret", "a number"),
        ("CONSUMER_OPTIONS", "receive_buffer_bytes", "s3cret", "a number"),
        ("URL", "linger_ms", "s3cret", "a number"),
        ("URL", "ssl_check_hostname", "s3cret", "true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_and_not_shown(key: str, option: str, value: object, takes: str) -> None:
    assert refusal(key, option, value) == f'OUTBOX["BROKER"]["{key}"]: the option {option!r} must be {takes}.'


@pytest.mark.parametrize(("key", "unknown"), [("PRODUCER_OPTIONS", "group_id"), ("CONSUMER_OPTIONS", "linger_ms")])
def test_an_option_of_the_other_client_is_refused(key: str, unknown: str) -> None:
    assert repr(unknown) in refusal(key, unknown, 5)


def refusal(key: str, option: str, value: object) -> str:
    """Why a broker with this option cannot be made."""
    options = {} if key == "URL" else {key.lower(): {option: value}}
    with pytest.raises(ImproperlyConfigured) as raised:
        kafka_broker(f"kafka://localhost?{option}={value}" if key == "URL" else "kafka://localhost", **options)
    text = str(raised.value)
    assert f'OUTBOX["BROKER"]["{key}"]' in text
    assert option in text
    assert "s3cret" not in text
    return text


def test_a_certificate_that_is_not_there_is_a_wrong_option() -> None:
    url = f"kafka+ssl://127.0.0.1:{free_port()}?ssl_cafile=/nowhere/ca.pem&bootstrap_timeout_ms=300"
    with pytest.raises(
        ImproperlyConfigured, match=r"ssl_cafile names cannot be read \(No such file .*'/nowhere/ca.pem'"
    ):
        kafka_broker(url).producer(SECONDS)


class Made(Exception):
    """Stops a broker when it has put a client's options together."""


def options_of(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> dict[str, Any]:
    """How the client that a call makes is configured."""
    given: dict[str, Any] = {}

    def connect(client: Any, options: dict[str, Any], make_net: object) -> None:
        given.update(client.DEFAULT_CONFIG, **options)
        raise Made

    monkeypatch.setattr(kafka, "connect", connect)
    with pytest.raises(ImproperlyConfigured, match="Made"):
        call()
    return given


def test_options_reach_the_clients_that_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = kafka_broker(
        "kafka://localhost?linger_ms=3&metadata_max_age_ms=70000",
        options={"client_id": "shop", "metadata_max_age_ms": 80000, "fetch_min_bytes": 2, "ssl_password": None},
        producer_options={"linger_ms": 4, "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)]},
        consumer_options={**IMPATIENT, "metadata_max_age_ms": 90000},
    )
    made = options_of(monkeypatch, lambda: broker.producer(SECONDS))
    read_with = options_of(monkeypatch, lambda: broker.subscribe(["topic"], "group"))
    assert (made["client_id"], made["linger_ms"], made["metadata_max_age_ms"]) == ("shop", 4, 80000)
    assert (made["acks"], made["enable_idempotence"]) == (-1, True)
    assert made["socket_options"][0] == (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    assert (read_with["client_id"], read_with["fetch_min_bytes"]) == ("shop", 2)
    assert read_with["metadata_max_age_ms"] == 90000
    assert read_with["session_timeout_ms"] == IMPATIENT["session_timeout_ms"]
    assert (read_with["enable_auto_commit"], read_with["auto_offset_reset"]) == (False, "earliest")


# Passwords


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that the client and the outbox log, at the lowest level."""
    for name in ("kafka", "django_outbox"):
        caplog.set_level(1, name)
    return caplog


def test_a_password_is_not_shown_in_what_the_client_logs_of_a_login(
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    connection_options(parse_url(f"kafka+sasl://{USER}:{PASSWORD}@localhost"))
    token = f"\0{USER}\0{PASSWORD}".encode()
    request = SaslAuthenticateRequest(token, version=2)
    for name in ("kafka.net.connection", "kafka.protocol.parser"):
        log = logging.getLogger(name)
        log.debug("%s Request %d: %s", name, 1, request)
        log.debug("%s Send: %r", name, bytearray(b"head" + token))
        log.debug("%s something else", name)
    assert [record.getMessage() for record in everything_logged.records] == [
        "kafka.net.connection something else",
        "kafka.protocol.parser something else",
    ]
