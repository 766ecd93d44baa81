"""How each kind of fault is caused and healed."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.chaos.brokers import Brokers, LinkedNode
from tests.chaos.database import Database
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.plan import PUBLISHERS, Planned
from tests.support.brokers.proxy import Proxy

HEAL_SECONDS = 600.0
CLOSE_SECONDS = 60.0
DEPLOY_PAUSE_SECONDS = 1.0


class Closing(Exception):
    """The run ends before the fault is over."""


@dataclass(frozen=True)
class Caused:
    """A fault that has happened, in seconds after the beginning."""

    planned: Planned
    began_at: float
    ended_at: float


@dataclass
class Faults:
    """Causes the faults of a plan, each in a thread of its own.

    Two faults never have the same target at the same time: the later one waits.

    Attributes:
        migrate: brings the app's tables to the second release.
    """

    database: Database
    brokers: Brokers
    fleet: Fleet
    migrate: Callable[[], None]
    say: Callable[[str], None]
    began_at: float
    caused: list[Caused] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _closing: threading.Event = field(default_factory=threading.Event)
    _release: int = 1

    def cause(self, plan: list[Planned]) -> None:
        """Start all faults, each at its time."""
        for planned in plan:
            self._sleep(self.began_at + planned.at - time.monotonic())
            thread = threading.Thread(target=self._cause, args=(planned,), name=str(planned), daemon=True)
            self._threads.append(thread)
            thread.start()

    def heal(self) -> None:
        """Wait until all faults are over."""
        deadline = time.monotonic() + HEAL_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.errors.append(f"not over: {thread.name}")
        for node in self.brokers.linked:
            node.revive()

    def close(self) -> None:
        """End all faults at once, healed, and cause no more."""
        self._closing.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Closing: the run ends.
        """
        if self._closing.wait(max(0.0, seconds)):
            raise Closing

    def _cause(self, planned: Planned) -> None:
        method = getattr(self, f"_{planned.kind.replace('-', '_')}")
        try:
            with self._own(_lock_of(planned)):
                began_at = time.monotonic()
                self.say(str(planned))
                method(planned)
        except Closing:
            return
        except Exception:
            self.errors.append(f"{planned}:\n{traceback.format_exc()}")
            return
        self.caused.append(Caused(planned, began_at - self.began_at, time.monotonic() - self.began_at))

    @contextmanager
    def _own(self, *targets: str) -> Iterator[None]:
        with ExitStack() as stack:
            for target in targets:
                stack.enter_context(self._locks.setdefault(target, threading.Lock()))
            self._sleep(0)
            yield

    # Workers

    def _worker_kill(self, planned: Planned) -> None:
        worker = self.fleet.workers[planned.target]
        self._end(worker, signal.SIGKILL)
        worker.start()

    def _end(self, worker: Worker, number: signal.Signals) -> None:
        """End a worker. One that had ended by itself fails the run; publishers end when they have published all."""
        code = worker.end(number)
        done = code == 0 and (number is signal.SIGTERM or worker.name in PUBLISHERS)
        if not done and code not in (-signal.SIGKILL, -signal.SIGTERM):
            self.errors.append(f"{worker.name} exited with {code}")

    def _worker_stop(self, planned: Planned) -> None:
        worker = self.fleet.workers[planned.target]
        worker.send(signal.SIGSTOP)
        try:
            self._sleep(planned.lasts)
        finally:
            worker.send(signal.SIGCONT)

    def _clock(self, planned: Planned) -> None:
        clock = self.fleet.workers[planned.target].clock
        assert clock is not None
        clock.step(planned.by)

    def _deploy(self, planned: Planned) -> None:
        """Migrate, then replace one worker after the other; the next time back to the old release, without migrating."""
        self._release = 3 - self._release
        if self._release == 2:
            self.migrate()
        for name, worker in self.fleet.workers.items():
            with self._own(name):
                worker.release = self._release
                self._end(worker, signal.SIGTERM)
                worker.start()
            self._sleep(DEPLOY_PAUSE_SECONDS)

    # Brokers

    def _broker_kill(self, planned: Planned) -> None:
        self._kill(self.brokers.named(planned.target), planned.lasts)

    def _leader_loss(self, planned: Planned) -> None:
        node = self.brokers.leader_of(0)
        with self._own(f"broker-{node.node_id}"):
            self._kill(node, planned.lasts)

    def _kill(self, node: LinkedNode, seconds: float) -> None:
        node.kill()
        self._sleep(seconds)
        node.revive()

    def _broker_stop(self, planned: Planned) -> None:
        node = self.brokers.named(planned.target)
        node.revive()
        node.suspend()
        try:
            self._sleep(planned.lasts)
        finally:
            node.resume()

    def _disk(self, planned: Planned) -> None:
        node = self.brokers.named(planned.target)
        node.fill_disk()
        try:
            self._sleep(planned.lasts)
        finally:
            node.free_disk()
        node.kill()  # a broker does not use a disk again that has failed
        node.revive()

    def _partitions(self, planned: Planned) -> None:
        with self._own("topic"):
            self.brokers.add_partitions()

    def _topic(self, planned: Planned) -> None:
        self.brokers.delete_topic()
        self.brokers.create_topic()

    # Database

    def _database_restart(self, planned: Planned) -> None:
        self.database.primary.restart()

    def _database_kill(self, planned: Planned) -> None:
        self.database.primary.kill()
        self.database.primary.start()

    def _database_stop(self, planned: Planned) -> None:
        primary = self.database.primary
        try:
            primary.suspend()
            self._sleep(planned.lasts)
        finally:
            primary.resume()

    def _standby_kill(self, planned: Planned) -> None:
        with self._own("database"):
            standby = self.database.standby
            assert standby is not None
            standby.kill()
            self._sleep(planned.lasts)
            standby.start()

    def _failover(self, planned: Planned) -> None:
        with self._own("database"):
            self.database.fail_over()

    # Links

    def _link(self, target: str) -> Proxy:
        return self.database.link if target == "database" else self.brokers.named(target).link

    def _cut(self, planned: Planned) -> None:
        self._link(planned.target).cut()

    def _stall(self, planned: Planned) -> None:
        link = self._link(planned.target)
        link.stall()
        try:
            self._sleep(planned.lasts)
        finally:
            link.heal()

    def _slow(self, planned: Planned) -> None:
        link = self._link(planned.target)

        def late(data: bytes) -> bytes:
            time.sleep(planned.by)
            return data

        link.alter = late
        try:
            self._sleep(planned.lasts)
        finally:
            link.heal()


def _lock_of(planned: Planned) -> str:
    if planned.kind in ("cut", "stall", "slow"):
        return f"link of {planned.target}"
    return planned.target or planned.kind.partition("-")[0]
