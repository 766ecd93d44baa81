"""System checks: each fault in the settings is found, once, with an id and a hint."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.test import override_settings

from django_outbox.operations.checks.settings import check_databases, check_settings
from tests.support.overrides import outbox_settings
from tests.unit.test_conf import BAD, BAD_BROKER, SECRET, URL, cases

KAFKA = "django_outbox.brokers.kafka.KafkaBroker"
MEMORY = "django_outbox.brokers.memory.MemoryBroker"


def only(found: list[CheckMessage]) -> CheckMessage:
    (message,) = found
    assert message.hint
    return message


def found_in(databases: Any = ("default",)) -> list[CheckMessage]:
    return check_databases(databases=databases)


@pytest.fixture
def sqlite(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the connection look like SQLite's; its options."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(connection, "vendor", "sqlite")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    return options


# Settings


def test_settings_of_these_tests_are_fine() -> None:
    assert check_settings() == []


def test_smallest_settings_are_fine() -> None:
    with override_settings(OUTBOX={"SOURCE": "shop"}):
        assert check_settings() == []


def test_checks_are_registered() -> None:
    with outbox_settings(TOPICS="x"):
        assert [message.id for message in run_checks() if not message.is_silenced()] == ["django_outbox.E001"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("TOPICS", "'TOPIC'"),
        ("RELAY_BATCHSIZE", "'RELAY_BATCH_SIZE'"),
        ("topic", "'TOPIC'"),
        ("XYZ", "Valid keys: BROKER, SOURCE, TOPIC,"),
        (5, "Valid keys:"),
    ],
)
def test_unknown_key_is_found_and_the_right_one_is_suggested(key: Any, hint: str) -> None:
    with override_settings(OUTBOX={"SOURCE": "shop", key: 1}):
        message = only(check_settings())
    assert message.id == "django_outbox.E001"
    assert message.msg == f"OUTBOX has an unknown key {key!r}."
    assert hint in str(message.hint)


def test_unknown_key_of_the_broker_is_found() -> None:
    with outbox_settings(BROKER={"BACKEND": MEMORY, "PRODUCER_OPTION": {}}):
        message = only(check_settings())
    assert message.id == "django_outbox.E001"
    assert message.msg == """OUTBOX["BROKER"] has an unknown key 'PRODUCER_OPTION'."""
    assert message.hint == "Did you mean 'PRODUCER_OPTIONS'?"


@pytest.mark.parametrize(("key", "bad"), [case for case in cases(BAD) if case.values[1] or case.values[0] != "SOURCE"])
def test_wrong_value_is_found_once(key: str, bad: Any) -> None:
    with outbox_settings(**{key: bad}):
        message = only(check_settings())
    assert message.id == "django_outbox.E002"
    assert f'OUTBOX["{key}"]' in message.msg


def test_a_missing_source_is_found_once() -> None:
    with outbox_settings(without=["SOURCE"], DEBEZIUM={}):
        assert only(check_settings()).id == "django_outbox.E003"


@pytest.mark.parametrize(("key", "bad"), cases(BAD_BROKER))
def test_wrong_value_of_the_broker_is_found_once(key: str, bad: Any) -> None:
    with outbox_settings(BROKER={key: bad}):
        message = only(check_settings())
    assert message.id == "django_outbox.E002"
    assert f'OUTBOX["BROKER"]["{key}"]' in message.msg


@pytest.mark.parametrize("bad", [None, [], "shop"])
def test_settings_that_are_no_dict_are_found(bad: Any) -> None:
    with override_settings(OUTBOX=bad):
        assert only(check_settings()).id == "django_outbox.E002"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"TOPIC": "two words"}, 'OUTBOX["TOPIC"]'),
        ({"TOPIC": "x" * 250}, 'OUTBOX["TOPIC"]'),
        ({"ROUTES": {"a": "fine", "b.*": ".."}}, """OUTBOX["ROUTES"]['b.*']"""),
        ({"INBOX": {"fine": None, "a topic": None}}, """OUTBOX["INBOX"]['a topic']"""),
    ],
)
def test_topic_that_kafka_does_not_allow_is_found(changes: dict[str, Any], place: str) -> None:
    with outbox_settings(**changes):
        message = only(check_settings())
    assert message.id == "django_outbox.E002"
    assert message.msg.startswith(f"{place}: ")


def test_all_faults_are_found_at_once() -> None:
    with override_settings(OUTBOX={"TOPC": "x", "MAX_RETRY": -1, "ORDERING": "no", "BROKER": {"BACKEND": "a.B"}}):
        assert sorted(str(message.id) for message in check_settings()) == [
            "django_outbox.E001",
            "django_outbox.E002",
            "django_outbox.E002",
            "django_outbox.E003",
            "django_outbox.E004",
        ]


@pytest.mark.parametrize("source", [{}, {"SOURCE": ""}, {"SOURCE": None}])
@pytest.mark.parametrize("others", [{}, {"CONSUMER_GROUP": "workers", "TOPIC": "events"}])
def test_missing_source_is_found_once(source: dict[str, Any], others: dict[str, Any]) -> None:
    with override_settings(OUTBOX={**source, **others}):
        message = only(check_settings())
    assert message.id == "django_outbox.E003"
    assert message.hint == 'Name this service, for example OUTBOX = {"SOURCE": "shop"}.'


def test_missing_settings_are_found(settings: Any) -> None:
    del settings.OUTBOX
    assert only(check_settings()).id == "django_outbox.E003"


@pytest.mark.parametrize(
    "broker",
    [
        {"BACKEND": "django_outbox.brokers.kafka.broker.KafkaBrokr"},
        {"BACKEND": "nowhere.Broker"},
        {"BACKEND": "KafkaBroker"},
        {"BACKEND": "tests.unit.operations.test_checks.NotABroker"},
        {"BACKEND": "tests.unit.operations.test_checks.MEMORY"},
        {"BACKEND": KAFKA, "URL": "kafak://localhost:9092"},
        {"BACKEND": KAFKA, "URL": "localhost:9092"},
        {"BACKEND": KAFKA, "URL": "kafka://localhost:port"},
        {"BACKEND": KAFKA, "URL": "kafka://"},
        {"BACKEND": KAFKA, "URL": "kafka+sasl://localhost"},
    ],
)
def test_broker_that_cannot_be_made_is_found(broker: dict[str, Any]) -> None:
    with outbox_settings(BROKER=broker):
        message = only(check_settings())
    assert message.id == "django_outbox.E004"
    assert 'OUTBOX["BROKER"]' in message.msg


@pytest.mark.parametrize(
    "broker",
    [
        {"BACKEND": URL},
        {"BACKEND": f"kafka.{SECRET}@host.Broker"},
        {"BACKEND": KAFKA, "URL": URL.replace("9092", "port")},
        {"BACKEND": KAFKA, "URL": URL.replace("kafka+sasl", "kafka")},
        {"BACKEND": KAFKA, "URL": f"kafak://user:{SECRET}@host"},
        {"BACKEND": KAFKA, "URL": f"kafka+sasl://user:{SECRET}@"},
        {"BACKEND": KAFKA, "URL": f"kafka+sasl://user:{SECRET}@host?{SECRET}"},
        {"BACKEND": KAFKA, "URLS": URL},
        {"BACKEND": KAFKA, "URL": [URL]},
        URL,
    ],
)
def test_no_check_shows_a_password(broker: Any) -> None:
    with outbox_settings(BROKER=broker):
        assert check_settings()
        assert SECRET not in "".join(f"{message} {message.hint}" for message in check_settings())


def test_notify_is_said_to_have_no_effect_without_postgresql(settings: Any) -> None:
    with outbox_settings(NOTIFY=True):
        found = check_databases(databases=["default"])
    vendor = connection.vendor
    assert [m.id for m in found] == ([] if vendor == "postgresql" else ["django_outbox.W002"])


def test_a_project_without_time_zones_is_warned(settings: Any) -> None:
    settings.USE_TZ = False
    assert only(check_databases(databases=["default"])).id == "django_outbox.W003"


def test_commands_do_not_start_with_a_wrong_setting() -> None:
    with outbox_settings(MAX_RETRY=-1), pytest.raises(SystemCheckError) as error:
        call_command("check")
    assert 'OUTBOX["MAX_RETRY"] must be a whole number from 0 to 32767, not -1.' in str(error.value)


@pytest.mark.parametrize("databases", [None, [], ()])
def test_databases_are_looked_at_only_when_they_are_named(databases: Any, sqlite: dict[str, Any]) -> None:
    assert found_in(databases) == []


@pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}, {"transaction_mode": None}])
def test_sqlite_without_immediate_transactions_is_warned_of(sqlite: dict[str, Any], options: dict[str, Any]) -> None:
    sqlite.update(options)
    message = only(found_in())
    assert message.id == "django_outbox.W001"
    assert '"transaction_mode": "IMMEDIATE"' in str(message.hint)


@pytest.mark.parametrize("mode", ["IMMEDIATE", "immediate", "EXCLUSIVE"])
def test_sqlite_with_immediate_transactions_is_fine(sqlite: dict[str, Any], mode: str) -> None:
    sqlite["transaction_mode"] = mode
    assert found_in() == []


def test_server_without_skip_locked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "mysql")
    monkeypatch.setitem(vars(connection.features), "has_select_for_update_skip_locked", False)
    message = only(found_in())
    assert message.id == "django_outbox.E006"
    assert message.is_serious()
    assert "MariaDB 10.6 or later" in str(message.hint)


class Elsewhere:
    """A router that keeps the outbox out of the database."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return app_label != "django_outbox"


