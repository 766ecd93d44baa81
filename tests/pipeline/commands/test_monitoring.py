"""The options that let a worker be watched, and what they say when something is in the way."""

from __future__ import annotations

import importlib.util
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.management.monitoring import NO_CLIENT, monitored
from django_outbox.worker.state import WorkerState
from tests.support.outbox import make_message
from tests.support.processes import wait_until

WORKERS = ["outbox_relay", "outbox_consume"]


@contextmanager
def watched(caplog: pytest.LogCaptureFixture, **options: Any) -> Iterator[str]:
    """A worker that is watched; its address."""
    caplog.set_level("INFO", "django_outbox")
    given = {"metrics_port": 0, "metrics_addr": "127.0.0.1", "health_timeout": None, "heartbeat_file": None, **options}
    with monitored(
        options.get("worker_state", WorkerState("relay")), given, using="default", handlers=options.get("handlers")
    ):
        (port,) = (record.port for record in caplog.records if getattr(record, "action", "") == "serving")
        yield f"http://127.0.0.1:{port}"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  # the test's own
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.django_db(transaction=True)
def test_metrics_and_probes_are_on_one_port(caplog: pytest.LogCaptureFixture) -> None:
    make_message()
    worker_state = WorkerState("relay")
    with watched(caplog, worker_state=worker_state) as address:
        assert get(f"{address}/healthz")[0] == 200
        assert get(f"{address}/readyz")[0] == 503
        worker_state.record_round()
        assert get(f"{address}/readyz") == (200, "ready: connected\n")
        pending = 'django_outbox_messages{box="outbox",status="pending"} 1.0'
        wait_until(lambda: pending in get(f"{address}/metrics")[1])  # a scrape does not wait long for the database
        assert get(f"{address}/metrics")[0] == 200
    assert "Serving /metrics, /healthz, /readyz on http://127.0.0.1:" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_loop_that_stands_still_is_503(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    worker_state = WorkerState("relay", lambda: now[0])
    with watched(caplog, worker_state=worker_state, health_timeout=5) as address:
        now[0] += 4
        assert get(f"{address}/healthz")[0] == 200
        now[0] += 2
        assert get(f"{address}/healthz") == (
            503,
            "hung: no loop iteration for 6 s (limit: 5 s); see the log\n",
        )


def test_limits_that_an_outage_would_pass_are_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with watched(caplog, health_timeout=45):
        pass
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{name}, which would report a worker waiting out an outage as hung. Use 95 s or more."
        for name in ("WatchdogSec= of the unit is 30 s", "--health-timeout is 45 s")
    ]


def test_limits_that_no_outage_passes_are_not_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "95000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with watched(caplog, health_timeout=95):
        pass
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_long_rest_is_added_to_what_systemd_has_to_allow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with monitored(WorkerState("relay", poll_interval=600.0), {}, using="default"):
        pass
    assert "Use 695 s or more." in caplog.text


def test_without_the_extra_probes_are_there_and_metrics_say_what_is_missing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "django_outbox.management.monitoring.find_spec",
        lambda name: None if name == "prometheus_client" else find(name),
    )
    with watched(caplog) as address:
        assert get(f"{address}/healthz")[0] == 200
        assert get(f"{address}/metrics") == (501, f"{NO_CLIENT}\n")
    assert "pip install 'django-kafka-outbox[metrics]'" in caplog.text


def test_handlers_are_measured_only_if_metrics_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    registry.register("order.created", lambda event: None)
    plain = tuple(registry.for_group("tests"))
    handlers = GroupHandlers(registry, "tests")
    with watched(caplog, metrics_port=0, handlers=handlers):
        assert handlers.find("order.created", "outbox") != plain
    handlers = GroupHandlers(registry, "tests")
    with monitored(WorkerState("consumer"), {}, using="default", handlers=handlers):
        assert handlers.find("order.created", "outbox") == plain


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WORKERS)
def test_a_port_in_use_is_said_plainly_before_the_work_begins(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"port {port} on 127.0.0.1 cannot be opened \(Address already in use\)"
        ):
            call_command(name, "--drain", "--metrics-port", str(port))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", ["192.0.2.1", "no such host", ".", f"{'a' * 64}.example", "\udcff"])
def test_an_address_of_another_machine_is_said_plainly(address: str) -> None:
    with pytest.raises(CommandError, match="cannot be opened"):
        call_command("outbox_relay", "--drain", "--metrics-port", "0", "--metrics-addr", address)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WORKERS)
def test_a_heartbeat_file_that_cannot_be_written_is_said_plainly(name: str, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "alive"
    with pytest.raises(CommandError, match=f"The heartbeat file {path} cannot be written: No such file or directory."):
        call_command(name, "--drain", "--heartbeat-file", str(path))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_that_ends_takes_its_heartbeat_file_away(name: str, tmp_path: Path) -> None:
    path = tmp_path / "alive"
    call_command(name, "--drain", "--heartbeat-file", str(path))
    assert not path.exists()


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--metrics-port", "65536", "is too large"),
        ("--metrics-port", "http", "is not a number from 0"),
        ("--health-timeout", "0", "is not a number from 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(option: str, value: str, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        call_command("outbox_relay", option, value)
