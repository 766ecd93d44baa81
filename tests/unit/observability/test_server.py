"""The port of probes and scrapes: answers in time, ends at once, and is no way into the worker."""

from __future__ import annotations

import errno
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from socketserver import TCPServer
from typing import Any

import pytest

from django_outbox.observability import server
from django_outbox.observability.server import MOST_REQUESTS, PAUSE_SECONDS, Page, Response, plain, serving
from tests.support.processes import no_more_descriptors, wait_until

HOST = "127.0.0.1"


def broken(accept: str) -> Response:
    raise RuntimeError("secret of the worker")


PAGES: dict[str, Page] = {
    "/healthz": lambda accept: plain(200, "alive"),
    "/echo": lambda accept: plain(503, accept),
    "/broken": broken,
}


def ask(port: int, path: str = "/healthz", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(HOST, 0, PAGES) as port:
        yield port


def test_pages_answer(port: int) -> None:
    assert ask(port) == (200, "alive\n")
    assert ask(port, "/healthz?verbose=1") == (200, "alive\n")
    assert ask(port, "/echo", Accept="text/fancy") == (503, "text/fancy\n")
    assert ask(port, method="HEAD") == (200, "")


def test_other_pages_and_methods_are_refused_plainly(port: int) -> None:
    assert ask(port, "/") == (404, "Not found. Available: /healthz, /echo, /broken.\n")
    assert ask(port, "/../etc/passwd")[0] == 404
    assert ask(port, method="POST")[0] == 501


def test_a_page_that_fails_says_nothing_of_why_and_the_next_one_answers(port: int) -> None:
    status, text = ask(port, "/broken")
    assert status == 500
    assert "secret" not in text
    assert ask(port)[0] == 200


def test_a_client_that_says_nothing_keeps_nobody_waiting(port: int) -> None:
    with socket.create_connection((HOST, port)), socket.create_connection((HOST, port)) as rude:
        rude.sendall(b"GET /hea")
        assert ask(port)[0] == 200


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection on which it has said nothing."""
    client.settimeout(0.001)
    try:
        return client.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_slow_clients_are_so_many_at_most_and_the_oldest_make_room_for_a_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 60.0)
    others = set(threading.enumerate())
    most = 0
    with serving(HOST, 0, PAGES) as port, ExitStack() as stack:
        clients = []
        for _ in range(3 * MOST_REQUESTS):
            clients.append(stack.enter_context(socket.create_connection((HOST, port))))
            clients[-1].sendall(b"GET /hea")
            most = max(most, len(set(threading.enumerate()) - others))
        wait_until(lambda: all(map(is_closed, clients[: 2 * MOST_REQUESTS])), what="the oldest are gone")
        assert not any(map(is_closed, clients[2 * MOST_REQUESTS :]))
        assert ask(port) == (200, "alive\n")
        assert is_closed(clients[2 * MOST_REQUESTS])
        assert not is_closed(clients[-1])
    assert most < 2 * MOST_REQUESTS, "some are not quite gone when the next one comes"


def test_a_page_that_hangs_keeps_its_place_and_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_REQUESTS", 2)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 3600.0)
    begun, end = threading.Semaphore(0), threading.Event()

    def hanging(accept: str) -> Response:
        begun.release()
        end.wait()
        return plain(200, "late")

    with serving(HOST, 0, {**PAGES, "/hanging": hanging}) as port, ExitStack() as stack:
        client, _ = [stack.enter_context(socket.create_connection((HOST, port))) for _ in range(2)]
        client.sendall(b"GET /hanging HTTP/1.0\r\n\r\n")
        assert begun.acquire(timeout=30)
        try:
            assert ask(port) == (200, "alive\n")
        finally:
            end.set()


def test_a_request_has_one_deadline_however_often_something_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)  # less than a client may take between two bytes

    with serving(HOST, 0, PAGES) as port, socket.create_connection((HOST, port)) as client:

        def one_byte_more() -> bool:
            try:
                client.sendall(b"G")
            except ConnectionError:
                return True
            return is_closed(client)

        wait_until(one_byte_more, what="it is cut off")
        assert ask(port)[0] == 200


def test_without_a_file_descriptor_the_next_connection_waits_until_there_is_one(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []
    accept = TCPServer.get_request

    def noted(self: TCPServer) -> Any:
        tried.append(time.monotonic())
        return accept(self)

    monkeypatch.setattr(TCPServer, "get_request", noted)
    with socket.socket() as client:
        client.settimeout(10)
        with no_more_descriptors():
            client.connect((HOST, port))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            wait_until(lambda: len(tried) >= 4, what="it tries again and again")
            pauses = [after - before for before, after in pairwise(tried)]
        assert client.recv(100).startswith(b"HTTP/1.0 200")
    assert min(pauses) > 0.9 * PAUSE_SECONDS, "not a loop that takes the processor"


def test_whatever_goes_wrong_while_it_waits_it_goes_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[None] = []

    def fail(self: TCPServer) -> None:
        failed.append(None)
        if len(failed) == 2:
            monkeypatch.undo()
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(TCPServer, "handle_request", fail)
    assert ask(port)[0] == 200
    assert len(failed) == 2


def test_nonsense_is_survived(port: int) -> None:
    for nonsense in (b"\0\xff\n\n", b"GET " + b"x" * 100_000 + b"\n\n", b"GET /healthz HTTP/9.9\r\n\r\n"):
        with socket.create_connection((HOST, port)) as client:
            client.sendall(nonsense)
            client.settimeout(10)
            client.recv(100)
    assert ask(port)[0] == 200


def test_it_does_not_tell_what_it_runs_on(port: int) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().getheader("Server", "").strip() == "django-outbox"
    connection.close()


def test_it_ends_at_once_although_somebody_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 3600.0)
    others = set(threading.enumerate())
    with socket.socket() as client:
        with serving(HOST, 0, PAGES) as port:
            client.connect((HOST, port))
            client.sendall(b"GET /healthz")
            # One thread accepts connections, and one has this.
            wait_until(lambda: len(set(threading.enumerate()) - others) == 2, what="the request is in hand")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((HOST, port))


def test_a_port_in_use_is_an_error(port: int) -> None:
    with pytest.raises(OSError, match="in use"), serving(HOST, port, PAGES):
        pass


def test_a_port_can_be_used_again_at_once(port: int) -> None:
    with serving(HOST, 0, PAGES) as other:
        ask(other)
    with serving(HOST, other, PAGES) as again:
        assert again == other
        assert ask(again)[0] == 200


def test_ipv6_is_served(port: int) -> None:
    with serving("::1", 0, PAGES) as port, socket.create_connection(("::1", port)) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
