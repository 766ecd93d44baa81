"""Turn Ctrl-C and polite kill signals into an exception at places that expect it."""

import signal
import time
from types import FrameType
from typing import Self

from .errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK = 0.05


class Interrupts:
    """While active, a signal only leaves a note, and the next `pause()` raises `Stopped`.

    So no process is ever between started and known when the demo is told to stop.
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
        """From now on nothing disturbs the cleaning up, which takes a few seconds at most."""
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def pause(self, seconds: float) -> None:
        """Sleep; raise `Stopped` as soon as a signal has come."""
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
