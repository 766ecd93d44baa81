"""One soak run: the most that this machine does, then half of it for long, and what was sampled meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from kafka import KafkaAdminClient

from tests.soak.sampling import Sampler, Samples
from tests.soak.trends import Limit, Trend
from tests.support.clients import BACKENDS
from tests.support.processes import ROOT, Command
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.postgres import PostgreSQL

WORKERS: dict[str, tuple[object, ...]] = {
    "relay": ("outbox_relay",),
    "consumer-1": ("outbox_consume",),
    "consumer-2": ("outbox_consume", "--concurrency", 4),
}
PARTITIONS = 4
LOAD = 0.5
"""The rate of the run, as a share of the most that was handled."""
INTERVAL = 10.0
JUDGED_FROM_SECONDS = 900.0
"""A shorter run does not judge trends: it ends before old messages are purged as fast as new ones come."""
STALLED_SECONDS = 120.0
LIMITS = {
    "memory": Limit(0.03),
    "descriptors": Limit(0.01),
    "connections": Limit(0.01),
    "rows": Limit(0.03),
    "tables": Limit(0.05),
    "indexes": Limit(0.05),
    "latency p50": Limit(0.10, least=1.0),
    "latency p99": Limit(0.25, least=5.0),
}
"""By the beginning of a measure's name."""


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        highest_rate: events a second that were handled when publishers waited for consumers.
        rate: that was asked for, in events a second.
        seconds: of load at that rate.
        published, handled: events.
        dead: messages that were given up, such as those that came twice or out of order.
        load: of the machine before the run.
    """

    highest_rate: float
    rate: float
    seconds: float
    published: int
    handled: int
    dead: int
    load: float
    versions: str
    samples: Samples

    @property
    def is_judged(self) -> bool:
        """True if the run was long enough for trends."""
        return self.seconds >= JUDGED_FROM_SECONDS

    @property
    def trends(self) -> Mapping[str, Trend]:
        """Of each measure, by its name."""
        return {
            name: Trend.of(self.samples.seconds, values, limit_of(name)) for name, values in self.samples.series.items()
        }

    @property
    def verdict(self) -> str:
        """``BROKEN``: events are missing, came twice or out of order; ``GROWS``: a measure is not flat; or ``FLAT``."""
        if self.dead or self.handled != self.published:
            return "BROKEN"
        if not self.is_judged:
            return "COMPLETE"
        return "FLAT" if all(trend.flat for trend in self.trends.values()) else "GROWS"


def limit_of(name: str) -> Limit:
    """The limit of a measure."""
    return next(limit for beginning, limit in LIMITS.items() if name.startswith(beginning))


def run(backend: str, seconds: float, calibrate: float) -> Result:
    """Do all of it.

    Args:
        backend: key of ``BACKENDS``.
        seconds: at the run's rate.
        calibrate: seconds in which the highest rate is measured, after a third as many that are not.
    """
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        database, broker = stack.enter_context(PostgreSQL()), stack.enter_context(ApacheKafka())
        env = _environment(BACKENDS[backend], database.url, broker.url)
        subprocess.run([sys.executable, "-m", "django", "migrate", "--verbosity", "0"], env=env, cwd=ROOT, check=True)
        _create_topic(broker)
        workers = {name: _worker(stack, command, env) for name, command in WORKERS.items()}
        for worker in workers.values():
            worker.wait_for_line(r" started\.", 120)
        sampler = Sampler(database.url, {name: worker.process.pid for name, worker in workers.items()})
        stack.callback(sampler.close)
        with _publisher(env, 0) as publisher:
            say(f"measuring the most that is handled, for {calibrate:.0f} s")
            highest = _highest_rate(sampler, calibrate)
            _require_running({**workers, "publisher": publisher})
        _drain(sampler)
        rate = highest * LOAD
        say(f"at most {highest:,.0f} a second are handled; {rate:,.0f} a second for {seconds:,.0f} s")
        with _publisher(env, rate) as publisher:
            _sample(sampler, seconds, {**workers, "publisher": publisher})
        _drain(sampler)
        codes = {name: worker.stop() for name, worker in workers.items()}
        if any(codes.values()):
            raise RuntimeError(f"exit codes of the workers: {codes}")
        handled, published = sampler.counts()
        versions = f"{database.version()}, {broker.version()}"
        return Result(highest, rate, seconds, published, handled, sampler.dead(), load, versions, sampler.samples)


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _environment(backend: str, database: str, broker: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": database,
        "DJANGO_SETTINGS_MODULE": "tests.soak.settings",
        "KAFKA_URL": broker,
        "OUTBOX_BACKEND": backend,
        "OUTBOX_SESSION_TIMEOUT_MS": "45000",
        "PYTHONUNBUFFERED": "1",
    }


def _create_topic(broker: ApacheKafka) -> None:
    topic = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {"retention.ms": "600000"}}
    with KafkaAdminClient(bootstrap_servers=broker.url.removeprefix("kafka://")) as admin:
        admin.create_topics({"soak": topic})


def _worker(stack: ExitStack, command: tuple[object, ...], env: Mapping[str, str]) -> Command:
    worker = Command(str(command[0]), *command[1:], env=env)
    stack.callback(worker.close)
    return worker


@contextmanager
def _publisher(env: Mapping[str, str], rate: float) -> Iterator[Command]:
    publisher = Command("soak_publish", "--rate", rate, env=env)
    try:
        yield publisher
    finally:
        publisher.kill()


def _highest_rate(sampler: Sampler, seconds: float) -> float:
    """Events a second that are handled while there are always some left."""
    time.sleep(seconds / 3)
    before, began_at = sampler.counts()[0], time.monotonic()
    time.sleep(seconds)
    return (sampler.counts()[0] - before) / (time.monotonic() - began_at)


def _sample(sampler: Sampler, seconds: float, running: Mapping[str, Command]) -> None:
    began_at = time.monotonic()
    due = 0.0
    while due < seconds:
        due = min(due + INTERVAL, seconds)
        time.sleep(max(0.0, began_at + due - time.monotonic()))
        sampler.take(time.monotonic() - began_at)
        _require_running(running)
        if int(due) % 300 == 0 and sampler.samples.seconds:
            series = sampler.samples.series
            shown = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in series.items())
            say(f"{due:,.0f} s: {sampler.samples.handled[-1]:,} handled, {shown}")


def _require_running(commands: Mapping[str, Command]) -> None:
    for name, command in commands.items():
        if command.returncode is not None:
            raise RuntimeError(f"{name} ended by itself with {command.returncode}:\n{command.output[-4000:]}")


def _drain(sampler: Sampler) -> None:
    """Wait until all that was published is handled, or nothing was for a long time."""
    before, changed_at = -1, time.monotonic()
    while time.monotonic() - changed_at < STALLED_SECONDS:
        handled, published = sampler.counts()
        if handled == published:
            return
        if handled != before:
            before, changed_at = handled, time.monotonic()
        time.sleep(0.2)
