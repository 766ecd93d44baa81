"""A worker without its broker stays alive for its probes, and ends in time."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Command, wait_until
from tests.support.servers.process import free_port

Start = Callable[..., Command]

PORT = ("--metrics-port", 0)


def address_of(command: Command) -> str:
    return command.wait_for_line(r"Serving .* on (http://\S+?)\.?$")[1]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  # the test's own
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(address: str) -> dict[str, float]:
    """Each series' sum over its labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(get(f"{address}/metrics")[1]):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


@pytest.mark.parametrize("name", ["outbox_relay", "outbox_consume"])
def test_a_worker_whose_broker_is_away_is_alive_and_not_ready_and_ends_in_time(
    name: str, manage: Start, send: Any, tmp_path: Path
) -> None:
    send("test.effect")
    alive = tmp_path / "alive"
    command = manage(name, *PORT, "--heartbeat-file", alive, env={"KAFKA_URL": f"kafka://127.0.0.1:{free_port()}"})
    address = address_of(command)
    command.wait_for_line("The broker: ")

    assert get(f"{address}/healthz")[0] == 200
    assert get(f"{address}/readyz")[0] == 503
    assert samples(address)["django_outbox_broker_up"] == 0
    wait_until(lambda: samples(address).get("django_outbox_messages") == 1, what="the database is there")
    before = alive.stat().st_mtime
    wait_until(lambda: alive.stat().st_mtime > before)
    command.stop_in_time()
    assert not alive.exists()
