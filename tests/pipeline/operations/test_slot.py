"""The replication slot of Debezium, as status and metrics report it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from django_outbox.operations.counts import unfinished
from tests.support.debezium import execute, query, reading, set_up, tear_down
from tests.support.overrides import outbox_settings

pytestmark = [
    pytest.mark.databases("postgresql", since=15),
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("debezium"),
]


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    with outbox_settings(PUBLISHER="debezium"):
        set_up()
        yield
        tear_down()


def status(*options: str) -> str:
    out = io.StringIO()
    call_command("outbox_status", "--no-broker", *options, stdout=out)
    return out.getvalue()


def slot() -> Any:
    return json.loads(status("--json"))["debezium"]


def test_a_slot_that_is_read_is_active() -> None:
    with reading("outbox_tests"):
        assert slot()["active"]
    assert not slot()["active"]


@pytest.mark.databases("postgresql", since=17)  # older ones do not say since when a slot is not read
def test_a_slot_reports_what_the_server_keeps_for_it() -> None:
    before = slot()
    assert (before["slot"], before["present"], before["wal_status"]) == ("outbox_tests", True, "reserved")
    # In a transaction, which is flushed when it commits.
    (written,) = query("SELECT pg_logical_emit_message(true, 'tests', repeat('x', 1000000)) - '0/0'::pg_lsn")
    assert written
    after = slot()
    assert after["lag_bytes"] - before["lag_bytes"] >= 1_000_000
    assert after["retained_bytes"] >= after["lag_bytes"]
    assert after["lag_seconds"] > 0


def test_a_slot_has_a_line_in_the_text() -> None:
    head, line = status().partition("DEBEZIUM SLOT")[2].splitlines()[:2]
    assert "WAL KEPT" in head
    assert line.startswith("outbox_tests   not read  reserved ")


def test_a_slot_that_does_not_exist_has_another_line() -> None:
    execute("SELECT pg_drop_replication_slot('outbox_tests')")
    assert "The replication slot outbox_tests does not exist: see manage.py outbox_doctor" in status()
    assert slot() == {
        "slot": "outbox_tests",
        "present": False,
        "active": False,
        "wal_status": None,
        "lag_bytes": None,
        "lag_seconds": None,
        "retained_bytes": None,
    }
    execute("SELECT pg_create_logical_replication_slot('outbox_tests', 'pgoutput')")


def test_gauges_come_from_the_slot() -> None:
    found = unfinished("default")["outbox"].slot
    assert found is not None
    assert (found.name, found.present, found.active, found.is_lost) == ("outbox_tests", True, False, False)
    assert found.database == connection.settings_dict["NAME"]


def test_without_debezium_there_is_none() -> None:
    with outbox_settings(PUBLISHER="relay"):
        assert slot() is None
        assert "SLOT" not in status()
        assert unfinished("default")["outbox"].slot is None
