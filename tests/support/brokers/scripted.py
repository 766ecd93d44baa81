"""A broker with scripted answers, for answers that a real one gives only at an unlucky moment."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

PRODUCE, METADATA, FIND_COORDINATOR, API_VERSIONS, INIT_PRODUCER_ID = 0, 3, 10, 18, 22

_NONE, _UNKNOWN_TOPIC, _COORDINATOR_NOT_AVAILABLE, _UNSUPPORTED_VERSION = 0, 3, 15, 35
# The newest version that it supports of each request. Requests without an answer below are never answered.
_VERSIONS = {PRODUCE: 7, METADATA: 8, FIND_COORDINATOR: 0, API_VERSIONS: 0, INIT_PRODUCER_ID: 1}


class ScriptedBroker:
    """A cluster of one node, without topics and groups.

    It may answer that the cluster has no nodes, as Kafka's brokers do when they are about to stop.
    """

    def __init__(self) -> None:
        self.port = 0
        self.asked: Counter[str] = Counter()  # metadata requests by client
        self.is_complete_for: int | None = None  # number of complete answers left; None: unlimited
        self.knows_topics = True  # if False, never answers metadata requests
        self.away: list[int] = []  # ports of further nodes, where nothing listens
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.come()

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def come(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = self._start(self._accept)

    def go(self) -> None:
        """Accept no new connections and close all."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.go()

    def _start(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name="scripted", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests, suppress(OSError):
            while size := requests.read(4):
                request = requests.read(int.from_bytes(size))
                answer = self._answer(request)
                if answer is not None:
                    connection.sendall(struct.pack(">i", 4 + len(answer)) + request[4:8] + answer)

    def _answer(self, request: bytes) -> bytes | None:
        api, version, _number, size = struct.unpack_from(">hhih", request)
        if api == API_VERSIONS:
            error = _NONE if version <= _VERSIONS[API_VERSIONS] else _UNSUPPORTED_VERSION
            return struct.pack(">h", error) + _list(struct.pack(">hhh", each, 0, _VERSIONS[each]) for each in _VERSIONS)
        if api == FIND_COORDINATOR:
            return struct.pack(">hi", _COORDINATOR_NOT_AVAILABLE, -1) + _text("") + struct.pack(">i", -1)
        if api == METADATA and self.knows_topics:
            with self._lock:
                answer = self._metadata(_names(request[10 + size :]))
                self.asked[request[10 : 10 + size].decode()] += 1
            return answer
        return None

    def _metadata(self, topics: list[str]) -> bytes:
        all_nodes = [
            struct.pack(">i", number) + _text("127.0.0.1") + struct.pack(">i", port) + _text(None)
            for number, port in enumerate([self.port, *self.away], start=1)
        ]
        nodes = [] if self.is_complete_for == 0 else all_nodes
        if self.is_complete_for:
            self.is_complete_for -= 1
        unknown = [struct.pack(">h", _UNKNOWN_TOPIC) + _text(topic) + bytes(9) for topic in topics]
        return bytes(4) + _list(nodes) + _text("scripted") + struct.pack(">i", 1) + _list(unknown) + bytes(4)


def _names(question: bytes) -> list[str]:
    (count,), names, at = struct.unpack_from(">i", question), [], 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", question, at)
        names.append(question[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return names


def _list(items: Iterable[bytes]) -> bytes:
    items = list(items)
    return struct.pack(">i", len(items)) + b"".join(items)


def _text(text: str | None) -> bytes:
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()
