"""One run: servers, workers, faults, the end, and what was found."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.chaos import clock, timeline
from tests.chaos.brokers import Brokers
from tests.chaos.checker import Findings, check
from tests.chaos.database import Database, Server
from tests.chaos.faults import Caused, Faults
from tests.chaos.fleet import Fleet, environment, has_old_package, old_revision, old_sources
from tests.chaos.gaps import WINDOW_SECONDS, report
from tests.chaos.options import Options
from tests.chaos.plan import Planned
from tests.chaos.stream import Flight, flights, write
from tests.chaos.timeline import Counted, Timeline
from tests.support.processes import ROOT

LOGS = ROOT / ".cache" / "chaos"
PROGRESS_SECONDS = 5.0
STALLED_SECONDS = 300.0
"""Without a handled flight after all faults, the run has failed."""
MIGRATE_SECONDS = 300.0


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        errors: faults that could not be caused, and workers that ended by themselves.
        drained: seconds from the end of the load until all flights were handled; None: they were not.
        releases: flights handled by each release of the app.
        old: the revision of the old release's package; empty: today's.
        gaps: what ``CHAOS_FAULTS=broker-kill`` says of the time after it.
        load: of the machine before the run.
    """

    findings: Findings
    timeline: Timeline
    counted: Counted
    caused: list[Caused]
    errors: list[str]
    drained: float | None
    releases: dict[int, int]
    old: str
    gaps: str
    load: float

    @property
    def verdict(self) -> str:
        """``BROKEN`` if a row is wrong, or the run was not what its plan says; else ``NOT DRAINED``, or ``HOLDS``."""
        if self.findings.broken or self.errors:
            return "BROKEN"
        return "HOLDS" if self.drained is not None else "NOT DRAINED"


class AlreadyRunning(RuntimeError):
    """Another run uses the folder of the logs; the message names the file that it has locked."""


@contextmanager
def alone(folder: Path = LOGS) -> Iterator[None]:
    """Keep other runs away from a folder, in which they would overwrite each other's files.

    Raises:
        AlreadyRunning: another run is in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another chaos run is not over: it has locked {file.name}") from None
        yield


def missing(options: Options) -> dict[str, str]:
    """Kinds of faults that this machine does not allow, with the reason."""
    found = {}
    if not _may_mount():
        found["disk"] = "needs root and unshare(1), to mount a small disk"
    if not clock.works():
        found["clock"] = "needs a C compiler and glibc, both with their headers"
    if options.old != "same" and not has_old_package(old_revision(options)):
        found["deploy"] = "needs git and a revision whose package is not today's (see CHAOS_OLD)"
    return found


def _may_mount() -> bool:
    """True if this user may mount a file system that only its own processes see."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "chaos", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@dataclass
class Stage:
    """What a run works with, once all of it has started."""

    database: Database
    brokers: Brokers
    fleet: Fleet
    faults: Faults
    stream: list[Flight]
    began_at: float  # in seconds since the epoch


