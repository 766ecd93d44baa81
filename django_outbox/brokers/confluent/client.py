"""Clients of librdkafka: how they connect, what they report, and their sockets.

A client that cannot reach its brokers reports that to a callback only and goes on for ever. Callbacks and log lines come
out of the calls that poll, in the caller's thread.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError

from django_outbox.brokers.calls import CONNECT_SECONDS, DROP_UNSENT
from django_outbox.brokers.confluent.errors import client_error
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import Blame, ClientError, refusal
from django_outbox.brokers.url import BrokerURL
from django_outbox.exceptions import BrokerUnavailable

log = logging.getLogger("confluent_kafka")

# A host may have several addresses: the first refuses while the second is tried.
DOWN_SECONDS = 1.5

# No other socket of the process has this size by chance, so it marks the sockets of producers.
SEND_BUFFER_BYTES = 200_003

_OF_LISTENER = frozenset({KafkaError._SSL, KafkaError._TRANSPORT})


class Faults:
    """What a client has reported to its ``error_cb``, which this is."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.refusal: ClientError | None = None
        self._last: KafkaError | None = None
        self._down_since: float | None = None

    def __call__(self, error: KafkaError) -> None:
        told = client_error(error)
        if told.fatal or Blame.CLIENT in told.blame:
            self.refusal = self.refusal or told
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or time.monotonic()
        else:
            self._last = error

    @property
    def is_down(self) -> bool:
        """True if all brokers went away some time ago and none has answered since."""
        return self._down_since is not None and time.monotonic() - self._down_since >= DOWN_SECONDS

    @property
    def reason(self) -> str:
        """The most telling of the reported errors; empty if there is none."""
        if self.refusal is not None:
            return self.refusal.text
        return client_error(self._last).text if self._last is not None else ""

    def heard(self) -> None:
        """Record that a broker answers and accepts this client."""
        self._down_since = self._last = None
        if self.refusal is not None and not self.refusal.fatal:
            self.refusal = None  # another broker refused, or the refusal is withdrawn

    def unavailable(self, error: KafkaError | None = None, *, seconds: float = CONNECT_SECONDS) -> BrokerUnavailable:
        """The error to raise when a question had no answer for so long, or only this error."""
        told = client_error(error) if error is not None else None
        refused = self.refusal or (told if told is not None and Blame.CLIENT in told.blame else None)
        if refused is not None:
            return BrokerUnavailable(refusal(self.access.url.location, refused))
        nothing = "it closes each connection" if self.is_down else f"no answer within {seconds:g} s"
        reason = self.reason or (told.text if told is not None else nothing)
        last = error if error is not None and error.code() == KafkaError._SSL else self._last
        may_explain = self.is_down or (last is not None and last.code() in _OF_LISTENER)
        return self.access.unavailable(reason, seconds=seconds, may_explain=may_explain)


def connection_options(url: BrokerURL) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(url.hosts),
        "security.protocol": url.protocol,
        # Found again soon after an outage, at the price of one attempt a second.
        "reconnect.backoff.max.ms": 1000,
        "socket.connection.setup.timeout.ms": int(CONNECT_SECONDS * 1000),
    }
    if url.password is not None:
        options |= {"sasl.mechanism": "PLAIN", "sasl.username": url.username, "sasl.password": url.password}
    return options


def drop_unsent() -> None:
    """Have the kernel drop what it holds for the producers' sockets once they are closed.

    The library does not expose its sockets, so they are recognized by the size of their send buffer. On Windows this
    does nothing: what the kernel holds is sent when the network recovers.
    """
    with socket.socket() as example:
        example.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        size = example.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)  # as this system counts
    with suppress(FileNotFoundError):
        for file in Path("/dev/fd").iterdir():
            with suppress(OSError):  # not a socket, or closed meanwhile
                end = socket.socket(fileno=int(file.name))
                try:
                    if end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == size:
                        end.setsockopt(*DROP_UNSENT)
                finally:
                    end.detach()
