"""Parsing ``kafka://`` URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from django.core.exceptions import ImproperlyConfigured

PROTOCOLS = {"kafka": "PLAINTEXT", "kafka+ssl": "SSL", "kafka+sasl": "SASL_PLAINTEXT", "kafka+sasl+ssl": "SASL_SSL"}
DEFAULT_PORT = 9092

_URL = re.compile(r"(?P<scheme>[^:/?#]*)://(?:(?P<login>[^/?#@]*)@)?(?P<hosts>[^/?#@]*)/?(?:\?(?P<query>[^#]*))?\Z")
_SCHEME = re.compile(r"[A-Za-z+]{0,16}\Z")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(?P<port>\d+))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """A parsed broker URL."""

    hosts: tuple[str, ...]  # host:port of the servers to connect to first
    protocol: str  # Kafka's security.protocol
    username: str | None = field(default=None, repr=False)  # percent-decoded, as the password
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)  # whose meaning the client defines

    @property
    def location(self) -> str:
        """The URL without login and options."""
        scheme = next(name for name, protocol in PROTOCOLS.items() if protocol == self.protocol)
        return f"{scheme}://{','.join(self.hosts)}"


def parse_url(url: str) -> BrokerURL:
    """Parse a URL of one of ``PROTOCOLS``; raises ImproperlyConfigured, without user and password in its text.

    Several hosts are separated by commas, user and password are percent-encoded, and the query holds client options.
    """
    match = _URL.match(url)
    if match is None:
        raise _malformed(
            "it must look like kafka://host:9092 or kafka+sasl://user:password@host:9092, with @ : / ? # % in user "
            "and password percent-encoded"
        )
    if match["scheme"] not in PROTOCOLS:
        known = ", ".join(f"{scheme}://" for scheme in PROTOCOLS)
        # Anything longer or with other characters may be a secret.
        shown = f" {match['scheme']!r}" if _SCHEME.match(match["scheme"]) else ""
        raise _malformed(f"the scheme{shown} is not one of {known}")
    username, password = _login(match["login"])
    protocol = PROTOCOLS[match["scheme"]]
    if "SASL" in protocol and not (username and password):
        raise _malformed(f"{match['scheme']}:// needs a user and a password before the host")
    if "SASL" not in protocol and username is not None:
        raise _malformed("a user and a password need kafka+sasl:// or kafka+sasl+ssl://")
    return BrokerURL(
        hosts=tuple(_host(number, host) for number, host in enumerate(match["hosts"].split(","), start=1)),
        protocol=protocol,
        username=username,
        password=password,
        options=_query(match["query"]),
    )


def _login(login: str | None) -> tuple[str | None, str | None]:
    if login is None:
        return None, None
    username, colon, password = login.partition(":")
    try:
        return unquote(username, errors="strict"), unquote(password, errors="strict") if colon else None
    except UnicodeDecodeError:
        raise _malformed("user and password must be percent-encoded UTF-8") from None


def _host(number: int, text: str) -> str:
    match = _HOST.match(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        # Not shown: without the @ it would be user and password.
        raise _malformed(f"host {number} is not a name or address, or its port is not a number from 1 to 65535")
    return f"{match['host']}:{port}"


def _query(query: str | None) -> dict[str, str]:
    try:
        return dict(parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise _malformed("its options must look like ?name=value&other=value") from None


def _malformed(reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'OUTBOX["BROKER"]["URL"] is not a broker URL: {reason}.')
