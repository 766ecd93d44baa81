"""A STOMP server that only answers frames, and counts what was sent: the least that a broker can cost."""

from __future__ import annotations

import socketserver
import threading
from typing import Self

CONNECTED = b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"


class StompServer(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1 until the block ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.ids: set[str] = set()
        """The ``dop-msg-id`` of each message that was sent."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Connection(socketserver.BaseRequestHandler):
    server: StompServer

    def handle(self) -> None:
        buffer = b""
        while data := self.request.recv(1 << 16):
            *frames, buffer = (buffer + data).split(b"\0")
            for frame in frames:
                self._answer(*parse(frame))

    def _answer(self, command: str, headers: dict[str, str]) -> None:
        if command == "SEND":
            self.server.ids.add(headers["dop-msg-id"])
        elif command in ("CONNECT", "STOMP"):
            self.request.sendall(CONNECTED)
        if receipt := headers.get("receipt"):
            self.request.sendall(f"RECEIPT\nreceipt-id:{receipt}\n\n\0".encode())


def parse(frame: bytes) -> tuple[str, dict[str, str]]:
    """Command and headers of a frame, which may begin with the line ends that follow the one before."""
    head = frame.lstrip(b"\r\n").partition(b"\n\n")[0].decode()
    command, *lines = head.splitlines()
    return command, dict(line.split(":", 1) for line in lines)