class Run:
    """A run of a plan."""

    def __init__(self, options: Options, plan: list[Planned]) -> None:
        self._options = options
        self._plan = plan
        self._old = old_revision(options) if any(each.kind == "deploy" for each in plan) else ""
        self._load = os.getloadavg()[0]
        self._began_at = time.monotonic()
        self._said = threading.Lock()

    def run(self) -> Result:
        """Do all of it."""
        with ExitStack() as stack:
            stack.enter_context(alone())
            shutil.rmtree(LOGS, ignore_errors=True)
            LOGS.mkdir(parents=True)
            stage = self._start(stack)
            drained = self._perform(stage)
            return self._result(stage, drained)

    def _start(self, stack: ExitStack) -> Stage:
        options, kinds = self._options, {each.kind for each in self._plan}
        database = stack.enter_context(Database())
        brokers = Brokers(options.brokers, options.replication, disks="disk" in kinds)
        stack.enter_context(brokers)
        env = environment(options, database.url, brokers.url)
        self._migrate(env, "chaos", "0001")
        self._migrate(env, "django_outbox")
        brokers.create_topic()
        stream = flights(options.flights)
        write(stream, LOGS / "flights.csv")
        fleet = Fleet(env, LOGS, old_sources(self._old, LOGS / "old"), clocks="clock" in kinds)
        fleet.start()
        self._began_at, began_at_wall = time.monotonic(), time.time()
        fleet.publish(LOGS / "flights.csv", options.rate, self._began_at)
        faults = Faults(database, brokers, fleet, lambda: self._migrate(env, "chaos"), self.say, self._began_at)
        return Stage(database, brokers, fleet, faults, stream, began_at_wall)

    def _perform(self, stage: Stage) -> float | None:
        """Cause all faults and return in how many seconds all was handled then; None: it was not."""
        ended = threading.Event()
        progress = threading.Thread(target=self._show_progress, args=(stage.database, ended), daemon=True)
        progress.start()
        try:
            stage.faults.cause(self._plan)
            stage.faults.heal()
            time.sleep(max(0.0, self._began_at + self._options.seconds - time.monotonic()))
            self.say("no more faults")
            drained = self._drain(stage.database.primary, stage.fleet, stage.stream)
            stage.faults.errors += [f"{name} ended by itself" for name in stage.fleet.ended()]
        finally:
            ended.set()
            progress.join()
            stage.faults.close()  # no fault may start a worker that was stopped
            codes = stage.fleet.stop()
        stage.faults.errors += [f"{name} exited with {code}" for name, code in codes.items()]
        return drained

    def _result(self, stage: Stage, drained: float | None) -> Result:
        server, faults = stage.database.primary, stage.faults
        with suppress(psycopg.errors.DuplicateColumn):  # without a deployment there is none
            server.execute("ALTER TABLE chaos_leg ADD COLUMN release smallint")
        return Result(
            findings=check(stage.stream, timeline.published(server), timeline.legs(server)),
            timeline=timeline.timeline(server, stage.began_at),
            counted=timeline.counted(server),
            caused=faults.caused,
            errors=faults.errors,
            drained=drained,
            releases=timeline.handled_by_release(server),
            old=self._old,
            gaps=self._gaps(stage),
            load=self._load,
        )

    def _gaps(self, stage: Stage) -> str:
        """For how long nothing was sent or handled after a broker was killed, if there were no other faults."""
        if self._options.kinds != {"broker-kill"} or len(stage.brokers.linked) == 1:
            return ""
        killed = [
            (stage.began_at + each.began_at, int(each.planned.target.rpartition("-")[2]))
            for each in stage.faults.caused
            if each.began_at + WINDOW_SECONDS < self._options.seconds
        ]
        return report(stage.database.primary, killed, stage.brokers.replicas()) if killed else ""

    def _drain(self, server: Server, fleet: Fleet, stream: list[Flight]) -> float | None:
        """Wait until all flights are handled and return the seconds; None if none is for a long time, or a worker ended."""
        wanted = sum(not flight.rolled_back for flight in stream)
        began_at = changed_at = time.monotonic()
        before = (0, 0)
        while time.monotonic() - changed_at < STALLED_SECONDS and not fleet.ended():
            try:
                now = timeline.left(server)
                if now == (wanted, 0) and not timeline.unfinished(server):
                    return time.monotonic() - began_at
            except psycopg.Error:  # a busy server may not answer in time
                now = before
            if now != before:
                before, changed_at = now, time.monotonic()
            time.sleep(1)
        return None

    def _migrate(self, env: Mapping[str, str], *what: str) -> None:
        """Migrate as a deployment does, for as long as the database takes."""
        # Who waits for a lock lets all others wait behind it.
        env = {**env, "PGOPTIONS": "-c lock_timeout=2s", "OUTBOX_CHAOS_RELEASE": "2"}
        command = [sys.executable, "-m", "django", "migrate", *what, "--verbosity", "0"]
        deadline = time.monotonic() + MIGRATE_SECONDS
        while True:
            done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
            if not done.returncode:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"migrate failed:\n{done.stderr[-2000:]}")
            time.sleep(0.5)

    def _show_progress(self, database: Database, ended: threading.Event) -> None:
        before, at = 0, time.monotonic()
        while not ended.wait(PROGRESS_SECONDS):
            try:
                published, backlog = timeline.left(database.primary)
            except psycopg.Error:
                self.say("the database is away")
                continue
            handled, now = published - backlog, time.monotonic()
            rate = (handled - before) / (now - at)
            before, at = handled, now
            self.say(f"published {published:,}, handled {handled:,} ({rate:.0f} a second), backlog {backlog:,}")

    def say(self, text: str) -> None:
        """Print a line of progress, and keep it."""
        line = f"{time.monotonic() - self._began_at:7.1f} s  {text}"
        with self._said, (LOGS / "run.log").open("a") as log:
            print(line, file=sys.stderr, flush=True)
            log.write(line + "\n")
