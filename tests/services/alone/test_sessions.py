"""Deadlines of the server, sessions that vanish, notifications that do not arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from django_outbox.operations.doctor import sessions
from django_outbox.operations.doctor.base import Installation, Level
from django_outbox.worker import notify
from django_outbox.worker.notify import Listener
from tests.support.doctor import limited
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def set_default() -> Iterator[Any]:
    """Change a setting of PostgreSQL for all new sessions with this database."""
    names: list[str] = []
    quoted = connection.ops.quote_name(connection.settings_dict["NAME"])

    def execute(sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {quoted} {sql}")
        connection.close()

    def set_default(name: str, value: str) -> None:
        names.append(name)
        execute(f"SET {name} = '{value}'")

    yield set_default
    for name in names:
        execute(f"RESET {name}")


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_servers_as_they_come_end_nothing_too_early(installation: Installation) -> None:
    assert list(sessions.deadlines(installation)) == []


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("idle_in_transaction_session_timeout", Level.FAULT),
        ("transaction_timeout", Level.FAULT),
        ("statement_timeout", Level.WARNING),
        ("lock_timeout", Level.WARNING),
    ],
)
def test_a_deadline_shorter_than_the_brokers_is_found(
    installation: Installation, set_default: Any, name: str, level: Level
) -> None:
    set_default(name, "5s")
    (finding,) = sessions.deadlines(installation)
    assert finding.level == level
    assert finding.summary == f"The server has {name} = 5 s, and PUBLISH_TIMEOUT is 15 s."
    assert finding.remedy.startswith(f"ALTER ROLE postgres SET {name} = '45s'")
    set_default(name, "45s")
    assert list(sessions.deadlines(installation)) == []


@pytest.mark.databases("postgresql")
def test_remedies_quote_roles_where_that_is_needed(installation: Installation, set_default: Any) -> None:
    set_default("lock_timeout", "5s")
    with connection.cursor() as cursor:
        cursor.execute('CREATE ROLE "sales-app"; SET ROLE "sales-app"')
        try:
            (finding,) = sessions.deadlines(installation)
        finally:
            cursor.execute('RESET ROLE; DROP ROLE "sales-app"')
    assert finding.remedy.startswith('ALTER ROLE "sales-app" SET lock_timeout = ')


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize(
    ("name", "level"), [("wait_timeout", Level.FAULT), ("innodb_lock_wait_timeout", Level.WARNING)]
)
def test_a_deadline_of_mysql_shorter_than_the_brokers_is_found(
    installation: Installation, name: str, level: Level
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION {name} = 5")
    try:
        (finding,) = sessions.deadlines(installation)
        assert (finding.level, name in finding.summary) == (level, True)
    finally:
        connection.close()


@pytest.mark.databases("postgresql")
def test_a_server_on_another_machine_that_notices_late_who_vanished_is_noted(
    installation: Installation, set_default: Any
) -> None:
    assert list(sessions.vanished_sessions(installation)) == []  # here both would vanish together
    (finding,) = limited(sessions.vanished_sessions, installation, IS_REMOTE="SELECT true")
    assert finding.level == Level.NOTE
    assert "ALTER SYSTEM SET tcp_keepalives_idle = 60" in finding.remedy
    set_default("idle_in_transaction_session_timeout", "60s")
    assert limited(sessions.vanished_sessions, installation, IS_REMOTE="SELECT true") == []


@pytest.mark.databases("postgresql")
def test_a_server_that_looks_after_its_connections_is_fine(installation: Installation, set_default: Any) -> None:
    set_default("tcp_keepalives_idle", "60")
    assert limited(sessions.vanished_sessions, installation, IS_REMOTE="SELECT true") == []


@pytest.mark.databases("postgresql")
def test_notifications_that_do_not_arrive_are_warned_of(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with outbox_settings(NOTIFY=True):
        assert list(sessions.notifications(installation)) == []
        # As behind a pooler that lends a connection for a transaction.
        monkeypatch.setattr(notify, "SELF_TEST_SECONDS", 0.05)
        monkeypatch.setattr(Listener, "_is_readable", lambda self, seconds: False)
        (finding,) = sessions.notifications(installation)
        assert finding.level == Level.WARNING
    assert list(sessions.notifications(installation)) == []  # not wanted
