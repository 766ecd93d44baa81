"""MySQL and MariaDB get no statement that they would answer by closing the connection."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from django.db import DatabaseError

from django_outbox.models import InboxMessage
from django_outbox.state import inbox

RESERVE = 2**18
"""Room for the other columns; statements without as much are never too large."""


class Server:
    """Says how large a statement may be; notes what it is asked."""

    def __init__(self, limit: int, vendor: str = "mysql") -> None:
        self.limit = limit
        self.vendor = vendor
        self.asked: list[str] = []

    def cursor(self) -> Any:
        return closing(self)

    def execute(self, statement: str) -> None:
        self.asked.append(statement)

    def fetchone(self) -> tuple[int]:
        return (self.limit,)

    def close(self) -> None: ...


def require_room(monkeypatch: pytest.MonkeyPatch, server: Server, *rows: InboxMessage) -> None:
    monkeypatch.setattr(inbox, "connections", {"shop": server})
    inbox._require_room(rows, "shop")


def row_of(size: int, **fields: Any) -> InboxMessage:
    """A row that takes up to so many bytes, with what the other fields take."""
    empty = len(json.dumps([None, {}]))
    return InboxMessage(payload=None, headers={}, **{"raw_value": b"v" * (size // 2 - empty), **fields})


@pytest.mark.parametrize(
    "rows",
    [
        [row_of(400_000)],
        [row_of(400_000, raw_key=b"k" * 50_000, raw_value=b"v" * (150_000 - len("[null, {}]")))],
        [row_of(250_000), row_of(150_000)],
        [InboxMessage(payload="p" * (200_000 - len('["", {"a": "b"}]')), headers={"a": "b"})],
    ],
    ids=["a value", "key and value", "two rows", "a payload"],
)
def test_rows_need_twice_their_characters_and_room_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, rows: list[InboxMessage]
) -> None:
    require_room(monkeypatch, Server(400_000 + RESERVE), *rows)
    with pytest.raises(DatabaseError) as refused:
        require_room(monkeypatch, Server(400_000 + RESERVE - 1), *rows)
    assert str(refused.value) == (
        f"the statement takes up to 400000 bytes; the database's max_allowed_packet is {400_000 + RESERVE - 1}"
    )


@pytest.mark.parametrize(("size", "asked"), [(RESERVE - 2, []), (RESERVE, ["SELECT @@max_allowed_packet"])])
def test_the_server_is_asked_only_for_large_rows(monkeypatch: pytest.MonkeyPatch, size: int, asked: list[str]) -> None:
    server = Server(2**24)
    require_room(monkeypatch, server, row_of(size))
    assert server.asked == asked


@pytest.mark.parametrize("vendor", ["postgresql", "sqlite"])
def test_other_databases_have_no_such_limit(monkeypatch: pytest.MonkeyPatch, vendor: str) -> None:
    server = Server(1, vendor)
    require_room(monkeypatch, server, row_of(RESERVE))
    assert server.asked == []
