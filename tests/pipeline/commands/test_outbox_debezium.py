"""outbox_debezium: prints what the project's settings say, and nothing secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.support.debezium import printed
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Change the database's settings, for commands that do not connect."""

    def change(**changes: Any) -> None:
        for name, value in changes.items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    return change


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("host", "shown"), [("", "localhost"), ("/run/postgresql", "localhost"), ("db.example", "db.example")]
)
def test_access_is_that_of_the_database(database: Any, host: str, shown: str) -> None:
    database(HOST=host, PORT="", NAME="shop", PASSWORD="swordfish", OPTIONS={"sslmode": "verify-full"})
    config = json.loads(printed("--json"))
    assert (config["database.hostname"], config["database.port"], config["database.dbname"]) == (shown, "5432", "shop")
    assert config["database.sslmode"] == "verify-full"
    assert "swordfish" not in printed("--json") + printed("--sql")


@pytest.mark.databases("postgresql")
def test_options_have_precedence(database: Any) -> None:
    database(HOST="pooler.example", PORT="6432")
    options = ["--host", "db.example", "--port", "5433", "--schema", "shop", "--role", "debezium"]
    config = json.loads(printed("--json", *options))
    names = ("hostname", "port", "user")
    assert [config[f"database.{name}"] for name in names] == ["db.example", "5433", "debezium"]
    assert config["table.include.list"].startswith("shop.")
    sql = printed("--sql", *options)
    assert 'CREATE ROLE "debezium" LOGIN REPLICATION' in sql
    assert 'FOR TABLE "shop".' in sql


@pytest.mark.databases("postgresql")
def test_envelopes_cannot_be_written() -> None:
    with outbox_settings(WIRE_FORMAT="envelope"), pytest.raises(CommandError, match="Debezium cannot write envelopes"):
        printed("--json")


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_other_databases_are_refused() -> None:
    with pytest.raises(CommandError, match=r"carries the outbox of PostgreSQL only, and the database 'default' is"):
        printed("--sql")


def test_one_of_json_and_sql_must_be_chosen() -> None:
    with pytest.raises(CommandError, match="one of the arguments --json --sql is required"):
        call_command("outbox_debezium")
    with pytest.raises(CommandError, match="not allowed with argument"):
        call_command("outbox_debezium", "--json", "--sql")
