"""Notifies systemd (``Type=notify``, ``WatchdogSec=``) that a worker has started and that its loop iterates.

See sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from django_outbox.worker.state import WorkerState

SECONDS = 1.0


def watchdog_seconds() -> float | None:
    """The watchdog timeout of this process (``WatchdogSec=``); None if there is none."""
    try:
        limit, process = int(os.environ["WATCHDOG_USEC"]), int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return limit / 1_000_000 if process == os.getpid() else None


@contextmanager
def notifying_systemd(worker_state: WorkerState, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Notify systemd inside the block. Does nothing if systemd did not start this process."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        yield
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    next_at = 0.0

    def notify(state: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # the loop must not wait
            channel.sendto(state.encode(), address)

    def on_turn() -> None:
        nonlocal next_at
        if clock() >= next_at:
            next_at = clock() + SECONDS
            notify("WATCHDOG=1")

    worker_state.on_progress(on_turn)
    notify("READY=1")
    try:
        yield
    finally:
        notify("STOPPING=1")
