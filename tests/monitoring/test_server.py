"""The port of probes and scrapes: answers in time, ends at once, and is no way into the worker."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from django_outbox.monitoring.server import Answer, Page, plain, serving
from tests.helpers import wait_until

HOST = "127.0.0.1"


def broken(accept: str) -> Answer:
    raise RuntimeError("secret of the worker")


PAGES: dict[str, Page] = {
    "/healthz": lambda accept: plain(200, "alive"),
    "/echo": lambda accept: plain(503, accept),
    "/broken": broken,
}


def ask(port: int, path: str = "/healthz", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
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
    assert ask(port, "/") == (404, "There is nothing here but /healthz, /echo, /broken.\n")
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


def test_nonsense_is_survived(port: int) -> None:
    for nonsense in (b"\0\xff\n\n", b"GET " + b"x" * 100_000 + b"\n\n", b"GET /healthz HTTP/9.9\r\n\r\n"):
        with socket.create_connection((HOST, port)) as client:
            client.sendall(nonsense)
            client.settimeout(10)
            client.recv(100)
    assert ask(port)[0] == 200


def test_it_does_not_tell_what_it_runs_on(port: int) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().getheader("Server", "").strip() == "django-outbox"
    connection.close()


def test_it_ends_at_once_although_somebody_is_connected() -> None:
    others = set(threading.enumerate())
    with socket.socket() as client:
        with serving(HOST, 0, PAGES) as port:
            client.connect((HOST, port))
            client.sendall(b"GET /healthz")
            # One thread accepts connections, and one has this.
            wait_until(lambda: len(set(threading.enumerate()) - others) == 2, what="the request is in hand")
            started = time.monotonic()
        assert time.monotonic() - started < 2
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
