"""Stopping a worker: a request that signals make, and that ends a wait at once."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import HasFileno

# Needs no file descriptor, unlike the default, so that waiting also works when the process has none left.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Stop:
    """A request to stop, which ends a wait at once.

    Signal handlers may call it. Setting a ``threading.Event`` there can deadlock with the wait that the signal
    interrupts, as both take the same lock.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self.requested = False

    def request(self) -> None:
        if not self.requested:
            self.requested = True
            self._writer.send(b"\0")

    def wait(self, seconds: float | None, *others: HasFileno) -> bool:
        """Wait up to this many seconds, or forever if None; return True if a stop was requested.

        The wait also ends when one of the ``others`` is readable.
        """
        if not self.requested and (seconds is None or seconds > 0):
            with Selector() as selector:
                for source in (self._reader, *others):
                    selector.register(source, selectors.EVENT_READ)
                selector.select(seconds)
        return self.requested

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


@contextmanager
def stop_on_signals(log: logging.Logger, on_stop: Callable[[], object] = lambda: None) -> Iterator[Stop]:
    """Yield a ``Stop`` that SIGTERM and SIGINT request; a second signal ends the process at once.

    In a thread other than the main one, signals do not request it. ``on_stop`` is called in another thread once the
    stop was requested.
    """
    stop = Stop()
    received: list[int] = []

    def on_signal(signum: int, frame: FrameType | None) -> None:
        # No logging here: the signal may have interrupted a write to the same stream.
        if stop.requested:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        received.append(signum)
        stop.request()

    def announce() -> None:
        stop.wait(None)
        on_stop()
        if received:
            log.info(
                "%s received: finishing the work in hand. Send it again to exit at once.",
                signal.Signals(received[0]).name,
                extra={"action": "stopping"},
            )

    in_main_thread = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
    announcer = threading.Thread(target=announce, name="outbox-stop", daemon=True)
    announcer.start()
    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        stop.request()
        announcer.join()
        stop.close()
