"""A standby that is nothing but a connection: it replicates from a slot and says which snapshot it still needs."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _receive(connection: socket.socket, wanted: bytes) -> None:
    """Read up to a message of this kind.

    Source: PostgreSQL's manual, "Message Formats".
    """
    while True:
        head = _exactly(connection, 5)
        body = _exactly(connection, struct.unpack("!i", head[1:])[0] - 4)
        if head[:1] == b"E":
            raise AssertionError(body)
        if head[:1] == wanted:
            return


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise AssertionError("the server closed the connection")
        data += more
    return data


@contextmanager
def standby(server: dict[str, Any], slot: str | None, wal: str, snapshot: int) -> Iterator[None]:
    """Replicate, and feed back that a snapshot is needed.

    Args:
        server: settings of the database.
        slot: its name; None: it has none.
        wal: where to begin.
        snapshot: number of the oldest transaction that must stay visible.
    """
    with socket.create_connection((server["HOST"], int(server["PORT"])), timeout=10) as connection:
        options = b"user\0%s\0replication\0true\0\0" % server["USER"].encode()
        connection.sendall(struct.pack("!ii", len(options) + 8, 196608) + options)
        _receive(connection, b"Z")
        source = f"SLOT {slot} PHYSICAL" if slot else "PHYSICAL"
        connection.sendall(_message(b"Q", f"START_REPLICATION {source} {wal}\0".encode()))
        _receive(connection, b"W")
        connection.sendall(_message(b"d", struct.pack("!cqIIII", b"h", 0, snapshot & 0xFFFFFFFF, 0, 0, 0)))
        yield
