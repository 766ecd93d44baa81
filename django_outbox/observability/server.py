"""The HTTP server for probes and metrics, in daemon threads.

Clients may open many connections and send nothing. That must cost the worker neither its file descriptors nor its
answers to probes: the number of open requests is limited, each has a deadline, and the oldest is dropped for a new one.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple

from django_outbox.worker.stop import Stop

log = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
REQUEST_SECONDS = 5.0
"""From the connection to the last byte of the response."""
MOST_REQUESTS = 20
PAUSE_SECONDS = 0.1
"""Before the next attempt when there was no room, or no file descriptor."""


class Response(NamedTuple):
    """The response of a page."""

    status: int
    content_type: str
    body: bytes


def plain(status: int, text: str) -> Response:
    """One line of text."""
    return Response(status, PLAIN, f"{text}\n".encode())


Page = Callable[[str], Response]
"""Returns the response to a request with this ``Accept`` header."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 128  # room for probes among many connections
    timeout = 0

    def __init__(self, address: str, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._deadlines: dict[socket.socket, float] = {}  # of the open requests, the oldest first
        self._changed = threading.Condition()
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((address, port), _Handler)
        self.socket.setblocking(False)  # the client may disconnect before accept()

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's looks up the host name, which may be slow

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next connection, after making room for it.

        Raises:
            OSError: not possible now; the connection stays queued.
        """
        with self._changed:
            if len(self._deadlines) >= MOST_REQUESTS:
                for oldest in [request for request, deadline in self._deadlines.items() if deadline < math.inf][:1]:
                    self._drop(oldest)
            if not self._changed.wait_for(lambda: len(self._deadlines) < MOST_REQUESTS, PAUSE_SECONDS):
                raise BlockingIOError
        try:
            return super().get_request()
        except OSError:  # it has disconnected, or there is no file descriptor left
            self.pause()
            raise

    def pause(self) -> None:
        """Wait a moment, or until a request ends and frees its file descriptor."""
        with self._changed:
            self._changed.wait(PAUSE_SECONDS)

    def drop_overdue(self) -> float | None:
        """Drop requests past their deadline. Returns the seconds until the next deadline; None if there is none."""
        with self._changed:
            now = time.monotonic()
            for request, deadline in self._deadlines.items():
                if deadline <= now:
                    self._drop(request)
            first = min(self._deadlines.values(), default=math.inf)
            return None if first == math.inf else first - now

    def _drop(self, request: socket.socket) -> None:
        """Close the connection of a request, which ends its thread."""
        self._deadlines[request] = math.inf
        with suppress(OSError):  # the client was faster
            request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:  # under the lock: the file descriptor may be reused at once
            super().shutdown_request(request)
            self._deadlines.pop(request, None)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client disconnected or was dropped: no traceback."""
        log.debug("A request to the metrics port was dropped.", extra={"action": "scrape"})


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "django-outbox"
    sys_version = ""
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> Response:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            return plain(404, f"Not found. Available: {', '.join(self.server.pages)}.")
        try:
            return page(self.headers.get("Accept", ""))
        except Exception:  # a failed request must not stop a worker
            log.debug("A request to the metrics port failed.", exc_info=True, extra={"action": "scrape"})
            return plain(500, "Internal error; the worker logs it at the level DEBUG.")

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not logged."""


@contextmanager
def serving(address: str, port: int, pages: Mapping[str, Page]) -> Iterator[int]:
    """Serve requests inside the block; yields the port.

    Raises:
        OSError: the port cannot be opened.
    """
    server = _Server(address, port, pages)
    end = Stop()

    def serve() -> None:
        while not end.requested:
            try:
                if not end.wait(server.drop_overdue(), server):
                    server.handle_request()
            except OSError:  # out of some resource: this thread must go on
                server.pause()

    thread = threading.Thread(target=serve, name="outbox-metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        end.request()
        thread.join(REQUEST_SECONDS)
        server.server_close()
        end.close()
