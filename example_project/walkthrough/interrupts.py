"""Turn Ctrl-C and termination signals into an exception at places that expect it."""

import signal
import time
from types import FrameType
from typing import Self

from .errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK = 0.05


class Interrupts:
    """While active, a signal is only recorded, and the next `pause()` raises `Stopped`.

    A signal therefore never comes between starting a process and recording that it runs.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    def __enter__(self) -> Self:
        for signum in SIGNALS:
            if signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN:
                continue  # started by nohup
            signal.signal(signum, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_DFL)

    def ignore(self) -> None:
        """Ignore further signals during the cleanup, which takes a few seconds at most."""
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def pause(self, seconds: float) -> None:
        """Sleep; raise `Stopped` as soon as a signal arrives."""
        until = time.monotonic() + seconds
        while True:
            if self._received is not None:
                raise Stopped(128 + self._received)
            rest = until - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(rest, TICK))

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
