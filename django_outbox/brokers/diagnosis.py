"""Finding out why a broker that listens cannot be used: client libraries say little about it.

Only asked after a library has failed. It opens its own connections, on which nothing secret is sent: a TLS handshake and
a request of Kafka's protocol that needs no login.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Self

from django_outbox.brokers.calls import Call
from django_outbox.brokers.tls import TLS

STEP_SECONDS = 1.0
ALERT_SECONDS = 0.2
SECONDS = 3.0
ANSWER_SECONDS = 2.0

_URL = 'OUTBOX["BROKER"]["URL"]'

NO_TLS = f"does not use TLS at this port: use kafka:// or kafka+sasl:// in {_URL}, or the port for TLS"
NEEDS_TLS = f"uses TLS at this port: use kafka+ssl:// or kafka+sasl+ssl:// in {_URL}"
NEEDS_LOGIN = f"requires a login at this port: use kafka+sasl:// or, with TLS, kafka+sasl+ssl:// in {_URL}"
EXPIRED = "has a certificate that is not valid now: renew it, or correct this machine's clock"
UNKNOWN_AUTHORITY = (
    "has a certificate that is not signed by an authority trusted here: name the file with the authority's certificate "
    f"in {_URL}, as in ?ssl_cafile=/etc/ssl/kafka-ca.pem"
)
WRONG_NAME = f"has a certificate for another host: use the certificate's host in {_URL}, or issue one for this host"
BAD_CERTIFICATE = "has a certificate that cannot be trusted"
NEEDS_CERTIFICATE = (
    f"requires client certificates: name a certificate and its key in {_URL}, as in "
    "?ssl_certfile=/etc/ssl/shop.pem&ssl_keyfile=/etc/ssl/shop.key"
)
REFUSES_CERTIFICATE = (
    "does not accept this client's certificate: it must not be expired, and an authority that the broker trusts must "
    "have signed it"
)

# Source: OpenSSL's X509_V_ERR_ numbers, as in x509_vfy.h.
_NOT_VALID_NOW = {9, 10}
_AUTHORITY_UNKNOWN = {2, 18, 19, 20, 21, 24, 27}
_ANOTHER_NAME = {62, 64}

_API_VERSIONS = 18
_QUESTION = struct.pack(">hhih", _API_VERSIONS, 0, 1, -1)  # version 0, number 1, from a client without a name


def diagnose(hosts: Iterable[str], protocol: str, tls: TLS, interrupted: Callable[[], bool]) -> str | None:
    """What is wrong with connecting, and what to do about it; None if that is unknown after a few seconds.

    Args:
        hosts: ``host:port`` of the servers.
        protocol: Kafka's ``security.protocol``.
        tls: the client's TLS files.
        interrupted: whether to give up.

    Returns:
        A sentence without its subject, the broker, and without a full stop.
    """
    try:
        return Call(lambda: _examine(hosts, protocol, tls)).result(SECONDS, interrupted)
    except TimeoutError:
        return None


def answering(hosts: Sequence[str], protocol: str, tls: TLS, interrupted: Callable[[], bool]) -> list[str]:
    """Which of several servers answer within two seconds; a single server is not asked. See ``diagnose``."""
    if len(hosts) < 2:
        return []
    calls = {host: Call(partial(_has_answer, host, protocol, tls)) for host in hosts}
    deadline = time.monotonic() + ANSWER_SECONDS
    found = []
    for host, call in calls.items():
        with suppress(TimeoutError):
            if call.result(max(0.0, deadline - time.monotonic()), interrupted):
                found.append(host)
    return found


def _has_answer(host: str, protocol: str, tls: TLS) -> bool:
    try:
        return _Port.of(host, tls).answers("SSL" in protocol)
    except OSError:
        return False


def _examine(hosts: Iterable[str], protocol: str, tls: TLS) -> str | None:
    for host in hosts:
        try:
            finding = _Port.of(host, tls).examine("SSL" in protocol, "SASL" in protocol)
        except OSError:  # nothing listens there, as the library has reported
            continue
        if finding is not None:
            return finding
    return None


class _Port:
    """One port of a broker."""

    def __init__(self, host: str, port: int, tls: TLS) -> None:
        self._host = host
        self._port = port
        self._tls = tls

    @classmethod
    def of(cls, host: str, tls: TLS) -> Self:
        """The port of a server named as ``host:port``."""
        name, _, port = host.rpartition(":")
        return cls(name.strip("[]"), int(port), tls)

    def answers(self, with_tls: bool) -> bool:
        """Whether a broker answers; ignores its certificate. Raises OSError if nothing listens."""
        with self._connected() as connection:
            if not with_tls:
                return _answers(connection)
            with _trusting().wrap_socket(connection, server_hostname=self._host) as secured:
                return _answers(secured)

    def examine(self, with_tls: bool, with_login: bool) -> str | None:
        """What is wrong with connecting like this. Raises OSError if nothing listens."""
        if with_tls:
            return self._examine_tls(with_login)
        with self._connected() as connection:
            answered = _answers(connection)
            if answered:
                return None if with_login or _answers(connection) else NEEDS_LOGIN
        return NEEDS_TLS if self._speaks_tls() else None

    def _examine_tls(self, with_login: bool) -> str | None:
        with self._connected() as connection:
            try:
                context = self._tls.context() if self._tls.complete else _trusting()
                secured = context.wrap_socket(connection, server_hostname=self._host)
            except ssl.SSLCertVerificationError as error:
                return _about(error)
            except (ssl.SSLError, ConnectionError) as error:
                return self._about_alert(error) or (NO_TLS if self._answers_without_tls() else None)
        with secured:
            try:
                _listen(secured)
                answered = _answers(secured)
                # A broker that requires a login answers once: after that it accepts only the login.
                return NEEDS_LOGIN if answered and not with_login and not _answers(secured) else None
            except ssl.SSLError as error:
                return self._about_alert(error)
            except ConnectionError:
                return None

    def _about_alert(self, error: Exception) -> str | None:
        """The broker's objection to this client's certificate; with TLS 1.3 it comes after the handshake."""
        reason = str(getattr(error, "reason", None) or "").upper()
        if "ALERT" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason) or not self._tls.complete:
            return None
        return REFUSES_CERTIFICATE if self._tls.certfile else NEEDS_CERTIFICATE

    def _answers_without_tls(self) -> bool:
        try:
            with self._connected() as connection:
                return _answers(connection)
        except OSError:
            return False

    def _speaks_tls(self) -> bool:
        """True if the port uses TLS; ignores its certificate and sends nothing."""
        try:
            with self._connected() as connection, _trusting().wrap_socket(connection, server_hostname=self._host):
                return True
        except ssl.SSLError as error:
            return "ALERT" in str(error.reason or "").upper()
        except OSError:
            return False

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection((self._host, self._port), timeout=STEP_SECONDS) as connection:
            yield connection


def _trusting() -> ssl.SSLContext:
    """A context that accepts any certificate, for connections on which nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _answers(connection: socket.socket) -> bool:
    """Whether a broker answers an ApiVersions request. Raises SSLError if it objects to this client."""
    try:
        connection.sendall(struct.pack(">i", len(_QUESTION)) + _QUESTION)
        head = _read(connection, 8)
        if len(head) < 8:
            return False
        size, number = (int.from_bytes(head[at : at + 4]) for at in (0, 4))
        return number == 1 and 4 < size < 2**20 and len(_read(connection, size - 4)) == size - 4
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError:
        raise
    except OSError:  # closed, or no answer in time
        return False


def _listen(connection: ssl.SSLSocket) -> None:
    """Raise the broker's objection to this client if it comes within a moment; a request that is cut short would lose it."""
    connection.settimeout(ALERT_SECONDS)
    with suppress(TimeoutError):
        connection.recv(1)
    connection.settimeout(STEP_SECONDS)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def _about(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code in _NOT_VALID_NOW:
        return EXPIRED
    if code in _AUTHORITY_UNKNOWN:
        return UNKNOWN_AUTHORITY
    return WRONG_NAME if code in _ANOTHER_NAME else f"{BAD_CERTIFICATE} ({error.verify_message})"
