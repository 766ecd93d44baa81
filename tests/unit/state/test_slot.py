"""What PostgreSQL says of a replication slot."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.state import slot
from django_outbox.state.slot import Slot, debezium_slot, replication_slot
from tests.support.overrides import outbox_settings


class Cursor:
    """Has one row; notes the parameters of its query."""

    def __init__(self, row: tuple[Any, ...] | None) -> None:
        self.row = row
        self.parameters: list[Any] = []

    def execute(self, statement: str, parameters: list[Any]) -> None:
        self.parameters = parameters

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.row

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (None, Slot("orders")),
        (
            (True, "logical", "shop", "pgoutput", "reserved", 10, 20, 30, 1.5),
            Slot(
                "orders",
                present=True,
                active=True,
                wal_status="reserved",
                lag_bytes=10,
                lag_seconds=1.5,
                retained_bytes=20,
                left_bytes=30,
                kind="logical",
                database="shop",
                plugin="pgoutput",
            ),
        ),
    ],
)
def test_a_slot_is_what_the_server_says(
    monkeypatch: pytest.MonkeyPatch, row: tuple[Any, ...] | None, expected: Slot
) -> None:
    cursor = Cursor(row)
    monkeypatch.setattr(slot, "connections", {"shop": SimpleNamespace(cursor=lambda: closing(cursor))})
    with outbox_settings(DEBEZIUM={"SLOT": "orders"}):
        assert replication_slot("shop") == expected
    assert cursor.parameters == ["orders"]


@pytest.mark.parametrize(
    ("publisher", "vendor", "has_slot"),
    [
        ("debezium", "postgresql", True),
        ("debezium", "mysql", False),
        ("debezium", "sqlite", False),
        ("relay", "postgresql", False),
    ],
)
def test_debezium_has_a_slot_where_it_publishes_from_postgresql(
    monkeypatch: pytest.MonkeyPatch, publisher: str, vendor: str, has_slot: bool
) -> None:
    server = SimpleNamespace(vendor=vendor, cursor=lambda: closing(Cursor(None)))
    monkeypatch.setattr(slot, "connections", {"shop": server})
    with outbox_settings(PUBLISHER=publisher, DEBEZIUM={"SLOT": "orders"}):
        assert debezium_slot("shop") == (Slot("orders") if has_slot else None)
