"""The test's side of watched processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT
from tests.support.servers.process import make_directory, remove_directory, spawn, stop
from tests.support.watched.zygote import Request

SECONDS = 100.0
"""A process or a condition that takes longer hangs."""


class Zygote:
    """Starts watched processes; each costs a fork in place of half a second."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.directory = make_directory("watched")
        self._numbers = itertools.count()
        socket = str(self.directory / "zygote")
        self._process = spawn(
            [sys.executable, "-m", "tests.support.watched.zygote", socket],
            env={**env, "DJANGO_SETTINGS_MODULE": "tests.support.watched.settings"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._socket = socket

    def start(self, *work: Any, label: str, **request: Any) -> Watched:
        """Start a process; arguments as of ``Request``."""
        files = self.directory / f"{next(self._numbers)}"
        return Watched(
            self._socket, Request(list(work), label=label, output=f"{files}.out", steps=f"{files}.steps", **request)
        )

    def close(self) -> None:
        """End it, and all that it has started."""
        stop(self._process, stop_signal=signal.SIGKILL)
        assert self._process.stdout is not None
        self._process.stdout.close()
        remove_directory(self.directory)


class Watched:
    """A process that a zygote has started."""

    def __init__(self, socket: str, request: Request) -> None:
        self.request = request
        self._connection: Connection = Client(socket, "AF_UNIX")
        self._connection.send(request)
        self.pid: int = self._connection.recv()
        self._status: int | None = None

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Sides and names of the steps so far, in the order in which they were first passed."""
        path = Path(self.request.steps)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(side, name) for side, _, name in (line.partition(" ") for line in lines)]

    @property
    def output(self) -> str:
        path = Path(self.request.output)
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def has_ended(self) -> bool:
        return self.ends_within(0)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end for so long; True if it has ended."""
        if self._status is None and self._connection.poll(seconds):
            self._status = self._connection.recv()
            self._connection.close()
        return self._status is not None

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for its end; the exit code, or the negative number of the signal that ended it."""
        if not self.ends_within(seconds):
            raise AssertionError(f"not within {seconds:g} s: the end of {self}")
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)

    def send_signal(self, number: signal.Signals) -> None:
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.request.work))}\n{self.output}"
