"""What the checks find out from a database's server, and from the routers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection, connections

from django_outbox.operations.checks.server import check_routing, check_servers


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def ids(databases: Any = ("default",)) -> list[str]:
    found = check_servers(databases=databases)
    assert all(message.hint for message in found)
    return [str(message.id) for message in found]


@pytest.mark.django_db
def test_server_of_these_tests_is_fine() -> None:
    assert ids() == []


def test_no_server_is_asked_unless_it_is_named() -> None:
    assert ids(None) == []


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_a_stricter_isolation_level_is_warned_of() -> None:
    words = "CHARACTERISTICS AS " if connection.vendor == "postgresql" else ""
    execute(f"SET SESSION {words}TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        assert ids() == ["django_outbox.W004"]
        assert "django_outbox.W004" in [message.id for message in run_checks(databases=["default"])]
    finally:
        connection.close()


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_stricter_isolation_level_of_the_settings_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Psycopg tells it to the server with each transaction, and not before."""
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    options = {**connection.settings_dict["OPTIONS"], "isolation_level": IsolationLevel.SERIALIZABLE}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    connection.close()
    try:
        assert ids() == ["django_outbox.W004"]
    finally:
        connection.close()


@pytest.mark.databases("mariadb")
@pytest.mark.django_db(transaction=True)
def test_a_table_without_transactions_is_an_error() -> None:
    execute("ALTER TABLE django_outbox_activity ENGINE = MyISAM")
    try:
        assert ids() == ["django_outbox.E007"]
    finally:
        execute("ALTER TABLE django_outbox_activity ENGINE = InnoDB")


@pytest.fixture
def other_encoding() -> Iterator[None]:
    """Let the database be one that cannot hold every text."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "mysql":
        execute(f"ALTER DATABASE {name} CHARACTER SET latin1")
        connection.close()
        yield
        execute(f"ALTER DATABASE {name} CHARACTER SET utf8mb4")
        connection.close()
    else:
        libc = "LOCALE_PROVIDER libc" if connection.get_database_version() >= (15,) else ""
        execute(f"CREATE DATABASE latin ENCODING 'LATIN1' {libc} LOCALE 'C' TEMPLATE template0")
        connection.close()
        connection.settings_dict["NAME"] = "latin"
        yield
        connection.close()
        connection.settings_dict["NAME"] = name
        execute("DROP DATABASE latin")


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("other_encoding")
def test_an_encoding_that_cannot_hold_every_text_is_an_error() -> None:
    assert ids() == ["django_outbox.E008"]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_a_server_that_does_not_answer_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setitem(connections.databases["default"], "PORT", "1")
    monkeypatch.setitem(connection.settings_dict, "PORT", "1")
    assert ids() == []


# Routers


class Router:
    """Sends what a test names to another database, and migrates the outbox where it is told to."""

    def __init__(self, *labels: str, migrates: bool = True) -> None:
        self.labels = labels
        self.migrates = migrates

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "other" if model._meta.label in self.labels or model._meta.app_label in self.labels else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return self.migrates


@pytest.mark.parametrize(
    ("router", "text"),
    [
        (Router("django_outbox.Worker"), "Worker are written to another database than OutboxMessage, to 'default'."),
        (Router("django_outbox"), "DATABASE_ROUTERS route the outbox to 'other', which is not in DATABASES."),
        (Router(migrates=False), "The outbox is written to the database 'default', but DATABASE_ROUTERS do not"),
    ],
)
def test_routers_that_tear_the_outbox_apart_are_an_error(settings: Any, router: Router, text: str) -> None:
    assert check_routing() == []
    settings.DATABASE_ROUTERS = [router]
    (message,) = check_routing()
    assert (message.id, bool(message.hint)) == ("django_outbox.E009", True)
    assert message.msg.startswith(text)


def test_an_outbox_beside_none_of_the_project_s_models_is_warned_of(settings: Any, monkeypatch: Any) -> None:
    """A rolled back order would leave its message behind, and nothing else would say so."""
    monkeypatch.setitem(connections.databases, "other", connection.settings_dict)
    settings.DATABASE_ROUTERS = [Router("django_outbox")]
    # Without databases: whether Django's own checks ask the other one depends on its version.
    (message,) = (each for each in run_checks(databases=[]) if str(each.id).startswith("django_outbox."))
    assert (message.id, bool(message.hint)) == ("django_outbox.W009", True)
    assert "tests_app.Effect are written to the database 'default', the outbox to 'other'." in message.msg


def test_an_outbox_beside_the_project_s_models_is_fine(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(connections.databases, "other", connection.settings_dict)
    settings.DATABASE_ROUTERS = [Router("django_outbox", "tests_app")]
    assert check_routing() == []
