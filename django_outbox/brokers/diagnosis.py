"""Finding out why a cluster cannot be used: client libraries say little about it.

Only asked after a library has failed. It opens its own connections, on which nothing secret is sent: a TLS handshake and
a request of Kafka's protocol that needs no login.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from django_outbox.brokers.calls import Call
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import BrokerURL
from django_outbox.exceptions import BrokerUnavailable, NoAnswer

# A caller with less time than this must not wait, for example because it holds row locks.
WORTH_EXPLAINING_SECONDS = 2.0
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


@dataclass(frozen=True, slots=True)
class Access:
    """How clients connect to a cluster, for errors that say why one could not."""

    url: BrokerURL
    protocol: str  # Kafka's security.protocol
    tls: TLS
    interrupted: Callable[[], bool]  # true once the process is stopping; then nothing is examined

    def unavailable(self, reason: str, *, seconds: float, may_explain: bool) -> BrokerUnavailable:
        """The error for a question that had no answer for ``seconds``, and what the library says of it.

        ``may_explain``: whether something is there that does not let the client in.
        """
        if seconds < WORTH_EXPLAINING_SECONDS:
            return NoAnswer(self._unreachable(reason, []))
        if may_explain and not self.interrupted() and (finding := self.diagnose()):
            return BrokerUnavailable(f"{self.url.location} {finding}.")
        answer = self.answering()
        return NoAnswer(self._unreachable(reason, answer), answer)

    def diagnose(self) -> str | None:
        """What is wrong with connecting, and what to do about it: a sentence without its subject, the broker.

        None if that is unknown after a few seconds.
        """
        try:
            return Call(self._examine).result(SECONDS, self.interrupted)
        except TimeoutError:
            return None

    def answers(self, host: str) -> bool:
        """Whether the broker at ``host:port`` answers, within a second for each step."""
        return _Port(host, self.tls).answers("SSL" in self.protocol)

    def answering(self) -> list[str]:
        """Which of several servers answer within two seconds; a single server is not asked."""
        if len(self.url.hosts) < 2 or self.interrupted():
            return []
        calls = {host: Call(partial(self.answers, host)) for host in self.url.hosts}
        deadline = time.monotonic() + ANSWER_SECONDS
        found = []
        for host, call in calls.items():
            with suppress(TimeoutError):
                if call.result(deadline - time.monotonic(), self.interrupted):
                    found.append(host)
        return found

    def _examine(self) -> str | None:
        for host in self.url.hosts:
            with suppress(OSError):  # nothing listens there, as the library has reported
                if finding := _Port(host, self.tls).examine("SSL" in self.protocol, "SASL" in self.protocol):
                    return finding
        return None

    def _unreachable(self, reason: str, answer: list[str]) -> str:
        location = self.url.location
        silent = [host for host in self.url.hosts if host not in answer]
        if not silent:
            return f"{location} did not answer in time ({reason}), although all its brokers can be reached."
        if answer:
            return f"{', '.join(silent)} cannot be reached ({reason}); of {location}, {', '.join(answer)} can."
        login = ", with its user and password" if self.url.username is not None else ""
        return f'{location} cannot be reached ({reason}): is it running, and is OUTBOX["BROKER"]["URL"] right{login}?'


class _Port:
    """One port of a broker, ``host:port``."""

    def __init__(self, host: str, tls: TLS) -> None:
        name, _, port = host.rpartition(":")
        self._address = (name.strip("[]"), int(port))
        self._tls = tls

    def answers(self, with_tls: bool) -> bool:
        """Whether a broker answers; ignores its certificate."""
        try:
            with self._connect() as connection:
                if not with_tls:
                    return _answers(connection)
                with self._secure(connection, _trusting()) as secured:
                    _listen(secured)
                    return _answers(secured)
        except ssl.SSLError as error:
            return "ALERT" in str(error.reason or "").upper()  # it objects to a client without a certificate
        except OSError:
            return False

    def examine(self, with_tls: bool, with_login: bool) -> str | None:
        """What is wrong with connecting like this. Raises OSError if nothing listens."""
        if with_tls:
            return self._examine_tls(with_login)
        with self._connect() as connection:
            if _answers(connection):
                return None if with_login or _answers(connection) else NEEDS_LOGIN
        return NEEDS_TLS if self._speaks_tls() else None

    def _examine_tls(self, with_login: bool) -> str | None:
        with self._connect() as connection:
            try:
                secured = self._secure(connection, self._tls.context() if self._tls.complete else _trusting())
            except ssl.SSLCertVerificationError as error:
                return _about(error)
            except (ssl.SSLError, ConnectionError) as error:
                return self._about_alert(error) or (NO_TLS if self.answers(with_tls=False) else None)
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

    def _speaks_tls(self) -> bool:
        """True if the port uses TLS; ignores its certificate and sends nothing."""
        try:
            with self._connect() as connection, self._secure(connection, _trusting()):
                return True
        except ssl.SSLError as error:
            return "ALERT" in str(error.reason or "").upper()
        except OSError:
            return False

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=STEP_SECONDS)

    def _secure(self, connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        return context.wrap_socket(connection, server_hostname=self._address[0])


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
    except OSError as error:  # closed, or no answer in time
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            raise
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
