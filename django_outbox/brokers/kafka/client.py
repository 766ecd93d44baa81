"""Connecting kafka-python's clients.

Facts about the client (3.0) that shape this backend: its producer cannot distinguish a missing topic from an outage, and
creates the topic, so topics are looked up before they are used; a producer that missed a deadline may never send again, so
it is replaced; why a connection failed is only logged, so it is recorded here.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.metadata import MetadataRequest

from django_outbox.brokers.calls import CONNECT_SECONDS
from django_outbox.brokers.errors import Blame
from django_outbox.brokers.kafka.errors import client_error, is_vague
from django_outbox.brokers.kafka.options import secret
from django_outbox.brokers.silence import address_of
from django_outbox.brokers.url import BrokerURL

Client = TypeVar("Client")

# How long a consumer waits for a description of its topics before it asks another broker; otherwise it would be 30 s.
METADATA_SECONDS = 3.0
# For so long, a broker that did not answer in time is asked last.
LATE_SECONDS = 30.0

# In the texts of TLS errors of both sides; the client wraps them in other errors.
_ABOUT_TRUST = "CERTIFICATE"


class _Connections(KafkaConnectionManager):  # type: ignore[misc]
    """The client's connections; records why they fail."""

    def __init__(
        self, net: NetworkSelector, is_silent: Callable[[str], bool], metadata_seconds: float | None, **configs: Any
    ) -> None:
        super().__init__(net, **configs)
        self._is_silent = is_silent
        self._metadata_seconds = metadata_seconds
        self._late: dict[Any, float] = {}  # when a broker last did not describe topics in time
        self.last_error: BaseException | None = None
        self.is_connecting = True  # until a broker has accepted this client for the first time
        self._turned_away: set[Any] = set()
        self._share_ms = 0.0
        self._of_settings = self.cluster.bootstrap_brokers()
        self.cluster.bootstrap_brokers = self._to_try

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **options: Any) -> KafkaConnection:
        if self.is_connecting and self.last_error is not None and self._all_turn_away():
            raise self.last_error  # trying again would change nothing
        if timeout_ms is not None and self.cluster.is_bootstrap(node_id):
            # Bootstrapping would spend all its time on the first broker, which may hang.
            self._share_ms = self._share_ms or timeout_ms / min(len(self._of_settings), 3)
            timeout_ms = min(timeout_ms, self._share_ms)
        is_new = node_id not in self._conns
        connection = super().get_connection(node_id, timeout_ms=timeout_ms, **options)
        if is_new:
            connection.close_future.add_errback(partial(self._note, node_id))
            self._limit(connection, (timeout_ms or self.socket_connection_setup_timeout_ms(node_id)) / 1000)
        return connection

    def send(self, request: Any, node_id: Any = None, request_timeout_ms: float | None = None) -> Any:
        node_id = self.least_loaded_node() if node_id is None else node_id
        answer = super().send(request, node_id, request_timeout_ms)
        if self._metadata_seconds is None or not isinstance(request, MetadataRequest):
            return answer
        return self._expect(answer, node_id, self._metadata_seconds)

    def _expect(self, answer: Future, node_id: Any, seconds: float) -> Future:
        """An answer that fails after some seconds, unlike the request: the client would close the connection.

        The broker may be about to answer, behind a fetch that takes as long.
        """
        expected = Future()

        def give_up() -> None:
            if not expected.is_done:
                self._late[node_id] = time.monotonic()
                expected.failure(kafka_errors.KafkaTimeoutError(f"no answer within {seconds:g} s"))

        def take(value: Any, end: Callable[[Any], object]) -> None:
            if not expected.is_done:
                end(value)

        answer.add_callback(take, end=expected.success)
        answer.add_errback(take, end=expected.failure)
        self._net.call_later(seconds, give_up)
        return expected

    def least_loaded_node(self) -> Any:
        """The node to ask anything. Not one that is known to be silent: the client would wait for it."""
        chosen = super().least_loaded_node()
        if chosen is None or not self._is_silent_node(chosen):
            return chosen
        # It would choose the silent node again, as that has no request to answer.
        others = [each.node_id for each in self.cluster.brokers() if not self._is_silent_node(each.node_id)]
        return min((each for each in others if self._is_usable(each)), key=self._load, default=chosen)

    def _is_silent_node(self, node_id: Any) -> bool:
        if time.monotonic() - self._late.get(node_id, -LATE_SECONDS) < LATE_SECONDS:
            return True
        broker = self.cluster.broker_metadata(node_id)
        return broker is not None and self._is_silent(address_of(broker.host, broker.port))

    def _is_usable(self, node_id: Any) -> bool:
        connection = self._conns.get(node_id)
        return not (connection and connection.paused) and self.connection_delay(node_id) <= 0

    def _load(self, node_id: Any) -> int:
        connection = self._conns.get(node_id)
        return len(connection.in_flight_requests) if connection else 0

    def _limit(self, connection: KafkaConnection, seconds: float) -> None:
        """Limit the time to connect: the client would wait for a TLS handshake for ever."""

        def give_up() -> None:
            if not connection.init_future.is_done:
                connection.close(kafka_errors.KafkaTimeoutError("no answer"))

        self._net.call_later(seconds, give_up)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> KafkaTCPTransport:
        """A transport that returns received data before it reports that the connection is closed.

        The client would discard the data, and with it the broker's reason, such as a wrong password.
        """
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        receive = transport._sock_recv

        def received_first() -> tuple[bytes, BaseException | None]:
            data, error = receive()
            return data, None if data else error

        transport._sock_recv = received_first
        return transport

    def _all_turn_away(self) -> bool:
        return all(broker.node_id in self._turned_away for broker in self._of_settings)

    def _to_try(self) -> list[Any]:
        """The brokers of the settings that can be tried soonest; the client takes one of them by chance.

        It would wait, up to a second each time, before it tries again a broker that has refused the connection, although
        another may answer.
        """
        delays = [self.connection_delay(broker.node_id) for broker in self._of_settings]
        return [broker for broker, delay in zip(self._of_settings, delays, strict=True) if delay == min(delays)]

    def _note(self, node_id: Any, error: BaseException) -> None:
        _close_sockets(error)
        if Blame.CLIENT in client_error(error).blame or _ABOUT_TRUST in str(error):
            self._turned_away.add(node_id)
        # The first that gives a reason: the deadline often cuts the last attempt short.
        if self.last_error is None or (is_vague(self.last_error) and not is_vague(error)):
            self.last_error = error


