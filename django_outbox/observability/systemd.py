"""Tells systemd, where it asks for it (``Type=notify``, ``WatchdogSec=``), that a worker has started and that its loop goes on.

Source: sd_notify(3) and sd_watchdog_enabled(3): datagrams to the socket that the environment names.
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
    """How long systemd lets this process say nothing before it ends it (``WatchdogSec=``); None if for ever."""
    try:
        limit, process = int(os.environ["WATCHDOG_USEC"]), int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return limit / 1_000_000 if process == os.getpid() else None


@contextmanager
def told_to_systemd(worker_state: WorkerState, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Tell systemd of a worker meanwhile; nothing if it is not systemd that started this process."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        yield
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    tell_at = 0.0

    def tell(state: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # the loop waits for nobody
            channel.sendto(state.encode(), address)

    def on_turn() -> None:
        nonlocal tell_at
        if clock() >= tell_at:
            tell_at = clock() + SECONDS
            tell("WATCHDOG=1")

    worker_state.on_progress(on_turn)
    tell("READY=1")
    try:
        yield
    finally:
        tell("STOPPING=1")
