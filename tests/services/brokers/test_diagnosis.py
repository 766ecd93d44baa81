"""What is found out about a port at which something listens."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from django_outbox.brokers import diagnosis
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import BrokerURL, parse_url
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.backends import Backend
from tests.support.brokers.records import SECONDS
from tests.support.processes import wait_until
from tests.support.servers.certificates import Certificates, Keyring
from tests.support.servers.process import free_port


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "STEP_SECONDS", 3.0)
    monkeypatch.setattr(diagnosis, "SECONDS", 20.0)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats each connection so; yields its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def answering(times: int) -> Callable[[socket.socket], None]:
    """Answers the question of Kafka's protocol so often, and then closes the connection."""

    def serve(connection: socket.socket) -> None:
        for _ in range(times):
            size = int.from_bytes(connection.recv(4))
            if not 0 < size < 1000:
                return
            connection.recv(size)
            connection.sendall(struct.pack(">iih", 6, 1, 0))
        connection.recv(4)

    return serve


def secured(
    serve: Callable[[socket.socket], None], keyring: Keyring, clients: Keyring | None = None
) -> Callable[[socket.socket], None]:
    """The same with TLS; with ``clients`` it demands certificates of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keyring.certificate, keyring.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.authority)

    def serve_secured(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            serve(inside)

    return serve_secured


def access_to(*hosts: str, protocol: str, tls: TLS | None = None, interrupted: bool = False) -> Access:
    return Access(BrokerURL(hosts, protocol), protocol, tls or TLS(), lambda: interrupted)


def finding(address: str, protocol: str, tls: TLS | None = None) -> str | None:
    return access_to(address, protocol=protocol, tls=tls).diagnose()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_tls_where_none_is_expected_is_found(certificates: Certificates, protocol: str) -> None:
    with listening(secured(answering(2), certificates.server)) as address:
        assert finding(address, protocol) == diagnosis.NEEDS_TLS


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_no_tls_where_it_is_expected_is_found(protocol: str) -> None:
    with listening(answering(2)) as address:
        assert finding(address, protocol) == diagnosis.NO_TLS


def test_a_login_that_is_demanded_is_found(certificates: Certificates) -> None:
    trusting = TLS(cafile=str(certificates.server.authority))
    with listening(answering(1)) as address:
        assert finding(address, "PLAINTEXT") == diagnosis.NEEDS_LOGIN
        assert finding(address, "SASL_PLAINTEXT") is None
    with listening(secured(answering(1), certificates.server)) as address:
        assert finding(address, "SSL", trusting) == diagnosis.NEEDS_LOGIN
        assert finding(address, "SASL_SSL", trusting) is None


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("expired", diagnosis.EXPIRED),
        ("misnamed", diagnosis.WRONG_NAME),
        ("stranger", diagnosis.UNKNOWN_AUTHORITY),
        ("server", None),
    ],
)
def test_what_is_wrong_with_the_broker_s_certificate_is_found(
    certificates: Certificates, server: str, found: str | None
) -> None:
    trusting = TLS(cafile=str(certificates.server.authority))
    with listening(secured(answering(2), getattr(certificates, server))) as address:
        assert finding(address, "SSL", trusting) == found


def test_what_is_wrong_with_the_client_s_certificate_is_found(certificates: Certificates) -> None:
    trusting = {"cafile": str(certificates.server.authority)}
    mine, stranger = (
        TLS(**trusting, certfile=str(keyring.certificate), keyfile=str(keyring.key))
        for keyring in (certificates.client, certificates.stranger)
    )
    with listening(secured(answering(2), certificates.server, clients=certificates.client)) as address:
        assert finding(address, "SSL", TLS(**trusting)) == diagnosis.NEEDS_CERTIFICATE
        # A step has a second, which a busy machine may take for itself.
        wait_until(partial(access_to(address, protocol="SSL", tls=TLS(**trusting)).answers, address))
        assert finding(address, "SSL", stranger) == diagnosis.REFUSES_CERTIFICATE
        assert finding(address, "SSL", mine) is None


def test_of_what_is_not_known_here_nothing_is_said(certificates: Certificates) -> None:
    """A key store, say, may hold the authority and the certificate that are missed here."""
    with listening(secured(answering(2), certificates.stranger, clients=certificates.client)) as address:
        assert finding(address, "SSL", TLS(complete=False)) is None


def silent(connection: socket.socket) -> None:
    while connection.recv(1000):
        """It never answers."""


def rude(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.recv(1000)


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("serve", [silent, rude, lambda connection: None])
def test_of_what_speaks_another_language_nothing_is_said(
    serve: Callable[[socket.socket], None], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "STEP_SECONDS", 0.3)
    with listening(serve) as address:
        assert finding(address, protocol) is None


def test_a_host_that_is_away_leaves_the_others_to_be_looked_at() -> None:
    with listening(answering(1)) as address:
        access = access_to(f"127.0.0.1:{free_port()}", address, protocol="PLAINTEXT")
        assert access.diagnose() == diagnosis.NEEDS_LOGIN


def test_who_is_to_end_does_not_wait_for_a_finding() -> None:
    with listening(silent) as address:
        assert access_to(address, protocol="PLAINTEXT", interrupted=True).diagnose() is None


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_of_several_brokers_those_that_answer_are_known(certificates: Certificates, protocol: str) -> None:
    serve = secured(answering(1), certificates.server) if protocol == "SSL" else answering(1)
    away = f"127.0.0.1:{free_port()}"
    with listening(serve) as one, listening(serve) as other, listening(silent) as hangs:
        assert access_to(away, one, hangs, other, protocol=protocol).answering() == [one, other]
        stopping = access_to(away, one, protocol=protocol, interrupted=True)
        assert stopping.answering() == []


def test_only_brokers_that_do_not_answer_are_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*answer: str) -> str:
        monkeypatch.setattr(Access, "answering", lambda access: list(answer))
        cluster = Access(parse_url("kafka+sasl://u:p@a:1,b:1,c:1"), "SASL_PLAINTEXT", TLS(), lambda: False)
        return str(cluster.unavailable("refused", seconds=SECONDS, may_explain=False))

    assert said("b:1", "c:1") == "a:1 cannot be reached (refused); of kafka+sasl://a:1,b:1,c:1, b:1, c:1 can."
    assert said().startswith("kafka+sasl://a:1,b:1,c:1 cannot be reached (refused): is it running, and is")
    assert said().endswith("right, with its user and password?")
    assert "did not answer in time (refused), although all its brokers can be reached" in said("a:1", "b:1", "c:1")


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_only_who_has_time_asks_for_a_diagnosis(
    backend: Backend, certificates: Certificates, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that asks about topics while it has rows locked has none."""
    monkeypatch.setattr(diagnosis, "STEP_SECONDS", 10.0)
    with listening(secured(answering(2), certificates.server)) as address:
        broker: Any = backend.make(f"kafka://{address}")
        with pytest.raises(BrokerUnavailable) as raised:
            broker.topic_faults({"topic"}, seconds)
    assert (diagnosis.NEEDS_TLS in str(raised.value)) is (seconds > 2)
