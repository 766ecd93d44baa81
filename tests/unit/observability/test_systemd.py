"""What systemd is told: that a worker has started, that its loop goes on, and that it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_outbox.observability.health import notifying_systemd, watchdog_seconds
from django_outbox.worker.state import WorkerState


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.setblocking(False)
        yield receiver


def told(systemd: socket.socket) -> list[str]:
    """What has come since the last look."""
    states = []
    while True:
        try:
            states.append(systemd.recv(100).decode())
        except BlockingIOError:
            return states


def test_it_is_told_of_start_turns_and_end(systemd: socket.socket) -> None:
    now = [100.0]
    worker_state = WorkerState("relay")
    with notifying_systemd(worker_state, lambda: now[0]):
        assert told(systemd) == ["READY=1"]
        worker_state.record_progress()
        worker_state.record_progress()
        assert told(systemd) == ["WATCHDOG=1"], "once a second at most"
        now[0] += 1
        worker_state.record_fault("The broker: away", is_broker=True)
        assert told(systemd) == ["WATCHDOG=1"], "an outage is no standstill"
    assert told(systemd) == ["STOPPING=1"]


def test_nothing_is_told_where_nobody_asks(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    worker_state = WorkerState("relay")
    with notifying_systemd(worker_state):
        worker_state.record_progress()
    assert told(systemd) == []


def test_a_socket_that_is_gone_or_full_stops_nothing(systemd: socket.socket) -> None:
    now = [100.0]
    worker_state = WorkerState("relay")
    with notifying_systemd(worker_state, lambda: now[0]):
        for _ in range(5000):
            now[0] += 2
            worker_state.record_progress()
        assert told(systemd)
        Path(systemd.getsockname()).unlink()
        now[0] += 2
        worker_state.record_progress()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_it_says_how_long_it_waits_for_a_turn(
    environment: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert watchdog_seconds() == seconds
