"""Which broker kafka-python's clients ask."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from types import SimpleNamespace

import pytest

from django_outbox.brokers.kafka.client import NetClient

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
