"""The configuration of Debezium's connector and its SQL, by the settings."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, CommandParser

from django_outbox.events.writer import Outgoing, encode
from django_outbox.management.commands.outbox_debezium import Command
from django_outbox.operations.connector import HEADERS, PASSWORD, TABLE, Access, connector_config, setup_sql
from tests.support.overrides import outbox_settings

ACCESS = Access(host="db.example", port="5433", database="shop", schema="public", role="outbox_shop")


def test_each_header_of_the_relay_is_one_of_the_connector() -> None:
    message = Outgoing(1, "shop", "id", "order.created", "v1", "outbox", "k", "{}", datetime.now(UTC), 0, "{}")
    record = encode(message, wire_format="cloudevents")
    config = connector_config(ACCESS)
    constant = {config["transforms.versionHeader.headers"], config["transforms.contentType.header"]}
    assert {*HEADERS.values(), *constant} == {name for name, _ in record.headers}
    assert set(HEADERS) <= set(Outgoing._fields)


def test_each_transformation_of_the_chain_has_a_type() -> None:
    config = connector_config(ACCESS)
    types = {name.split(".")[1] for name in config if name.startswith("transforms.") and name.endswith(".type")}
    assert set(config["transforms"].split(",")) == types


def test_slot_and_publication_are_those_of_the_settings() -> None:
    with outbox_settings(SOURCE="My Shop"):
        config = connector_config(ACCESS)
    assert (config["name"], config["slot.name"], config["publication.name"]) == ("outbox_my_shop",) * 3
    with outbox_settings(DEBEZIUM={"SLOT": "one", "PUBLICATION": "two"}):
        config, sql = connector_config(ACCESS), setup_sql(ACCESS)
    assert (config["slot.name"], config["publication.name"]) == ("one", "two")
    assert "pg_create_logical_replication_slot('one', 'pgoutput')" in sql
    assert 'CREATE PUBLICATION "two"' in sql


def test_the_connector_reaches_the_database_as_it_is_told() -> None:
    config = connector_config(ACCESS)
    names = ("hostname", "port", "dbname", "user", "password")
    assert [config[f"database.{name}"] for name in names] == ["db.example", "5433", "shop", "outbox_shop", PASSWORD]
    assert config["table.include.list"] == f"public.{TABLE}"
    assert "database.sslmode" not in config


def test_records_may_be_as_large_as_publish_allows() -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=5_000_000):
        assert int(connector_config(ACCESS)["producer.override.max.request.size"]) > 10_000_000
    with outbox_settings(BROKER={"BACKEND": "shop.brokers.OwnBroker"}):
        assert "producer.override.max.request.size" not in connector_config(ACCESS)


def test_names_are_quoted_as_sql_wants_it() -> None:
    access = Access(host="", port="", database='a"b', schema="My schema", role="o'role")
    with outbox_settings(SOURCE="joe's"):
        sql = setup_sql(access)
    assert 'GRANT CONNECT ON DATABASE "a""b" TO "o\'role";' in sql
    assert f'FOR TABLE "My schema"."{TABLE}"' in sql
    assert "source = 'joe''s'" in sql


@pytest.mark.parametrize("password", ["swordfish", "$swordfish", "${env:swordfish", "${swordfish}", ""])
def test_a_password_is_refused_and_not_shown(password: str) -> None:
    parser = CommandParser(called_from_command_line=False)
    Command().add_arguments(parser)
    with pytest.raises(CommandError, match=r"must be a reference such as \$\{env:NAME\}") as raised:
        parser.parse_args(["--json", "--password", password])
    assert "swordfish" not in str(raised.value)


def test_a_reference_to_a_password_is_taken_as_it_is() -> None:
    parser = CommandParser(called_from_command_line=False)
    Command().add_arguments(parser)
    reference = "${file:/run/secrets/debezium.properties:password}"
    assert parser.parse_args(["--json", "--password", reference]).password == reference
