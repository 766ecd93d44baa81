"""A network between client and broker that can hang and break."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

# Closing a socket with this set resets the connection and drops unsent data.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 4096


class Proxy:
    """Forwards connections at `port` to the port `target` of this machine.

    Its buffers are small, so that data sent into a stalled connection stays with the client.
    """

    def __init__(self) -> None:
        self.target = 0
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[socket.socket] = set()
        self._ended: set[socket.socket] = set()
        self.held = 0  # chunks that wait for the end of a stall
        self.alter: Callable[[bytes], bytes] = bytes  # changes each chunk
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open) // 2

    def stall(self) -> None:
        """Keep connections open but forward nothing; new connections are accepted and hang, too."""
        self._flowing.clear()

    def heal(self) -> None:
        """Continue where `stall` stopped, and forward data unchanged."""
        self.alter = bytes
        self._flowing.set()

    def cut(self) -> None:
        """Reset all connections. New ones are accepted."""
        for end in list(self._open):
            _reset(end)

    def close(self) -> None:
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, work: Callable[..., None], *ends: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=work, args=ends, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
            else:
                self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        ends = {client, server}
        self._open |= ends
        for end in ends:  # else the second chunk of a message waits 40 ms for the delayed acknowledgment of the first
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = self._start(self._pass_on, server, client)
        self._pass_on(client, server)
        answers.join()
        for end in ends:
            end.close()
        self._open -= ends

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK):
                if not self._flowing.is_set():
                    self.held += 1
                    self._flowing.wait()
                    self.held -= 1
                    if _was_reset(source):  # lost on the way, as nobody sends it again
                        raise ConnectionResetError
                sink.sendall(self.alter(data))
            sink.shutdown(socket.SHUT_WR)  # the other direction may have more data
        except OSError:
            for end in (source, sink):
                _reset(end)


def _was_reset(end: socket.socket) -> bool:
    try:
        poll = select.poll()
        poll.register(end, 0)
    except ValueError:  # the thread of the other direction has closed it
        return True
    return any(flags & select.POLLERR for _, flags in poll.poll(0))


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        # Wakes the thread that reads here; closing alone would not.
        end.shutdown(socket.SHUT_RD)
    end.close()