def test_database_without_an_outbox_is_left_alone(sqlite: dict[str, Any], settings: Any) -> None:
    settings.DATABASE_ROUTERS = [Elsewhere()]
    assert found_in() == []


# Serializers


AVRO = "django_outbox.serializers.avro.AvroSerializer"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"CLASS": "nothing.here"}, '["CLASS"] cannot be imported'),
        ({"CLASS": "decimal.Decimal"}, '["CLASS"] must name a subclass of Serializer'),
        ({"CLASS": "decimal.Decimal", "OPTIONS": {"value": SECRET}}, '["OPTIONS"] are not valid (InvalidOperation).'),
        ({"CLASS": AVRO}, '["OPTIONS"]: '),
        ({"CLASS": AVRO, "OPTIONS": {"registry": {"url": "http://registry", SECRET: 1}}}, '["OPTIONS"]: '),
        (
            {"CLASS": AVRO, "OPTIONS": {"registry": {"url": "http://registry"}, "schema": "/nothing.avsc"}},
            "cannot be read",
        ),
    ],
)
def test_wrong_serializer_is_found(given: Any, reason: str) -> None:
    with outbox_settings(SERIALIZERS={"order.*": given}):
        message = only(check_settings())
    assert message.id == "django_outbox.E010"
    assert message.msg.startswith('OUTBOX["SERIALIZERS"]["order.*"]')
    assert reason in message.msg
    assert SECRET not in message.msg or f"properties: {SECRET}" in message.msg  # the name of an option is not secret


