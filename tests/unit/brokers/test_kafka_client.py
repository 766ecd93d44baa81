"""Which broker kafka-python's clients ask."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.net.manager import KafkaConnectionManager

from django_outbox.brokers.kafka.client import NetClient

PORTS = {1: 9001, 2: 9002}


@pytest.mark.parametrize(
    ("silent", "asked"),
    [(set(), 1), ({"kafka:9001"}, 2), ({"kafka:9001", "kafka:9002"}, 1)],
    ids=["none", "one", "all"],
)
def test_a_client_asks_no_broker_that_is_known_to_be_silent_if_there_is_another(
    silent: set[str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = NetClient(is_silent=silent.__contains__, bootstrap_servers=["kafka:9001"])
    try:
        chosen = iter([1, 1, 2] * 100)
        monkeypatch.setattr(KafkaConnectionManager, "least_loaded_node", lambda self: next(chosen))
        monkeypatch.setattr(
            client.cluster, "broker_metadata", lambda number: SimpleNamespace(host="kafka", port=PORTS[number])
        )
        assert client.connections.least_loaded_node() == asked
        assert client.least_loaded_node() == asked
    finally:
        client.close()
