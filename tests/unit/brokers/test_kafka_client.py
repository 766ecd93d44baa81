"""Which broker kafka-python's clients ask."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.protocol.consumer import HeartbeatRequest

from django_outbox.brokers.kafka.client import LATE_SECONDS, NetClient
from tests.support.clock import Clock

NODES = {number: SimpleNamespace(node_id=number, host="kafka", port=9000 + number) for number in (1, 2, 3)}


def asked(
    silent: Collection[int],
    in_flight: Mapping[int, int],
    monkeypatch: pytest.MonkeyPatch,
    *,
    paused: Collection[int] = (),
    backed_off: Collection[int] = (),
) -> set[int]:
    """The nodes that a client chooses, which chooses by chance.

    Args:
        silent: known not to answer.
        in_flight: requests without an answer, by node; the others are not connected.
    """
    addresses = {f"kafka:{9000 + number}" for number in silent}
    client = NetClient(is_silent=addresses.__contains__, bootstrap_servers=["kafka:9001"])
    connections = client.connections
    monkeypatch.setattr(client.cluster, "brokers", lambda: list(NODES.values()))
    monkeypatch.setattr(client.cluster, "broker_metadata", NODES.get)
    for number, count in in_flight.items():
        connections._conns[number] = SimpleNamespace(
            connected=True, paused={"throttled"} if number in paused else set(), in_flight_requests=[None] * count
        )
    for number in backed_off:
        connections._backoff[number] = (1, time.monotonic() + 3600)
    try:
        found = {connections.least_loaded_node() for _ in range(30)}
        assert client.least_loaded_node() in found
        return found
    finally:
        connections._conns.clear()
        client.close()


def test_a_client_that_bootstraps_tries_the_broker_first_that_it_may_try_soonest() -> None:
    client = NetClient(bootstrap_servers=["kafka:9001", "kafka:9002", "kafka:9003"])

    def to_try() -> set[int]:
        return {broker.port for broker in client.cluster.bootstrap_brokers()}

    try:
        assert to_try() == {9001, 9002, 9003}
        backoffs = {broker.port: (broker.node_id, broker.port - 9000) for broker in client.cluster.bootstrap_brokers()}
        for port, left in ((9003, {9001, 9002}), (9001, {9002}), (9002, {9001})):
            node, hours = backoffs[port]
            client.connections._backoff[node] = (1, time.monotonic() + 3600 * hours)
            assert to_try() == left
    finally:
        client.close()


def test_a_client_asks_the_least_loaded_node_if_none_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked([], {1: 2, 2: 1, 3: 3}, monkeypatch) == {2}


@pytest.mark.parametrize("in_flight", [{1: 0, 2: 2, 3: 1}, {2: 2, 3: 1}], ids=["hangs", "not connected"])
def test_a_client_asks_a_busy_node_rather_than_an_idle_one_that_is_silent(
    in_flight: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked([1], in_flight, monkeypatch) == {3}


def test_a_client_asks_no_node_that_it_may_not_use_now(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {1: 0, 2: 2, 3: 1}
    assert asked([1], busy, monkeypatch, paused=[3]) == {2}
    assert asked([1], busy, monkeypatch, backed_off=[3]) == {2}


def test_a_client_asks_a_silent_node_if_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked([1, 2, 3], {1: 0, 2: 1, 3: 1}, monkeypatch) == {1}
    assert asked([1], {1: 0, 2: 1, 3: 1}, monkeypatch, backed_off=[2, 3]) == {1}


class Connection:
    """Stands for a connection to a broker that accepts requests."""

    def __init__(self) -> None:
        self.answers: list[Future] = []
        self.connected, self.paused, self.in_flight_requests = True, set[str](), list[None]()

    def send_request(self, request: object, request_timeout_ms: float | None = None) -> Future:
        assert request_timeout_ms is None, "the client would close the connection"
        self.answers.append(Future())
        return self.answers[-1]


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[NetClient, dict[int, Connection]]]:
    """A consumer's client, which waits for a description of its topics no longer than it has to; and its connections."""
    client = NetClient(metadata_seconds=0.0, bootstrap_servers=["kafka:9001"])
    connections = client.connections
    monkeypatch.setattr(client.cluster, "brokers", lambda: list(NODES.values()))
    monkeypatch.setattr(client.cluster, "broker_metadata", NODES.get)
    monkeypatch.setattr(connections, "connection_delay", lambda node_id: 0.0)
    made = {number: Connection() for number in NODES}
    monkeypatch.setattr(connections, "get_connection", lambda node_id, **options: made[node_id])
    connections._conns.update(made)
    yield client, made
    connections._conns.clear()
    client.close()


def asked_by(client: NetClient) -> set[int]:
    return {client.least_loaded_node() for _ in range(30)}


def test_a_consumer_asks_another_node_if_one_does_not_describe_its_topics_in_time(
    consumer: tuple[NetClient, dict[int, Connection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, nodes = consumer
    answer = client.connections.send(client.cluster.metadata_request(), 1)
    client.poll(future=answer)
    assert isinstance(answer.exception, KafkaTimeoutError)
    nodes[1].answers[0].success("late")
    assert asked_by(client) == {2, 3}
    monkeypatch.setattr(time, "monotonic", Clock(time.monotonic() + LATE_SECONDS))
    assert asked_by(client) == {1, 2, 3}


@pytest.mark.parametrize("kind", ["metadata", "heartbeat"])
def test_an_answer_in_time_is_taken_as_it_is(kind: str, consumer: tuple[NetClient, dict[int, Connection]]) -> None:
    client, nodes = consumer
    request = client.cluster.metadata_request() if kind == "metadata" else HeartbeatRequest()
    one, other = (client.connections.send(request, number) for number in (1, 2))
    nodes[1].answers[0].success("described")
    nodes[2].answers[0].failure(ValueError("why"))
    assert (one.value, str(other.exception)) == ("described", "why")
    client.poll(timeout_ms=0)
    assert asked_by(client) == {1, 2, 3}
