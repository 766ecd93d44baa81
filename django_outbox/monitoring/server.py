"""The port that answers probes and scrapes: HTTP by the standard library, in threads that keep nothing from ending."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple

from django_outbox.runner import Stop

log = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
REQUEST_SECONDS = 5.0


class Answer(NamedTuple):
    """What a page says."""

    status: int
    content_type: str
    body: bytes


def plain(status: int, text: str) -> Answer:
    """One line of text."""
    return Answer(status, PLAIN, f"{text}\n".encode())


Page = Callable[[str], Answer]
"""Answers a request, whose ``Accept`` header it gets."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False
    timeout = 0

    def __init__(self, address: str, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((address, port), _Handler)
        self.socket.setblocking(False)  # who asked may be gone before it is accepted

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks for the name of the address, which may take long

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone. Not a traceback for each."""
        log.debug("A request to the metrics port was cut off.", extra={"action": "scrape"})


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "django-outbox"
    sys_version = ""
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        self._reply()

    def do_HEAD(self) -> None:
        self._reply()

    def _reply(self) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _answer(self) -> Answer:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            return plain(404, f"There is nothing here but {', '.join(self.server.pages)}.")
        try:
            return page(self.headers.get("Accept", ""))
        except Exception:  # a worker does not stop for a scrape
            log.debug("A request to the metrics port failed.", exc_info=True, extra={"action": "scrape"})
            return plain(500, "This failed; the worker's log says why on the level DEBUG.")

    def log_message(self, format: str, *args: object) -> None:
        """Not a line for each probe."""


@contextmanager
def serving(address: str, port: int, pages: Mapping[str, Page]) -> Iterator[int]:
    """Answer requests meanwhile; yields the port, which is another one if it was 0.

    Raises:
        OSError: the port cannot be opened.
    """
    server = _Server(address, port, pages)
    end = Stop()

    def serve() -> None:
        while not end.wait(None, server):
            server.handle_request()

    thread = threading.Thread(target=serve, name="outbox-metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        end.request()
        thread.join(REQUEST_SECONDS)
        server.server_close()
        end.close()
