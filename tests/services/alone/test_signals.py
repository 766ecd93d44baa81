"""Workers without work end on a signal, as soon as they promise."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.support.processes import Command

Start = Callable[..., Command]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_commands_end_at_once_on_a_signal(number: signal.Signals, relay: Start, consumer: Start) -> None:
    commands = [relay(), consumer()]
    for command in commands:
        command.wait_for_line("started")

    for command in commands:
        command.stop_in_time(number)

    assert all("stopped." in command.output.splitlines()[-1] for command in commands)
