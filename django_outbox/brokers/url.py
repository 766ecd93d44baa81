"""Reading ``kafka://`` URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from django.core.exceptions import ImproperlyConfigured
from environ import Env

PROTOCOLS = {
    "kafka": "PLAINTEXT",
    "kafka+ssl": "SSL",
    "kafka+sasl": "SASL_PLAINTEXT",
    "kafka+sasl+ssl": "SASL_SSL",
}
DEFAULT_PORT = 9092

_URL = re.compile(r"(?P<scheme>[^:/?#]*)://(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)/?(?:\?(?P<query>[^#]*))?\Z")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(?P<port>\d+))?\Z", re.ASCII)
_BOOLEANS = ("true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """A broker URL, taken apart.

    Attributes:
        hosts: ``host:port`` of the servers to ask first.
        protocol: Kafka's ``security.protocol``.
        username: percent-decoded, None if not given.
        password: percent-decoded, None if not given; never shown.
        options: the query, with numbers and booleans as such.
    """

    hosts: tuple[str, ...]
    protocol: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def location(self) -> str:
        """The address without login and options."""
        scheme = next(name for name, protocol in PROTOCOLS.items() if protocol == self.protocol)
        return f"{scheme}://{','.join(self.hosts)}"


def parse_url(url: str) -> BrokerURL:
    """Take a broker URL apart.

    Schemes ``kafka``, ``kafka+ssl``, ``kafka+sasl`` and ``kafka+sasl+ssl``; several hosts by
    comma; user and password percent-encoded; client options as the query.

    Raises:
        ImproperlyConfigured: saying what is wrong, without showing user or password.
    """
    match = _URL.match(url)
    if match is None:
        raise _malformed("it must look like kafka://host:9092")
    if match["scheme"] not in PROTOCOLS:
        known = ", ".join(f"{scheme}://" for scheme in PROTOCOLS)
        raise _malformed(f"the scheme {match['scheme']!r} is none of {known}")
    username, password = _login(match["login"])
    protocol = PROTOCOLS[match["scheme"]]
    if "SASL" in protocol and (username is None or password is None):
        raise _malformed(f"{match['scheme']}:// needs a user and a password before the host")
    if "SASL" not in protocol and username is not None:
        raise _malformed("a user and a password need kafka+sasl:// or kafka+sasl+ssl://")
    return BrokerURL(
        hosts=tuple(_host(host) for host in match["hosts"].split(",")),
        protocol=protocol,
        username=username,
        password=password,
        options={name: _option(value) for name, value in _query(match["query"])},
    )


def _login(login: str | None) -> tuple[str | None, str | None]:
    if login is None:
        return None, None
    username, colon, password = login.partition(":")
    return unquote(username), unquote(password) if colon else None


def _host(text: str) -> str:
    match = _HOST.match(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise _malformed(f"{text!r} is not a host or host:port")
    return f"{match['host']}:{port}"


def _query(query: str | None) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _malformed("its options must look like ?name=value&other=value") from None


def _option(value: str) -> Any:
    if value.lower() in _BOOLEANS:
        return Env.parse_value(value, bool)
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _malformed(reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'OUTBOX["BROKER"]["URL"] is not a broker URL: {reason}.')
