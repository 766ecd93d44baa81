"""The little of Kafka's protocol that tells whether a broker is ready."""

from __future__ import annotations

import socket
import struct

API_VERSIONS = 18


def broker_answers(host: str, port: int, *, timeout: float = 2) -> None:
    """Ask the broker which requests it supports; raise OSError unless it answers.

    By hand, since a client library retries, waits and logs on its own where a single try is wanted.
    """
    client_id = b"readiness"
    # api key, api version 0, correlation id, client id
    request = struct.pack(f">hhih{len(client_id)}s", API_VERSIONS, 0, 1, len(client_id), client_id)
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            head = answer.read(10)
    if len(head) < 10:
        raise ConnectionError(f"{host}:{port} closed the connection")
    _size, correlation_id, error = struct.unpack(">iih", head)
    if correlation_id != 1 or error:
        raise ConnectionError(f"{host}:{port} answered with error {error}")
