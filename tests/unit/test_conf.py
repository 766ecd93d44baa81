"""Settings: each has a default, is read when it is used, and if it is wrong one sentence says so."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_outbox.conf import DEFAULT_REDACT, BrokerSettings, OutboxSettings, settings
from django_outbox.conf.values import CircuitBreaker, DebeziumSettings
from tests.support.overrides import outbox_settings

SECRET = "s3cr3t"
URL = f"kafka+sasl://user:{SECRET}@host:9092"

DEFAULTS: dict[str, Any] = {
    "TOPIC": "outbox",
    "ROUTES": {},
    "TASK_TOPICS": {},
    "CONSUMER_GROUP": "shop",
    "WIRE_FORMAT": "cloudevents",
    "PUBLISHER": "relay",
    "DEBEZIUM": DebeziumSettings("outbox_shop", "outbox_shop"),
    "SERIALIZERS": {},
    "EVENT_TYPES": "optional",
    "MAX_RETRY": 20,
    "MAX_DELIVERIES": 5,
    "HANDLER_TIMEOUT": None,
    "CONCURRENCY": 1,
    "CIRCUIT_BREAKER": None,
    "DEAD_LETTER_TOPIC": None,
    "ORDERING": "key",
    "ON_DEAD": "continue",
    "UNKNOWN_EVENT": "ignore",
    "REQUIRE_TRANSACTION": True,
    "RELAY_BATCH_SIZE": 500,
    "POLL_INTERVAL": 0.2,
    "PUBLISH_TIMEOUT": 15,
    "NOTIFY": False,
    "RETENTION": {
        "consumed": timedelta(days=7),
        "published": timedelta(days=7),
        "dead": None,
        "inbox": timedelta(days=7),
    },
    "PURGE": True,
    "INBOX": {},
    "REDACT": DEFAULT_REDACT,
    "TRACING": None,
    "MAX_PAYLOAD_BYTES": None,
}

GOOD: list[tuple[str, Any, Any]] = [
    ("SOURCE", "billing", "billing"),
    ("TOPIC", "events", "events"),
    ("ROUTES", {"order.*": "orders"}, {"order.*": "orders"}),
    ("ROUTES", OrderedDict(a="b"), {"a": "b"}),
    ("TASK_TOPICS", {"slow": "slow-tasks"}, {"slow": "slow-tasks"}),
    ("CONSUMER_GROUP", "workers", "workers"),
    ("WIRE_FORMAT", "envelope", "envelope"),
    ("PUBLISHER", "debezium", "debezium"),
    ("DEBEZIUM", {"SLOT": "slot_1"}, DebeziumSettings("slot_1", "outbox_tests")),
    ("DEBEZIUM", {"PUBLICATION": "p" * 63}, DebeziumSettings("outbox_tests", "p" * 63)),
    ("SERIALIZERS", {"order.*": {"CLASS": "a.B"}}, {"order.*": {"CLASS": "a.B"}}),
    ("EVENT_TYPES", "required", "required"),
    ("MAX_RETRY", 0, 0),
    ("MAX_RETRY", 32767, 32767),
    ("MAX_PAYLOAD_BYTES", 1, 1),
    ("MAX_PAYLOAD_BYTES", 10_000_000, 10_000_000),
    ("MAX_PAYLOAD_BYTES", None, None),
    ("MAX_DELIVERIES", 32767, 32767),
    ("HANDLER_TIMEOUT", None, None),
    ("CIRCUIT_BREAKER", None, None),
    ("CIRCUIT_BREAKER", {"FAILURES": 1, "PAUSE": 0.5}, CircuitBreaker(1, timedelta(seconds=0.5))),
    ("DEAD_LETTER_TOPIC", None, None),
    ("DEAD_LETTER_TOPIC", "dead", "dead"),
    ("HANDLER_TIMEOUT", 30, 30.0),
    ("HANDLER_TIMEOUT", 0.5, 0.5),
    ("ORDERING", "none", "none"),
    ("ON_DEAD", "hold", "hold"),
    ("UNKNOWN_EVENT", "dead", "dead"),
    ("REQUIRE_TRANSACTION", False, False),
    ("RELAY_BATCH_SIZE", 1, 1),
    ("CONCURRENCY", 16, 16),
    ("POLL_INTERVAL", 1, 1.0),
    ("PUBLISH_TIMEOUT", 0.5, 0.5),
    ("PUBLISH_TIMEOUT", 86400, 86400.0),
    ("NOTIFY", True, True),
    ("REDACT", ["pin"], ("pin",)),
    ("PURGE", False, False),
    (
        "RETENTION",
        {"consumed": None, "dead": timedelta(0)},
        {"consumed": None, "published": timedelta(days=7), "dead": timedelta(0), "inbox": timedelta(days=7)},
    ),
    ("TRACING", False, None),
    ("TRACING", "math.fsum", math.fsum),
    ("INBOX", {"legacy": None, "old": len, "sums": "math.fsum"}, {"legacy": None, "old": len, "sums": math.fsum}),
]

NOT_A_COUNT = [0, -1, 32768, 1.0, "1", None, True, float("nan")]
NOT_SECONDS = [0, -1, 86401, "1", None, True, float("nan"), float("inf"), timedelta(seconds=1)]
NOT_TEXT = ["", None, 1, b"bytes", ["a"]]

BAD: dict[str, list[Any]] = {
    "SOURCE": NOT_TEXT,
    "TOPIC": NOT_TEXT,
    "ROUTES": [None, [], "a", {"a": 1}, {"a": ""}, {1: "a"}, {"a": None}],
    "TASK_TOPICS": [None, [], "a", {"a": 1}, {"a": ""}, {"": "a"}, {1: "a"}, {"a": None}],
    "CONSUMER_GROUP": NOT_TEXT,
    "WIRE_FORMAT": ["", "json", None, ["cloudevents"], {}],
    "PUBLISHER": ["", "polling", "Debezium", None, True, ["relay"]],
    "DEBEZIUM": [
        *(None, [], "slot", {"slot": "a"}, {"SLOT": "a", "OTHER": "b"}),
        *({key: bad} for key in ("SLOT", "PUBLICATION") for bad in ("", "Slot", "a-b", "ä", "a\n", "s" * 64, None, 1)),
    ],
    "SERIALIZERS": [
        *(None, [], URL, {"a": "b.C"}, {"a": {}}, {"a": {"OPTIONS": {}}}, {1: {"CLASS": "b.C"}}),
        *({"a": {"CLASS": "b.C", **more}} for more in ({"CLASS": 1}, {"OPTIONS": URL}, {"MORE": 1})),
    ],
    "EVENT_TYPES": ["", "all", None, True],
    "MAX_RETRY": [each for each in NOT_A_COUNT if each != 0],
    "MAX_PAYLOAD_BYTES": [0, -1, 2**31, 1e6, "1000", True],
    "MAX_DELIVERIES": NOT_A_COUNT,
    "DEAD_LETTER_TOPIC": [each for each in NOT_TEXT if each is not None],
    "CIRCUIT_BREAKER": [
        *([], "a", 5, {}, {"FAILURES": 1}, {"FAILURES": 1, "PAUSE": 1, "OTHER": 1}),
        *({"FAILURES": each, "PAUSE": 1} for each in NOT_A_COUNT),
        *({"FAILURES": 1, "PAUSE": each} for each in NOT_SECONDS),
    ],
    "HANDLER_TIMEOUT": [each for each in NOT_SECONDS if each is not None],
    "ORDERING": ["", "partition", None, True],
    "ON_DEAD": ["", "stop", None, []],
    "UNKNOWN_EVENT": ["", "error", None],
    "REQUIRE_TRANSACTION": [None, 0, 1, "False"],
    "RELAY_BATCH_SIZE": NOT_A_COUNT,
    "CONCURRENCY": [*NOT_A_COUNT, 1001],
    "POLL_INTERVAL": NOT_SECONDS,
    "PUBLISH_TIMEOUT": NOT_SECONDS,
    "NOTIFY": [None, 0, "True"],
    "PURGE": [None, 0, "True"],
    "REDACT": ["password", [""], [1], {"password": 1}, None],
    "RETENTION": [
        None,
        7,
        timedelta(days=7),
        {"pending": timedelta(days=7)},
        {"consumed": 7},
        {"consumed": timedelta(days=-1)},
        {"dead": timedelta.max},
        {1: None},
    ],
    "BROKER": [None, "kafka://host", [], 1],
    "INBOX": [None, [], "a", {1: None}, {"a": 7}, {"a": ""}, {"a": "nothing.here"}, {"a": "math.pi"}],
    "TRACING": [0, 1, "", [], {}, len, "nothing.here", "math.pi"],
}
BAD_BROKER: dict[str, list[Any]] = {
    "BACKEND": ["", None, 1, object, URL, "two words", "a/b"],
    "URL": ["", None, 1, b"kafka://host"],
    "OPTIONS": [None, [], "a"],
    "PRODUCER_OPTIONS": [None, [], "a"],
    "CONSUMER_OPTIONS": [None, [], "a"],
}


def value(key: str) -> Any:
    return getattr(settings, key.lower())


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(key, bad, id=f"{key}-{n}") for key, values in table.items() for n, bad in enumerate(values)]


def error_of(key: str) -> str:
    with pytest.raises(ImproperlyConfigured) as error:
        value(key)
    return str(error.value)


# What is read


@pytest.mark.parametrize("key", DEFAULTS)
def test_default(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    with override_settings(OUTBOX={"SOURCE": "shop"}):
        assert value(key) == DEFAULTS[key]


def test_default_broker() -> None:
    with override_settings(OUTBOX={"SOURCE": "shop"}):
        assert settings.broker == BrokerSettings(
            backend="django_outbox.brokers.kafka.KafkaBroker",
            url="kafka://localhost:9092",
            options={},
            producer_options={},
            consumer_options={},
        )


def test_every_key_has_a_property_a_default_and_cases_here() -> None:
    assert set(OutboxSettings.KEYS) == {*DEFAULTS, "SOURCE", "BROKER"} == set(BAD)
    assert set(OutboxSettings.BROKER_KEYS) == set(BAD_BROKER)
    assert {key for key, _, _ in GOOD} == {*DEFAULTS, "SOURCE"}


@pytest.mark.parametrize(("key", "given", "read"), GOOD)
def test_given_value_is_read(key: str, given: Any, read: Any) -> None:
    with outbox_settings(**{key: given}):
        assert value(key) == read
        assert type(value(key)) is type(read) or key == "ROUTES"


def test_broker_is_read_whole() -> None:
    given = {
        "BACKEND": "a.B",
        "URL": URL,
        "OPTIONS": MappingProxyType({"a": 1}),
        "PRODUCER_OPTIONS": {"b": 2},
        "CONSUMER_OPTIONS": {"c": 3},
    }
    with outbox_settings(BROKER=given):
        assert settings.broker == BrokerSettings("a.B", URL, {"a": 1}, {"b": 2}, {"c": 3})


def test_group_is_the_source_unless_it_is_given() -> None:
    with outbox_settings(without=["CONSUMER_GROUP"], SOURCE="billing"):
        assert settings.consumer_group == "billing"
    with outbox_settings(without=["SOURCE"], CONSUMER_GROUP="workers"):
        assert settings.consumer_group == "workers"


def test_topics_are_all_that_the_settings_name() -> None:
    with outbox_settings(TOPIC="rest", ROUTES={"order.*": "orders", "*.sent": "rest"}):
        assert settings.topics == {"rest", "orders"}


def test_settings_are_read_at_each_use() -> None:
    with outbox_settings(MAX_RETRY=1):
        assert settings.max_retry == 1
        with outbox_settings(MAX_RETRY=2):
            assert settings.max_retry == 2
        assert settings.max_retry == 1


def test_outbox_without_any_settings_has_all_but_a_source() -> None:
    for missing in ({}, MappingProxyType({})):
        with override_settings(OUTBOX=missing):
            assert settings.max_retry == 20
            assert "is missing" in error_of("SOURCE")


def test_a_source_that_does_not_fit_its_column_is_refused() -> None:
    with outbox_settings(SOURCE="s" * 255):
        assert settings.source == "s" * 255
    with outbox_settings(SOURCE="s" * 256):
        assert error_of("SOURCE") == 'OUTBOX["SOURCE"] must have at most 255 characters, got 256.'


@pytest.mark.parametrize(
    ("source", "name"), [("Shop-EU.1", "outbox_shop_eu_1"), ("süd", "outbox_s_d"), ("s" * 255, "outbox_" + "s" * 56)]
)
def test_the_slot_of_a_source_has_a_name_that_postgresql_takes(source: str, name: str) -> None:
    with outbox_settings(SOURCE=source):
        assert settings.debezium == DebeziumSettings(slot=name, publication=name)


def test_defaults_cannot_be_changed_through_what_is_read() -> None:
    with override_settings(OUTBOX={"SOURCE": "shop"}):
        settings.retention["dead"] = timedelta(0)
        assert settings.retention["dead"] is None


# What is wrong


@pytest.mark.parametrize(("key", "bad"), cases(BAD))
def test_wrong_value_is_refused_by_a_sentence_that_names_the_key(key: str, bad: Any) -> None:
    with outbox_settings(**{key: bad}):
        error = error_of(key)
    assert f'OUTBOX["{key}"]' in error
    assert error.endswith(".")
    assert "\n" not in error


@pytest.mark.parametrize(("key", "bad"), cases(BAD_BROKER))
def test_wrong_value_of_the_broker_is_refused_by_a_sentence_that_names_the_key(key: str, bad: Any) -> None:
    with outbox_settings(BROKER={key: bad}):
        error = error_of("BROKER")
    assert f'OUTBOX["BROKER"]["{key}"]' in error
    assert error.endswith(".")


@pytest.mark.parametrize("bad", [None, [], "shop", 1, URL])
def test_settings_that_are_no_dict_are_refused(bad: Any) -> None:
    with override_settings(OUTBOX=bad):
        assert error_of("TOPIC") == f"OUTBOX must be a dict, not {type(bad).__name__}."


def test_one_wrong_value_does_not_keep_the_others_from_being_read() -> None:
    with outbox_settings(MAX_RETRY="many", TOPIC="events"):
        assert settings.topic == "events"


# What must not be shown


def test_password_is_not_shown_by_repr() -> None:
    options = {"sasl_plain_password": SECRET}
    broker = BrokerSettings("a.B", URL, options, options, options)
    assert SECRET not in f"{broker!r} {broker}"


@pytest.mark.parametrize(
    "broker",
    [
        URL,
        [URL],
        {"URL": [URL]},
        {"URL": URL.encode()},
        {"BACKEND": URL},
        {"BACKEND": [URL]},
        {"OPTIONS": URL},
        {"PRODUCER_OPTIONS": [SECRET]},
        {"CONSUMER_OPTIONS": [SECRET]},
    ],
)
def test_password_is_not_shown_by_an_error(broker: Any) -> None:
    with outbox_settings(BROKER=broker):
        assert SECRET not in error_of("BROKER")
