"""A file that the loop touches, for monitoring without HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django_outbox.worker.incident import Incident

log = logging.getLogger(__name__)

SECONDS = 1.0


class HeartbeatFile:
    """Touched by the loop, at most once a second. Errors are logged and do not stop the worker."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next_at = 0.0
        self._incident = Incident(log, f"The heartbeat file {path}", clock)

    def touch(self) -> None:
        """Touch the file, unless that was done less than a second ago."""
        now = self._clock()
        if now < self._next_at:
            return
        self._next_at = now + SECONDS
        try:
            self._path.touch()
        except OSError as error:
            self._incident.report(error.strerror or error)
        else:
            self._incident.resolve()


@contextmanager
def heartbeat_file(path: Path) -> Iterator[HeartbeatFile]:
    """A heartbeat file that exists while a worker runs, and is removed when it shuts down.

    Raises:
        OSError: the file cannot be written.
    """
    path.touch()
    try:
        yield HeartbeatFile(path)
    finally:
        with suppress(OSError):
            path.unlink()
