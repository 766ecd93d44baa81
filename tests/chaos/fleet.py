"""The processes of a run: relays, consumers and publishers, with clocks and releases of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path

from tests.chaos import clock
from tests.chaos.options import Options
from tests.chaos.plan import PUBLISHERS, WORKERS
from tests.support.processes import ROOT, wait_until
from tests.support.servers.process import spawn, stop

COMMANDS: dict[str, tuple[object, ...]] = {
    "relay-1": ("outbox_relay",),
    "relay-2": ("outbox_relay",),
    "consumer-1": ("outbox_consume",),
    "consumer-2": ("outbox_consume", "--concurrency", 4),
    "consumer-3": ("outbox_consume", "--concurrency", 8),
}
START_SECONDS = 180.0
STOP_SECONDS = 300.0


def old_revision(options: Options) -> str:
    """The revision of the package that the old release runs; empty: that of the sources."""
    if options.old:
        return "" if options.old == "same" else options.old
    # The first code that has today's tables: an older one would need other migrations.
    asked = ["git", "log", "-1", "--format=%h", "--", "django_outbox/migrations"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return done.stdout.strip()


def has_old_package(revision: str) -> bool:
    """True if git has the package of a revision, and it is not that of the sources."""
    asked = ["git", "diff", "--quiet", revision, "--", "django_outbox"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, check=False)
    except OSError:
        return False
    return bool(revision) and done.returncode == 1


def old_sources(revision: str, folder: Path) -> Path:
    """Where the old release runs: the package of a revision, and the tests of today."""
    if not revision:
        return ROOT
    archive = ["git", "archive", revision, "django_outbox"]
    done = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


@dataclass
class Worker:
    """A process that can be killed, suspended and started again.

    Attributes:
        lock: who holds it causes a fault of this worker.
        release: that it runs from its next start on.
    """

    name: str
    command: tuple[object, ...]
    env: Mapping[str, str]
    folders: Mapping[int, Path]
    log: Path
    clock: clock.Clock | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    release: int = 1
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**self.env, "OUTBOX_CHAOS_RELEASE": str(self.release)}
        command = [sys.executable, "-m", "django", *map(str, self.command)]
        with self.log.open("ab") as log:
            log.write(f"--- release {self.release}\n".encode())
            log.flush()
            self.process = spawn(
                command,
                env=env,
                cwd=self.folders[self.release],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self, number: signal.Signals) -> int:
        """End it by a signal and return its exit code."""
        assert self.process is not None
        code = stop(self.process, stop_signal=number, timeout=STOP_SECONDS)
        with self.log.open("a") as log:
            log.write(f"--- {number.name}, exit code {code}\n")
        return code

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class Fleet:
    """All workers of a run, by name."""

    def __init__(self, env: Mapping[str, str], folder: Path, old: Path, *, clocks: bool) -> None:
        """
        Args:
            folder: of logs and clocks.
            old: the sources of the old release.
            clocks: workers have clocks that can be stepped.
        """
        library = clock.build(folder) if clocks else None
        self.workers: dict[str, Worker] = {}
        for name in WORKERS:
            own = clock.Clock(library, folder / f"{name}.clock") if library else None
            command, log = COMMANDS.get(name, ()), folder / f"{name}.log"
            self.workers[name] = Worker(name, command, {**env, **(own.env if own else {})}, {1: old, 2: ROOT}, log, own)

    def start(self) -> None:
        """Start relays and consumers, and wait until they work."""
        for name in COMMANDS:
            self.workers[name].start()
        for name in COMMANDS:
            wait_until(partial(self._has_started, name), START_SECONDS, what=f"{name} started")

    def _has_started(self, name: str) -> bool:
        return " started." in self.workers[name].log.read_text()

    def publish(self, stream: Path, rate: float, began_at: float) -> None:
        """Start the publishers.

        Args:
            stream: the file of all flights.
            rate: flights a second.
            began_at: when the first is due, in monotonic seconds.
        """
        for number, name in enumerate(PUBLISHERS):
            share = ("--share", number, "--shares", len(PUBLISHERS))
            worker = self.workers[name]
            worker.command = ("chaos_publish", *share, "--flights", stream, "--rate", rate, "--began-at", began_at)
            worker.start()

    def ended(self) -> list[str]:
        """Workers that do not run, although they must."""
        codes = {name: worker.process.poll() for name, worker in self.workers.items() if worker.process}
        return [name for name, code in codes.items() if code or (code == 0 and name not in PUBLISHERS)]

    def stop(self) -> dict[str, int]:
        """End all at once and return the exit codes that are not 0."""
        for worker in self.workers.values():
            worker.send(signal.SIGTERM)
        codes = {}
        for name, worker in self.workers.items():
            if worker.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(STOP_SECONDS)
                codes[name] = worker.end(signal.SIGKILL)
        return {name: code for name, code in codes.items() if code and name not in PUBLISHERS}


def environment(options: Options, database: str, brokers: str) -> dict[str, str]:
    """What all workers have in common."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CHAOS_")},
        "DATABASE_URL": database,
        "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
        "KAFKA_URL": brokers,
        "OUTBOX_BACKEND": options.backend_path,
        "PYTHONUNBUFFERED": "1",
    }
