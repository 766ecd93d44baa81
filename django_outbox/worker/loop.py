"""Running for years: stopping on signals, waiting, backing off, and telling trouble once."""

from __future__ import annotations

import gc
import logging
import os
import random
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from django.db import DEFAULT_DB_ALIAS

from django_outbox.exceptions import BrokerUnavailable, in_one_line
from django_outbox.worker.faults import drop_broken_connections, is_unavailable
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.pooling import stop_preparing

RELAPSE_SECONDS = 5.0
BACKOFF_SECONDS = (0.5, 30.0)

# Unlike the usual one it needs no file descriptor, so that a wait is a wait also when the process has none left.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class HasFileno(Protocol):
    """What the operating system can wait for, such as a socket."""

    def fileno(self) -> int: ...


class Stop:
    """A request to end, that a signal handler may make and that ends a wait at once.

    A ``threading.Event`` would not do: setting one from a signal handler can deadlock with the
    wait that it interrupts, as both take the same lock.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._requested = False

    def request(self) -> None:
        if not self._requested:
            self._requested = True
            self._writer.send(b"\0")

    @property
    def requested(self) -> bool:
        return self._requested

    def wait(self, seconds: float | None, *others: HasFileno) -> bool:
        """Wait for at most this long, None for ever; True if the end was requested.

        The wait also ends when there is something to read from one of the ``others``.
        """
        if not self._requested and (seconds is None or seconds > 0):
            with Selector() as selector:
                for source in (self._reader, *others):
                    selector.register(source, selectors.EVENT_READ)
                selector.select(seconds)
        return self._requested

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


@contextmanager
def stop_on_signals(log: logging.Logger, on_stop: Callable[[], object] = lambda: None) -> Iterator[Stop]:
    """A ``Stop`` that SIGTERM and SIGINT request; a second signal ends the process at once.

    In a thread, where signals cannot be caught, it is one that only code can request.

    Args:
        log: where the first signal is told.
        on_stop: called, in a thread of its own, when the end was requested.
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
                "%s received: finishing the work in hand. Send it again to end at once.",
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


class Backoff:
    """Growing delays: half a second, doubled each time up to 30 s, with up to 20 % jitter."""

    def __init__(
        self,
        seconds: tuple[float, float] = BACKOFF_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._most = seconds
        self._jitter = jitter
        self._failures = 0

    def next(self) -> float:
        delay = min(self._first * 2.0 ** min(self._failures, 16), self._most)
        self._failures += 1
        return delay * (1 - 0.2 * self._jitter())

    def reset(self) -> None:
        self._failures = 0


class Trouble:
    """One fault that may last: logged when it starts, once a minute while it lasts, at its end.

    What comes back within seconds was never gone, such as a fault that a consumer meets at its first poll after each
    join: it goes on, with its backoff, and is over only when it has stayed away for as long.
    """

    def __init__(
        self,
        log: logging.Logger,
        subject: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        level: int = logging.ERROR,
        outages: OutageLog | None = None,
        apart: bool = False,
    ) -> None:
        """
        Args:
            log: where it is logged.
            subject: as a sentence begins with it.
            clock: seconds, monotonic.
            level: of the log lines.
            outages: what else may be part of the same outage; None: nothing.
            apart: whether it is logged there for itself.
        """
        self._level = level
        self.subject = subject
        self._clock = clock
        self._outages = outages or OutageLog(log, clock)
        self.apart = apart
        self._since: float | None = None
        self._before: float | None = None  # since when, of what was over last
        self._over_at = 0.0
        self._well_since: float | None = None
        self._relapsed = False
        self._backoff = Backoff()

    @property
    def lasts(self) -> bool:
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when all is well."""
        return 0.0 if self._since is None else self._clock() - self._since

    def report(self, reason: object) -> float:
        """Note that it is (still) there; returns the seconds to wait before the next try."""
        now, self._well_since = self._clock(), None
        is_new = self._since is None
        if is_new:
            self._relapsed = self._before is not None and now - self._over_at < RELAPSE_SECONDS
            if not self._relapsed:
                self._before = now
                self._backoff.reset()
            self._since = self._before
        self._outages.report(self.subject, str(reason), level=self._level, apart=self.apart, is_new=is_new)
        return self._backoff.next()

    def over(self) -> None:
        """Note that all is well."""
        if self._since is None:
            return
        now = self._clock()
        self._well_since = now if self._well_since is None else self._well_since
        if self._relapsed and now - self._well_since < RELAPSE_SECONDS:
            return
        self._outages.over(self.subject)
        self._since = None
        self._over_at = now


def calm_collector() -> None:
    """Let the garbage collector leave alone what was loaded before the work begins, and come less often.

    By default it walks all live objects again and again while rows are read, which took a sixth of a relay's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def run_through_faults(
    stop: Stop,
    step: Callable[[], float | None],
    *,
    log: logging.Logger,
    using: str = DEFAULT_DB_ALIAS,
    patience: float | None = None,
    wait_for_work: Callable[[float], object] | None = None,
    on_fault: Callable[[str, bool], object] = lambda reason, is_broker: None,
    outages: OutageLog | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call ``step`` until it returns None or ``stop`` is requested, whatever happens meanwhile.

    Args:
        stop: ends the loop, and any wait in it at once.
        step: returns the seconds to wait before the next call; None means that all is done.
        log: where faults are told, once each.
        using: alias of the database that ``step`` works with.
        wait_for_work: waits between calls; None takes ``stop.wait``. Waits after a fault are always
            ``stop.wait``.
        on_fault: called with the reason of each fault, and whether it is the broker's; else it is the database's.
        outages: where else an outage of the broker may show.
        patience: seconds after which a fault that lasts is raised; None waits for ever.
        clock: seconds, monotonic.

    Raises:
        BrokerUnavailable, OperationalError, InterfaceError, InternalError: only with ``patience``. The last is what
            PostgreSQL says when it takes no writes.
    """
    outages = outages or OutageLog(log, clock)
    broker = Trouble(log, "The broker", clock, outages=outages)
    database = Trouble(log, "The database", clock)
    try:
        while not stop.requested:
            try:
                wait = step()
                broker.over()
                database.over()
                outages.tick()
                if wait is None:
                    return
                (wait_for_work or stop.wait)(wait)
            except Exception as error:
                if stop_preparing(error, using):
                    continue
                if not isinstance(error, BrokerUnavailable) and not is_unavailable(error):
                    raise
                if _has_to_end(stop):  # which may be why it was given up
                    return
                trouble = broker if isinstance(error, BrokerUnavailable) else database
                on_fault(f"{trouble.subject}: {in_one_line(error)}", trouble is broker)
                drop_broken_connections(error)
                delay = trouble.report(in_one_line(error))
                if patience is not None and trouble.seconds >= patience:
                    raise
                stop.wait(delay)
    finally:
        outages.tick(ending=True)


def _has_to_end(stop: Stop) -> bool:
    return stop.requested  # a function, since mypy takes it for unchanged since the head of the loop
