"""Waiting for conditions, and real commands in processes of their own."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.servers.process import spawn, stop

ROOT = Path(__file__).parents[2]
# For a worker to end after a signal: two as promised, and two for what a busy machine adds.
STOP_SECONDS = 4.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 60, *, what: str = "") -> T:
    """Call `condition` until it returns something true, and return that; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}; at last it was {result!r}")
        time.sleep(0.02)
    return result


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the beginning, without those in which this machine let even a thread that slept wait.

    For what a program promises to do in a time: a virtual machine may stand still for longer than that.
    """
    started = before = time.monotonic()
    stalled = 0.0
    ended = threading.Event()

    def late(now: float) -> float:
        """For how long the watch has been kept from looking; less than a moment is nothing."""
        seconds = now - before - 0.05
        return seconds if seconds > 0.1 else 0

    def watch() -> None:
        nonlocal before, stalled
        while not ended.wait(0.05):
            now = time.monotonic()
            stalled, before = stalled + late(now), now

    def seconds() -> float:
        now = time.monotonic()
        return now - started - stalled - late(now)

    thread = threading.Thread(target=watch, name="stopwatch", daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing meanwhile, as if all its file descriptors were in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Program:
    """A program as a real process. Its standard output and error are one stream, which can be read while it runs."""

    def __init__(
        self, name: str, command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.name = name
        self._lines: list[str] = []
        self._seen = 0
        self._ended = False
        self._changed = threading.Condition()
        self.process: subprocess.Popen[str] = spawn(
            list(map(str, command)),
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        with self._changed:
            return "\n".join(self._lines)

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        return self.process.poll()

    def wait_for_line(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Wait for a line in which `pattern` (a regular expression) is found.

        The search goes on after the line that the last call found, so that a second call waits for a second line.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                while self._seen < len(self._lines):
                    line = self._lines[self._seen]
                    self._seen += 1
                    if found := expression.search(line):
                        return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    ending = "it ended without" if self._ended else f"not within {timeout:g} s:"
                    raise AssertionError(f"{self.name}: {ending} a line like {pattern!r}:\n{self.output}")
                self._changed.wait(left)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Wait until it ends by itself and return its exit code."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: not within {timeout:g} s: its end:\n{self.output}") from None
        return self.close()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal, wait until it ends and return its exit code."""
        self.send_signal(number)
        return self.wait(timeout)

    def stop_in_time(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and insist that it ends well, and as soon as workers promise."""
        with stopwatch() as seconds:
            assert self.stop(number) == 0
            assert seconds() < STOP_SECONDS

    def kill(self) -> None:
        """End it at whatever instruction it is."""
        self.process.kill()
        self.close()

    def close(self) -> int:
        """End it and everything that it started, by force if it still runs."""
        returncode = stop(self.process, stop_signal=signal.SIGKILL)
        self._reader.join(10)
        return returncode

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Command(Program):
    """A Django command as a real process: `Command("outbox_relay", "--drain", env=subprocess_env)`."""

    def __init__(self, name: str, *arguments: object, env: Mapping[str, str]) -> None:
        super().__init__(name, [sys.executable, "-m", "django", name, *arguments], env=env)
