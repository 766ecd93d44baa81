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


@contextmanager
def heartbeat_file(path: Path, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], None]]:
    """A file that exists while a worker runs; yields a function for its loop, which touches it at most once a second.

    Later errors are logged and do not stop the worker.

    Raises:
        OSError: the file cannot be written.
    """
    path.touch()
    incident = Incident(log, f"The heartbeat file {path}", clock)
    next_at = 0.0

    def touch() -> None:
        nonlocal next_at
        now = clock()
        if now < next_at:
            return
        next_at = now + SECONDS
        try:
            path.touch()
        except OSError as error:
            incident.report(error.strerror or error)
        else:
            incident.resolve()

    try:
        yield touch
    finally:
        with suppress(OSError):
            path.unlink()