def _close_sockets(error: BaseException | None) -> None:
    """Close the sockets of a failed attempt to connect; the client leaves that to the garbage collector."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # The chain includes what was being handled when this was raised, which may be anyone's.
            if not frame.f_globals["__name__"].startswith("kafka.net."):
                continue
            for thing in frame.f_locals.values():
                end = getattr(thing, "_sock", None) if isinstance(thing, KafkaTCPTransport) else thing
                if isinstance(end, socket.socket):
                    end.close()
        error = error.__context__


class NetClient(KafkaNetClient):  # type: ignore[misc]
    """The part of a client that talks to brokers. Never creates a topic by asking about it.

    Args:
        topics: known from the start. A consumer that joins its group before it knows its topics gets no partitions.
        is_silent: whether the broker at an address is known not to answer.
        metadata_seconds: how long a broker may take to describe topics before another is asked; None: as any request.
        configs: the client's.
    """

    def __init__(
        self,
        topics: Collection[str] = (),
        *,
        is_silent: Callable[[str], bool] = lambda address: False,
        metadata_seconds: float | None = None,
        **configs: Any,
    ) -> None:
        net = NetworkSelector(**configs)
        try:
            self.connections = _Connections(net, is_silent, metadata_seconds, **configs)
        except BaseException:  # an option that it refuses
            net.close()
            raise
        super().__init__(net=net, manager=self.connections)
        self.cluster.config["allow_auto_create_topics"] = False
        self.cluster._topics = set(topics)

    def close(self, node_id: Any = None) -> None:
        """Close all connections at once.

        The client would forget connections that are being made, and leave open those with data to write. When such a
        connection recovers, the kernel would send parts of a batch that was abandoned long ago.
        """
        if node_id is None:
            self.connections.close()
            self._net.stop()
            selector = self._net._selector
            for key in list((selector.get_map() or {}).values()):
                selector.unregister(key.fileobj)
                key.fileobj.close()
        super().close(node_id)


def connection_options(url: BrokerURL) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(url.hosts),
        "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000),
        "security_protocol": url.protocol,
        # Found again soon after an outage, at the price of one attempt a second.
        "reconnect_backoff_max_ms": 1000,
    }
    if url.password is not None:
        options.update(
            sasl_mechanism="PLAIN", sasl_plain_username=url.username, sasl_plain_password=secret(url.password)
        )
    if "SSL" in url.protocol:
        options["ssl_password"] = ""  # otherwise OpenSSL would ask for one on the terminal
    return options


def connect(
    client_class: type[Client], options: Mapping[str, Any], make_net: Callable[..., NetClient] = NetClient
) -> Client:
    """Make a client that is connected to a broker. If that fails, nothing is left behind.

    Raises:
        KafkaError, OSError: why connecting failed, if that is known.
        Exception: the client does not accept its options.
    """
    made: list[NetClient] = []

    def kafka_client(**configs: Any) -> NetClient:
        made.append(make_net(**configs))
        return made[-1]

    try:
        client = client_class(**{**options, "kafka_client": kafka_client})
        for net in made:
            net.connections.is_connecting = False
        return client
    except BaseException as error:
        for net in made:
            with suppress(Exception):
                net.close()
        cause = made[-1].connections.last_error if made else None
        if cause is None or not isinstance(error, kafka_errors.KafkaTimeoutError):
            raise
        if not isinstance(cause, (kafka_errors.KafkaError, OSError)):
            cause = kafka_errors.KafkaConnectionError(type(cause).__name__)
        raise cause from error
