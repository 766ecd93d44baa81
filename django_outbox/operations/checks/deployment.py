"""System checks of ``check --deploy``: settings that are for development only."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_outbox.brokers.loading import get_broker
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.brokers.url import BrokerURL, parse_url
from django_outbox.conf import BrokerSettings, settings
from django_outbox.models import outbox_database

_TLS_HINT = (
    'Use kafka+ssl:// or kafka+sasl+ssl:// in OUTBOX["BROKER"]["URL"]. If you trust the network, add this check to '
    "SILENCED_SYSTEM_CHECKS."
)


def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """Check for settings that are fine in development and not in production."""
    return [*_broker(), *_database()]


def _broker() -> Iterator[CheckMessage]:
    try:
        given = settings.broker
        if isinstance(get_broker(given), MemoryBroker):
            yield Warning(
                "The broker is in the memory of each process: other processes receive nothing, and messages are lost "
                "when it ends.",
                hint='Set OUTBOX["BROKER"]["BACKEND"] to a Kafka broker. MemoryBroker is for tests.',
                id="django_outbox.W021",
            )
            return
        url = parse_url(given.url)
    except ImproperlyConfigured:
        return  # another check reports it, or the project has its own broker class with its own URLs
    protocol, unencrypted = _protocol(given, url), f"The connection to {url.location} is not encrypted"
    if all(map(_is_local, url.hosts)):
        yield Warning(
            f"The broker {url.location} is on this machine.",
            hint='Set OUTBOX["BROKER"]["URL"] to your cluster. outbox_devbroker keeps all records in memory.',
            id="django_outbox.W022",
        )
    elif protocol == "SASL_PLAINTEXT":
        text = f"{unencrypted}: others on the network can read user, password and events."
        yield Warning(text, hint=_TLS_HINT, id="django_outbox.W024")
    elif protocol == "PLAINTEXT":
        text = f"{unencrypted}, and the broker does not authenticate its clients."
        yield Warning(text, hint=_TLS_HINT, id="django_outbox.W023")


def _protocol(given: BrokerSettings, url: BrokerURL) -> str:
    """The security protocol in use: options override the URL."""
    protocol: Any = url.protocol
    for options in (url.options, given.options, given.producer_options):
        for name in ("security_protocol", "security.protocol"):
            protocol = options.get(name, protocol)
    return str(protocol).upper()


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


def _database() -> Iterator[CheckMessage]:
    alias = outbox_database()
    if alias in connections and connections[alias].vendor == "sqlite":
        yield Warning(
            f"The outbox is in SQLite (the database {alias!r}), where only one process can write at a time.",
            hint="Use PostgreSQL, MySQL or MariaDB in production, where relays and consumers share the work.",
            id="django_outbox.W025",
        )
