"""Real workers, watched from outside as Prometheus and Kubernetes watch them."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from django_outbox.models import OutboxMessage
from tests.support.brokers.proxy import Proxy
from tests.support.processes import Command, wait_until

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


def test_workers_count_what_they_do(send: Any, relay: Start, consumer: Start, consumed: Any) -> None:
    of_relay, of_consumer = address_of(relay(*PORT)), address_of(consumer(*PORT))
    for number in range(20):
        send("test.effect", number)
    consumed(20)

    wait_until(lambda: samples(of_consumer)["django_outbox_consumed_total"] == 20)
    assert samples(of_relay)["django_outbox_published_total"] == 20
    assert samples(of_consumer)["django_outbox_handler_duration_seconds_count"] >= 20
    assert samples(of_consumer)["django_outbox_end_to_end_latency_seconds_count"] == 20
    assert samples(of_relay)["django_outbox_broker_up"] == samples(of_consumer)["django_outbox_broker_up"] == 1
    assert get(f"{of_relay}/readyz")[0] == get(f"{of_consumer}/readyz")[0] == 200


def test_a_handler_that_hangs_makes_its_consumer_unhealthy(
    send: Any, relay: Start, consumer: Start, tmp_path: Path
) -> None:
    relay()
    command = consumer(*PORT, "--health-timeout", 1)
    address = address_of(command)
    send("test.sleeps")
    # Counted, and so in its handler. Before that, joining the group may take a second as well.
    wait_until(lambda: OutboxMessage.objects.get().delivery_count == 1)

    wait_until(lambda: get(f"{address}/healthz")[0] == 503)

    assert "hung: no loop iteration for" in get(f"{address}/healthz")[1]
    assert get(f"{address}/metrics")[0] == 200
    command.send_signal(signal.SIGKILL)


@pytest.mark.databases("postgresql")
def test_a_database_that_hangs_delays_no_scrape_and_no_probe(
    relay: Start, subprocess_env: dict[str, str], send: Any
) -> None:
    send("test.effect")
    url = urlsplit(subprocess_env["DATABASE_URL"])
    assert url.port is not None
    with Proxy() as proxy:
        proxy.target = url.port
        through = url._replace(netloc=url.netloc.replace(str(url.port), str(proxy.port)))
        command = relay(*PORT, env={"DATABASE_URL": urlunsplit(through)})
        address = address_of(command)
        wait_until(lambda: get(f"{address}/readyz")[0] == 200)
        proxy.stall()
        for _ in range(3):
            started = time.monotonic()
            read = samples(address)
            assert time.monotonic() - started < 20
            assert "django_outbox_messages" not in read
            assert read["django_outbox_published_total"] == 1
        assert get(f"{address}/healthz")[0] == 200
        command.kill()


def test_two_workers_on_one_port_are_told_apart(relay: Start, consumer: Start) -> None:
    port = int(address_of(relay(*PORT)).rpartition(":")[2])
    second = consumer("--metrics-port", port)
    assert second.wait() == 1
    assert f"CommandError: The metrics port {port} on 127.0.0.1 cannot be opened" in second.output
    assert "Traceback" not in second.output
