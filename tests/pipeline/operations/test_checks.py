"""System checks: each fault in the settings is found, once, with an id and a hint."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import connection

from django_outbox.operations.checks.settings import check_databases


def found_in(databases: Any = ("default",)) -> list[CheckMessage]:
    return check_databases(databases=databases)


@pytest.fixture
def sqlite(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the connection look like SQLite's; its options."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(connection, "vendor", "sqlite")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    return options


# Databases


@pytest.mark.django_db
def test_database_of_these_tests_is_fine() -> None:
    assert found_in() == []


@pytest.mark.django_db
def test_whoever_checks_the_database_is_warned(sqlite: dict[str, Any]) -> None:
    assert "django_outbox.W001" in [message.id for message in run_checks(databases=["default"])]


@pytest.mark.django_db
def test_models_have_no_faults() -> None:
    assert [message for message in run_checks(databases=["default"]) if not message.is_silenced()] == []
