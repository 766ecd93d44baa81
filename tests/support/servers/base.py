"""What all services have in common: start, be ready before a deadline, stop, leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.servers.process import free_port, make_directory, remove_directory, spawn, stop


class ServiceError(RuntimeError):
    """A service is missing, or did not start; the message says what to do or what it wrote."""


class Service(ABC):
    """A server on 127.0.0.1 with a directory of its own.

    `stop()` ends the process and keeps directory and port, so that `start()` brings back the same server:
    that is how a test takes it away for a while. `close()`, or leaving the `with` block, removes everything.
    """

    name: str
    releases: Mapping[str, str] = {}
    """Releases besides the usual one that a run can choose, and the exact version of each."""
    release: str | None = None
    """The one that the run has chosen, for all servers of this class; None for the usual one."""
    stop_signal = signal.SIGTERM
    start_timeout = 30.0
    end_timeout = 30.0

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._directory: Path | None = None

    @classmethod
    def choose(cls, release: str) -> None:
        """Let all servers of this class be of another release.

        Raises:
            ServiceError: this release is not known.
        """
        if release not in cls.releases:
            known = ", ".join(cls.releases) or "none"
            raise ServiceError(f"release {release} of {cls.name} is not known; known besides the usual one: {known}")
        cls.release = release

    # What a service has to say of itself

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def prepare(self) -> None:
        """Set up `directory` before the first start."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command that runs the server in the foreground on `port`."""

    @abstractmethod
    def probe(self) -> None:
        """Return if the server answers; raise any exception if it does not (yet)."""

    @abstractmethod
    def version(self) -> str:
        """Say what this is, for the head of the test report."""

    def spawn_options(self) -> Mapping[str, Any]:
        """Return further arguments for the server's `Popen`."""
        return {}

    # Life

    def start(self) -> Self:
        first = self._directory is None
        if first:
            self._directory = make_directory(f"test-{self.name}")
        try:
            if first:
                self.prepare()
                self._start_on_a_free_port()
            else:
                self._start()
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, stop_signal=self.stop_signal)
            self.process = None
        if self._lifeline is not None:
            lifeline, self._lifeline = self._lifeline, None
            self._await_last_process(lifeline)

    def kill(self) -> None:
        """Take the server down as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.stop()

    def suspend(self) -> None:
        """Let the server hang: connections stay open, nothing is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # a signal is sent before it is obeyed

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        if self._directory is not None:
            remove_directory(self._directory)
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Parts

    @property
    def directory(self) -> Path:
        if self._directory is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._directory

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def run(self, command: Sequence[str | Path], **options: Any) -> str:
        """Run a tool of the service to its end and return what it printed."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **options
        )
        if done.returncode:
            raise ServiceError(f"{self.name}: {Path(command[0]).name} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def _await_last_process(self, lifeline: int) -> None:
        """Wait until nobody has the other end of a pipe that all processes of the server inherit.

        Those of PostgreSQL are each in a session of their own, and outlive their killed parent by a moment, in which
        its data is still in use.
        """
        try:
            if not select.select([lifeline], [], [], self.end_timeout)[0]:
                raise ServiceError(f"{self.name}: processes of it still run {self.end_timeout:g} s after its end")
        finally:
            os.close(lifeline)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self.process

    def _start_on_a_free_port(self, tries: int = 3) -> None:
        """Start; a port that was free can be taken by the time that the server asks for it: then take another."""
        while True:
            self.port = free_port()
            try:
                return self._start()
            except ServiceError as error:
                tries -= 1
                if not tries or "in use" not in str(error):
                    raise

    def _start(self) -> None:
        self._lifeline, held = os.pipe()
        try:
            with self.log.open("ab") as log:
                self.process = spawn(
                    self.command(),
                    stop_signal=self.stop_signal,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    pass_fds=[held],
                    **self.spawn_options(),
                )
        finally:
            os.close(held)
        deadline = time.monotonic() + self.start_timeout
        while True:
            ended = self.process.poll() is not None
            try:
                if not ended:  # what answers now may be somebody else's server
                    return self.probe()
            except Exception as error:
                reason: object = error
            if ended or time.monotonic() > deadline:
                if ended:
                    reason = f"it exited with {self.process.returncode}"
                log_tail = self.log.read_text(errors="replace")[-4000:]
                self.stop()
                raise ServiceError(f"{self.name} did not start: {reason}\n{log_tail}")
            time.sleep(0.02)
