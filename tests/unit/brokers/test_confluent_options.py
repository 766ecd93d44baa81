"""The settings of confluent-kafka's broker: options, passwords, and the library that may be missing."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import confluent_kafka
import pytest
from django.core.exceptions import ImproperlyConfigured
from kafka.partitioner.default import murmur2

from django_outbox.brokers.base import Broker
from django_outbox.brokers.confluent import ConfluentBroker
from django_outbox.brokers.confluent import broker as confluent
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import MissingDependency
from django_outbox.operations.checks.settings import check_settings
from tests.support.brokers.backends import confluent_broker, connecting
from tests.support.brokers.servers import PASSWORD, USER
from tests.support.overrides import outbox_settings
from tests.support.servers.process import free_port

BACKEND = "django_outbox.brokers.confluent.ConfluentBroker"
KEYS = ["OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS", "URL"]
SECRET = "s3cret"


def refusal(key: str, option: str, value: object) -> str:
    """Why a broker with this option cannot be made."""
    options = {} if key == "URL" else {key.lower(): {option: value}}
    with pytest.raises(ImproperlyConfigured) as raised:
        confluent_broker(f"kafka://localhost?{option}={value}" if key == "URL" else "kafka://localhost", **options)
    text = str(raised.value)
    assert text.startswith(f'OUTBOX["BROKER"]["{key}"] ')
    shown = "".join(traceback.format_exception(raised.value)).split("Error: ")[-1]
    assert SECRET not in text + shown
    return text


class Made(Exception):
    """Stops a broker when it has put a client's options together."""


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Broker], object], Broker], dict[str, Any]]:
    """Which options a broker gives to the client that a call makes."""

    def options_of(call: Callable[[Broker], object], broker: Broker) -> dict[str, Any]:
        given: dict[str, Any] = {}

        def make(options: dict[str, Any], logger: object) -> None:
            given.update(options)
            raise Made

        for client in ("KafkaProducer", "Consumer", "AdminClient"):
            monkeypatch.setattr(confluent, client, make)
        with pytest.raises(Made):
            call(broker)
        return given

    return options_of


PRODUCING: Callable[[Broker], object] = lambda broker: broker.producer(8)  # noqa: E731
READING: Callable[[Broker], object] = lambda broker: broker.subscribe(["topic"], "group")  # noqa: E731
ASKING: Callable[[Broker], object] = lambda broker: broker.missing_topics(["topic"])  # noqa: E731


# Options


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("lingerms", "has an option that librdkafka does not know: 'lingerms'."),
        ("bootstrap.servers", "must not set 'bootstrap.servers': the hosts come from the URL."),
        ("metadata.broker.list", "must not set 'metadata.broker.list': the hosts come from the URL."),
        ("default.topic.config", "must not set 'default.topic.config': name its options one by one."),
        ("log.queue", "must not set 'log.queue': the outbox sets its own."),
    ],
)
def test_an_option_that_nobody_may_set_is_named(key: str, option: str, reason: str) -> None:
    assert refusal(key, option, SECRET).endswith(reason)


