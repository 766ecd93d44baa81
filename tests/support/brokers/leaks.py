"""What a closed client must not leave behind: threads and sockets."""

from __future__ import annotations

import gc
import socket
import threading
from pathlib import Path

from tests.support.processes import wait_until


def python_sockets() -> set[int]:
    """The open sockets of Python code."""
    # Not isinstance(), which would wake lazy objects of other libraries.
    return {item.fileno() for item in gc.get_objects() if type(item) is socket.socket and item.fileno() != -1}


def wait_until_closed(threads: set[threading.Thread], sockets: set[int]) -> None:
    """Wait until no others than these are left; a client that is slow to close is closed in the background."""
    wait_until(lambda: set(threading.enumerate()) <= threads, what="all threads have ended")
    wait_until(lambda: python_sockets() <= sockets, what="all sockets are closed")


def count_sockets() -> int:
    """How many sockets the process has, including those of C libraries."""
    found = 0
    for file in Path("/dev/fd").iterdir():
        try:
            socket.socket(fileno=int(file.name)).detach()
            found += 1
        except OSError:
            continue
    return found
