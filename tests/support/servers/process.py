"""Child processes and temporary directories that never outlive the test run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

WATCHDOG = Path(__file__).with_name("watchdog.py")
# Below the range that systems take for outgoing connections: a server that is stopped and started again on its port
# must not find a client sitting there.
PORTS = range(20_000, 32_000)
PORTS_EACH = 500


@functools.cache
def _watchdog() -> IO[str]:
    """Start the run's watchdog (once) and return the pipe that it listens to."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(WATCHDOG)], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    process.returncode = 0  # it ends after this process: nobody waits for it, and Popen need not warn of that
    assert process.stdin is not None
    atexit.register(process.stdin.close)
    return process.stdin


def _tell_watchdog(*words: Any) -> None:
    pipe = _watchdog()
    pipe.write(json.dumps(words) + "\n")
    pipe.flush()


def spawn(
    command: Sequence[str | Path],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start `command` in a process group of its own, registered with the watchdog.

    A group of its own also keeps the terminal's Ctrl-C from it: whoever started it stops it.
    """
    process = subprocess.Popen(list(map(str, command)), env=env, start_new_session=True, **options)
    _tell_watchdog("group", process.pid, stop_signal)
    return process


def stop(process: subprocess.Popen[Any], *, stop_signal: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
    """End what `spawn` started, its whole group, by force if it does not end by itself in time."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a suspended process would not see the next one
        process.send_signal(stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
    # Also what the process itself may have left: children stay in its group when it is gone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _tell_watchdog("forget", process.pid)
    return process.returncode


def watch(group: int) -> None:
    """Register a process group that `spawn` did not start with the watchdog, to be killed after the run."""
    _tell_watchdog("group", group, signal.SIGKILL)


def forget(group: int) -> None:
    """Take a process group off again."""
    _tell_watchdog("forget", group)


def make_directory(prefix: str) -> Path:
    """Make a temporary directory, registered with the watchdog."""
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-")).resolve()
    _tell_watchdog("directory", str(directory))
    return directory


def remove_directory(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _tell_watchdog("forget", str(directory))


@functools.cache
def _ports() -> Iterator[int]:
    """Ports for this process alone, again and again: runs side by side must not give each other's away."""
    firsts = range(PORTS.start, PORTS.stop, PORTS_EACH)
    for first in random.sample(firsts, len(firsts)):
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
        else:
            atexit.register(guard.close)  # until then those behind it are this process's own
            return itertools.cycle(range(first + 1, first + PORTS_EACH))
    return itertools.cycle(random.sample(PORTS, PORTS_EACH))


def free_port() -> int:
    """Return a free port of 127.0.0.1 that nobody was given before, at least not for long."""
    for port in itertools.islice(_ports(), PORTS_EACH):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")
