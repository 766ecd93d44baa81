"""Migrations, isolation, clocks, routing, engine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from django_outbox.operations.doctor import database
from django_outbox.operations.doctor.base import MODELS, Installation, Level
from tests.support.doctor import limited
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def test_a_pending_migration_is_a_fault(installation: Installation) -> None:
    assert list(database.migrations(installation)) == []
    last = MigrationLoader(connection).graph.leaf_nodes("django_outbox")[0][1]
    MigrationRecorder(connection).record_unapplied("django_outbox", last)
    (finding,) = database.migrations(installation)
    assert finding.level == Level.FAULT
    assert finding.summary == f"1 migration not applied: {last}."
    assert finding.remedy == "manage.py migrate django_outbox"


@pytest.fixture
def set_level() -> Iterator[Any]:
    """Set the isolation level of the session."""
    words = {
        "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL",
        "mysql": "SET SESSION TRANSACTION ISOLATION LEVEL",
    }

    def set_level(level: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"{words[connection.vendor]} {level}")

    yield set_level
    set_level("READ COMMITTED")


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("level", "word"), [("SERIALIZABLE", "sent again"), ("REPEATABLE READ", "")])
def test_a_stricter_isolation_level_is_warned_of(
    installation: Installation, set_level: Any, level: str, word: str
) -> None:
    assert list(database.isolation(installation)) == []
    set_level(level)
    (finding,) = database.isolation(installation)
    assert finding.level == Level.WARNING
    assert finding.summary == f"Transactions are {level}."
    assert word in finding.why
    assert "isolation_level" in finding.remedy


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.parametrize(("seconds", "word"), [(-30, "ahead of"), (30, "behind")])
def test_clocks_that_differ_are_warned_of(installation: Installation, seconds: int, word: str) -> None:
    off = timedelta(seconds=seconds)
    (finding,) = limited(database.clocks, installation, utc_now=lambda: datetime.now(UTC) + off)
    assert finding.level == Level.WARNING
    assert f"s {word} this machine's" in finding.summary
    assert list(database.clocks(installation)) == []


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_clocks_are_compared_in_utc_where_the_session_has_the_project_s_time_zone(
    installation: Installation, settings: Any
) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Kathmandu"
    assert list(database.clocks(installation)) == []
    off = timedelta(seconds=30)
    (finding,) = limited(database.clocks, installation, utc_now=lambda: datetime.now(UTC) - off)
    assert " s ahead of this machine's" in finding.summary


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_a_slow_answer_is_no_wrong_clock(installation: Installation) -> None:
    # Asked for at the beginning of the wait.
    times = iter([datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(seconds=39)])
    assert limited(database.clocks, installation, utc_now=lambda: next(times)) == []


class Router:
    """Sends what a test names to another database."""

    def __init__(self, *labels: str) -> None:
        self.labels = labels

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "other" if model._meta.label in self.labels or model._meta.app_label in self.labels else None


def routing(settings: Any, *labels: str) -> list[tuple[Level, str]]:
    settings.DATABASE_ROUTERS = [Router(*labels)]
    return [(finding.level, finding.summary) for finding in database.routing(Installation("default"))]


def test_an_outbox_beside_the_models_is_fine(settings: Any) -> None:
    assert routing(settings) == []


def test_an_outbox_in_another_database_than_all_models_is_a_fault(settings: Any) -> None:
    found = routing(settings, "django_outbox")
    assert (Level.FAULT, "publish() writes to the database 'other', and this is 'default'.") in found
    assert (Level.FAULT, "tests_app.Effect are written to the database 'default', the outbox to 'other'.") in found


def test_a_part_of_the_outbox_elsewhere_is_a_fault(settings: Any) -> None:
    found = routing(settings, "django_outbox.InboxMessage")
    assert found == [(Level.FAULT, "InboxMessage are not in the database of OutboxMessage, 'default'.")]


def test_some_models_elsewhere_are_a_note_unless_nothing_guards_the_transaction(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The users are the project's own, so to speak, and stay at home.
    auth = apps.get_app_config("auth")
    monkeypatch.setattr(auth, "name", "shop")
    monkeypatch.setattr(auth, "path", "/srv/shop")
    assert [level for level, _ in routing(settings, "tests_app")] == [Level.NOTE]
    with outbox_settings(REQUIRE_TRANSACTION=False):
        assert [level for level, _ in routing(settings, "tests_app")] == [Level.WARNING]


def test_models_of_third_parties_do_not_make_up_for_those_of_the_project(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.get_app_config("auth"), "name", "third_party")  # in site-packages, beside the outbox
    assert [level for level, _ in routing(settings, "tests_app")] == [Level.FAULT]


def test_a_second_outbox_without_a_router_is_a_note() -> None:
    """It is filled by publish(using=...), and nothing is wrong with that."""
    (finding,) = database.routing(Installation("events"))
    assert finding.level == Level.NOTE
    assert finding.summary == "publish() writes to the database 'default' unless it is called with using='events'."


@pytest.mark.databases("mariadb")
@pytest.mark.django_db(transaction=True)
def test_a_table_without_transactions_is_a_fault(installation: Installation) -> None:
    assert list(database.engine(installation)) == []
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_outbox_activity ENGINE = MyISAM")
        try:
            (finding,) = database.engine(installation)
            assert finding.level == Level.FAULT
            cursor.execute(finding.remedy)
            assert list(database.engine(installation)) == []
        finally:
            cursor.execute("ALTER TABLE django_outbox_activity ENGINE = InnoDB")


def test_all_tables_are_examined() -> None:
    models = apps.get_app_config("django_outbox").get_models()
    assert set(MODELS) == {model for model in models if not model._meta.proxy}