def test_serializers_are_checked_without_their_registry() -> None:
    options = {"registry": {"url": f"http://user:{SECRET}@127.0.0.1:1"}, "schema": "{event_type}.avsc"}
    with outbox_settings(SERIALIZERS={"order.*": {"CLASS": AVRO, "OPTIONS": options}}):
        assert check_settings() == []


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("fastavro", "avro", "avro"),
        ("jsonschema", "json_schema", "jsonschema"),
        ("google.protobuf", "protobuf", "protobuf"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    missing: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"django_outbox.serializers.{module}"
    for name in list(sys.modules):
        if name in (path, missing) or name.startswith(f"{missing}."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    with outbox_settings(SERIALIZERS={"order.*": {"CLASS": f"{path}.Serializer"}}):
        message = only(check_settings())

    assert f"pip install 'django-kafka-outbox[{extra}]'" in message.msg


# Debezium


@pytest.mark.parametrize(
    ("vendor", "changes", "found"),
    [
        ("postgresql", {}, []),
        ("postgresql", {"PUBLISHER": "debezium"}, []),
        ("sqlite", {"PUBLISHER": "relay"}, []),
        ("sqlite", {"PUBLISHER": "debezium"}, ["'default', which is not PostgreSQL"]),
        ("mysql", {"PUBLISHER": "debezium"}, ["'default', which is not PostgreSQL"]),
        ("postgresql", {"PUBLISHER": "relay", "WIRE_FORMAT": "envelope"}, []),
        ("postgresql", {"PUBLISHER": "debezium", "WIRE_FORMAT": "envelope"}, ["the wire format 'envelope'"]),
    ],
)
def test_debezium_needs_postgresql_and_cloudevents(
    monkeypatch: pytest.MonkeyPatch, vendor: str, changes: dict[str, Any], found: list[str]
) -> None:
    monkeypatch.setattr(connection, "vendor", vendor)
    with outbox_settings(**changes):
        messages = check_settings()
    assert [message.id for message in messages] == ["django_outbox.E013"] * len(found)
    for message, text in zip(messages, found, strict=True):
        assert text in message.msg
        assert message.hint


def test_a_wrong_publisher_is_reported_once() -> None:
    with outbox_settings(PUBLISHER="polling"):
        assert only(check_settings()).id == "django_outbox.E002"
