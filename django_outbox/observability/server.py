"""The port that answers probes and scrapes: HTTP by the standard library, in threads that keep nothing from ending.

Whoever reaches the port can connect as often as they like, and say nothing or little. That must cost the worker neither
its file descriptors nor its answers to probes: so many requests are in hand at most, each has one deadline, and
when there are more, the oldest makes room, since an honest one is over within milliseconds.
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
"""From the connection to the last byte of the answer."""
MOST_REQUESTS = 20
PAUSE_SECONDS = 0.1
"""Before the next try when there was no room, or the process has no file descriptor left."""


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
    request_queue_size = 128  # so that a probe has its place in a crowd
    timeout = 0

    def __init__(self, address: str, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._deadlines: dict[socket.socket, float] = {}  # of the requests in hand, the oldest first
        self._changed = threading.Condition()
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((address, port), _Handler)
        self.socket.setblocking(False)  # who asked may be gone before it is accepted

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks for the name of the address, which may take long

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take the next connection, for which there is room.

        Raises:
            OSError: there is none now; it stays in the queue.
        """
        self._make_room()
        try:
            return super().get_request()
        except OSError:  # it has gone, or there is no descriptor for it, and it is still there at the next look
            self.pause()
            raise

    def _make_room(self) -> None:
        with self._changed:
            if len(self._deadlines) >= MOST_REQUESTS:
                for oldest in [request for request, deadline in self._deadlines.items() if deadline < math.inf][:1]:
                    self._cut_off(oldest)
            if not self._changed.wait_for(lambda: len(self._deadlines) < MOST_REQUESTS, PAUSE_SECONDS):
                raise BlockingIOError

    def pause(self) -> None:
        """Wait a moment, or until a request is over, which leaves a descriptor to the next one."""
        with self._changed:
            self._changed.wait(PAUSE_SECONDS)

    def cut_off_overdue(self) -> float | None:
        """Cut off the requests whose time is over; returns the seconds until the next one's, None if there is none."""
        with self._changed:
            now = time.monotonic()
            for request, deadline in self._deadlines.items():
                if deadline <= now:
                    self._cut_off(request)
            first = min(self._deadlines.values(), default=math.inf)
            return None if first == math.inf else first - now

    def _cut_off(self, request: socket.socket) -> None:
        """Have the thread of a request find its connection closed, and end."""
        self._deadlines[request] = math.inf
        with suppress(OSError):  # the other end was faster
            request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:  # or another thread might cut off what has the same descriptor by then
            super().shutdown_request(request)
            self._deadlines.pop(request, None)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone, or was cut off. Not a traceback for each."""
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
        while not end.requested:
            try:
                if not end.wait(server.cut_off_overdue(), server):
                    server.handle_request()
            except OSError:  # whatever the system is short of, this thread is the only one that there is
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