@pytest.mark.parametrize("key", ["OPTIONS", "PRODUCER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option",
    [
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "transactional.id",
        "delivery.report.only.error",
        "allow.auto.create.topics",
        "socket.send.buffer.bytes",
    ],
)
def test_a_producers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees depend on" in refusal(key, option, SECRET)


@pytest.mark.parametrize("key", ["OPTIONS", "CONSUMER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option",
    [
        "group.id",
        "enable.auto.commit",
        "auto.commit.enable",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "allow.auto.create.topics",
        "enable.partition.eof",
        "offset.store.method",
    ],
)
def test_a_consumers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees depend on" in refusal(key, option, SECRET)


@pytest.mark.parametrize("option", ["enable_auto_commit", "group_id", "enable_idempotence", "send_buffer_bytes"])
def test_a_name_of_kafka_python_is_no_way_around(option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees depend on" in refusal("URL", option, SECRET)


def test_a_group_has_one_protocol_for_members_of_all_backends() -> None:
    assert "all members of a group" in refusal("CONSUMER_OPTIONS", "group.protocol", "consumer")


@pytest.mark.parametrize(
    ("key", "option", "value"),
    [
        ("OPTIONS", "socket.timeout.ms", SECRET),
        ("OPTIONS", "socket.keepalive.enable", SECRET),
        ("OPTIONS", "security.protocol", SECRET),
        ("OPTIONS", "stats_cb", SECRET),
        ("PRODUCER_OPTIONS", "linger.ms", SECRET),
        ("PRODUCER_OPTIONS", "linger.ms", None),
        ("PRODUCER_OPTIONS", "compression.type", SECRET),
        ("CONSUMER_OPTIONS", "session.timeout.ms", SECRET),
        ("CONSUMER_OPTIONS", "session.timeout.ms", -1),
        ("URL", "linger_ms", SECRET),
        ("URL", "compression_type", SECRET),
        ("URL", "socket.keepalive.enable", SECRET),
    ],
)
def test_a_value_that_librdkafka_does_not_take_is_named_and_not_shown(key: str, option: str, value: object) -> None:
    assert refusal(key, option, value).endswith(f"has an option whose value librdkafka does not accept: {option!r}.")


@pytest.mark.parametrize("value", [[SECRET], {"a": SECRET}, object()])
def test_a_value_of_no_kind_that_options_have_is_named_and_not_shown(value: object) -> None:
    assert "whose value is not text, a number, True or False: 'linger.ms'" in refusal("OPTIONS", "linger.ms", value)


@pytest.mark.parametrize(
    ("key", "option", "other"),
    [
        ("PRODUCER_OPTIONS", "session.timeout.ms", "CONSUMER_OPTIONS"),
        ("CONSUMER_OPTIONS", "linger.ms", "PRODUCER_OPTIONS"),
    ],
)
def test_an_option_of_the_other_client_is_sent_where_it_belongs(key: str, option: str, other: str) -> None:
    assert refusal(key, option, 6000).endswith(f'belongs in OUTBOX["BROKER"]["{other}"]: {option!r}.')


@pytest.mark.parametrize(
    ("option", "known_as"), [("linger_ms", "linger.ms"), ("ssl_cafile", "ssl.ca.location"), ("acks_all", "acks.all")]
)
def test_who_writes_an_option_as_for_kafka_python_is_told_how_it_is_written(option: str, known_as: str) -> None:
    assert f"does not know: {option!r} (its names are like {known_as!r})" in refusal("OPTIONS", option, 5)


def test_options_reach_the_clients_that_they_are_for(options_of: Callable[..., dict[str, Any]]) -> None:
    broker = confluent_broker(
        "kafka://localhost?client.id=url&socket_keepalive_enable=true",
        options={"client.id": "all", "statistics.interval.ms": 5000},
        producer_options={"client.id": "sending", "linger.ms": 7},
        consumer_options={"client.id": "reading", "session.timeout.ms": 7000},
    )
    sending, reading, asking = (options_of(call, broker) for call in (PRODUCING, READING, ASKING))
    assert [options["client.id"] for options in (sending, reading, asking)] == ["sending", "reading", "all"]
    assert {options["socket.keepalive.enable"] for options in (sending, reading, asking)} == {"true"}
    assert {options["statistics.interval.ms"] for options in (sending, reading, asking)} == {5000}
    assert (sending["linger.ms"], sending.get("session.timeout.ms")) == (7, None)
    assert (reading["session.timeout.ms"], reading.get("linger.ms")) == (7000, None)


def test_the_guarantees_do_not_hang_on_options(options_of: Callable[..., dict[str, Any]]) -> None:
    sending, reading = (options_of(call, confluent_broker("kafka://localhost")) for call in (PRODUCING, READING))
    assert (sending["acks"], sending["enable.idempotence"], sending["partitioner"]) == ("all", True, "murmur2_random")
    assert sending["message.timeout.ms"] == 8000
    assert (reading["enable.auto.commit"], reading["enable.auto.offset.store"]) == (False, False)
    assert (reading["group.id"], reading["auto.offset.reset"]) == ("group", "earliest")
    assert sending["allow.auto.create.topics"] is reading["allow.auto.create.topics"] is False


def test_a_key_has_the_partition_that_other_clients_give_it() -> None:
    keys = [b"", b"\0", b"\xff" * 255, "ключ-鍵-🔑".encode(), *(b"%d" % number for number in range(20_000))]
    keys += [b"%016x" % (number * 2_654_435_761) for number in range(20_000)]
    for count in (1, 2, 3, 7, 12, 50):
        theirs = [(murmur2(key) & 0x7FFFFFFF) % count for key in keys]
        assert [confluent_kafka.murmur2(key, count) for key in keys] == theirs


@pytest.mark.parametrize(
    ("query", "option", "value"),
    [
        ("ssl_cafile=/a.pem", "ssl.ca.location", "/a.pem"),
        ("ssl_certfile=/a.pem", "ssl.certificate.location", "/a.pem"),
        ("ssl_keyfile=/a.pem", "ssl.key.location", "/a.pem"),
        ("ssl_password=a", "ssl.key.password", "a"),
        ("ssl_crlfile=/a.pem", "ssl.crl.location", "/a.pem"),
        ("ssl_ciphers=a", "ssl.cipher.suites", "a"),
        ("ssl_check_hostname=False", "ssl.endpoint.identification.algorithm", "none"),
        ("ssl_check_hostname=yes", "ssl.endpoint.identification.algorithm", "https"),
        ("sasl_mechanism=SCRAM-SHA-512", "sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl_plain_username=a", "sasl.username", "a"),
        ("sasl_plain_password=a", "sasl.password", "a"),
        ("client_id=a", "client.id", "a"),
        ("compression_type=zstd", "compression.type", "zstd"),
        ("linger_ms=5", "linger.ms", "5"),
        ("linger.ms=5", "linger.ms", "5"),
        ("max_request_size=5000", "message.max.bytes", "5000"),
        ("session_timeout_ms=7000", "session.timeout.ms", "7000"),
        ("fetch_max_wait_ms=50", "fetch.wait.max.ms", "50"),
        ("receive_buffer_bytes=5000", "socket.receive.buffer.bytes", "5000"),
        ("reconnect_backoff_ms=50", "reconnect.backoff.ms", "50"),
        ("log_level=3", "log_level", "3"),
    ],
)
def test_a_url_takes_the_names_of_kafka_python_and_those_of_librdkafka(
    options_of: Callable[..., dict[str, Any]], query: str, option: str, value: str
) -> None:
    assert options_of(PRODUCING, confluent_broker(f"kafka://localhost?{query}"))[option] == value


def test_a_url_says_where_and_how_to_connect(options_of: Callable[..., dict[str, Any]]) -> None:
    broker = confluent_broker(
        f"kafka+sasl+ssl://{USER}:{PASSWORD}@one:9093,[::1]?sasl_mechanism=SCRAM-SHA-256", options={"client.id": "a"}
    )
    for call in (PRODUCING, READING, ASKING):
        options = options_of(call, broker)
        assert options["bootstrap.servers"] == "one:9093,[::1]:9092"
        assert options["security.protocol"] == "SASL_SSL"
        assert [options[f"sasl.{name}"] for name in ("mechanism", "username", "password")] == [
            "SCRAM-SHA-256",
            USER,
            PASSWORD,
        ]
    assert broker.location == "kafka+sasl+ssl://one:9093,[::1]:9092"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ssl.keystore.location": "/no/such/file"}, "ssl.keystore.location"),
        ({"sasl.mechanism": SECRET, "security.protocol": "sasl_ssl"}, "a value that it does not take"),
    ],
)
@connecting
def test_options_that_only_together_make_no_sense_are_named_at_their_use(
    connect: Callable[[Broker], object], options: dict[str, str], reason: str
) -> None:
    broker = confluent_broker(f"kafka+ssl://127.0.0.1:{free_port()}", options=options)
    with pytest.raises(ImproperlyConfigured) as raised:
        connect(broker)
    text = str(raised.value)
    assert text.startswith("librdkafka refuses its options: ")
    assert reason in text
    assert 'OUTBOX["BROKER"]["OPTIONS"] (' + next(iter(options)) in text
    assert SECRET not in "".join(traceback.format_exception(raised.value)).split("Error: ")[-1]


# The library


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let confluent-kafka not be installed, and nobody have imported it."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "confluent_kafka" or name.startswith("django_outbox.brokers.confluent"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)


def test_a_library_that_is_not_installed_is_named_with_the_command_that_installs_it(without_library: None) -> None:
    with pytest.raises(MissingDependency) as raised:
        get_broker(BrokerSettings(backend=BACKEND))
    assert str(raised.value) == (
        'OUTBOX["BROKER"]["BACKEND"] names the backend of confluent-kafka, which is not installed. '
        "Run: pip install 'django-kafka-outbox[confluent]'"
    )


def test_the_system_check_says_so_too(without_library: None) -> None:
    with outbox_settings(BROKER={"BACKEND": BACKEND}):
        (found,) = check_settings()
    assert found.id == "django_outbox.E004"
    assert "pip install 'django-kafka-outbox[confluent]'" in found.msg


def test_the_system_check_finds_nothing_where_it_is_installed() -> None:
    with outbox_settings(BROKER={"BACKEND": BACKEND, "URL": "kafka://localhost", "OPTIONS": {"client.id": "shop"}}):
        assert check_settings() == []
    assert isinstance(get_broker(BrokerSettings(backend=BACKEND)), ConfluentBroker)


def test_the_system_check_names_a_wrong_option() -> None:
    with outbox_settings(BROKER={"BACKEND": BACKEND, "PRODUCER_OPTIONS": {"acks": SECRET}}):
        (found,) = check_settings()
    assert found.id == "django_outbox.E004"
    assert "must not set 'acks'" in found.msg
