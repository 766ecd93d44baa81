"""A pooler in transaction mode before PostgreSQL, as PgBouncer is one: each transaction meets the next session in turn.

It runs in the test's own process, so that no pooler need be installed. Source: PostgreSQL's manual, "Frontend/Backend
Protocol".
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from types import TracebackType
from typing import Self

SESSIONS = 3
WITHOUT_ENCRYPTION = (80877103, 80877104)  # what a client asks for that would like TLS or GSSAPI


class Pooler:
    """Lends the sessions of the server at ``target``, a port of this machine, to the clients at ``port``."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._idle: queue.Queue[Stream] = queue.Queue()
        self._startup = self._greeting = b""
        self._lock = threading.Lock()
        self._open: list[Stream] = []
        threading.Thread(target=self._accept, name="pooler", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for stream in self._open:
            stream.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = Stream(self._listener.accept()[0])
                self._open.append(client)
                threading.Thread(target=self._serve, args=[client], name="pooler", daemon=True).start()

    def _serve(self, client: Stream) -> None:
        with contextlib.suppress(OSError), client:
            startup = client.read_startup()
            while struct.unpack("!I", startup[4:8])[0] in WITHOUT_ENCRYPTION:
                client.write(b"N")
                startup = client.read_startup()
            self._connect(startup)
            client.write(self._greeting)
            while True:
                self._lend(client)

    def _connect(self, startup: bytes) -> None:
        """Open the sessions as the first client wants them. All clients are alike in that."""
        with self._lock:
            if not self._greeting:
                self._startup = startup
                messages, *_ = [self._open_session() for _ in range(SESSIONS)]
                # The process and the key by which a statement is cancelled are of the pooler's own making.
                self._greeting = b"".join(
                    struct.pack("!cIII", b"K", 12, 0, 0) if message[:1] == b"K" else message for message in messages
                )

    def _open_session(self) -> list[bytes]:
        server = Stream(socket.create_connection(("127.0.0.1", self._target)))
        self._open.append(server)
        server.write(self._startup)
        messages = server.read_until_ready()
        self._idle.put(server)
        return messages

    def _lend(self, client: Stream) -> None:
        """Pass on one transaction to the session that has been idle for longest."""
        message = client.read()
        server = self._idle.get()
        try:
            while not self._pass_on(message, client, server):
                message = client.read()
        except OSError:
            server.close()  # which ends its transaction
            self._open_session()
            raise
        self._idle.put(server)

    def _pass_on(self, message: bytes, client: Stream, server: Stream) -> bool:
        """Let a message be answered if it wants an answer; True if no transaction is open after it."""
        server.write(message)
        if message[:1] not in b"QS":  # a query, or the end of several messages
            return False
        answers = server.read_until_ready()
        client.write(b"".join(answers))
        return answers[-1][-1:] == b"I"


class Stream:
    """Messages of the protocol over a socket."""

    def __init__(self, end: socket.socket) -> None:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._end = end
        self._file = end.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads here
        self._file.close()
        self._end.close()

    def write(self, data: bytes) -> None:
        self._end.sendall(data)

    def read(self) -> bytes:
        """One message, with its type and its length.

        Raises:
            OSError: the other end is gone, or says that it goes.
        """
        head = self._exactly(5)
        if head[:1] == b"X":
            raise ConnectionResetError
        return head + self._exactly(struct.unpack("!I", head[1:])[0] - 4)

    def read_startup(self) -> bytes:
        """The first message of a client, which has no type."""
        head = self._exactly(4)
        return head + self._exactly(struct.unpack("!I", head)[0] - 4)

    def read_until_ready(self) -> list[bytes]:
        """The server's messages until it waits for the next one."""
        messages = [self.read()]
        while messages[-1][:1] != b"Z":
            messages.append(self.read())
        return messages

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except ValueError as error:  # closed just now by another thread
            raise ConnectionResetError from error
        if len(data) < size:
            raise ConnectionResetError
        return data
