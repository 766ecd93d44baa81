"""Which fault happens when, to whom and for how long: decided by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tests.chaos.options import Options

RELAYS = ("relay-1", "relay-2")
CONSUMERS = ("consumer-1", "consumer-2", "consumer-3")
PUBLISHERS = ("publisher-1", "publisher-2", "publisher-3")
WORKERS = (*RELAYS, *CONSUMERS, *PUBLISHERS)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: as ``CHAOS_FAULTS`` names it.
        apart: seconds between two of them, on average; one at least is planned in any run.
        shortest, longest: how many seconds it lasts.
        targets: what it may hit: ``worker``, ``broker``, ``link`` or nothing of these.
        brokers: how many brokers it needs.
        most: how often it happens in a run; None: any number of times.
    """

    name: str
    apart: float
    shortest: float = 0.0
    longest: float = 0.0
    targets: str = ""
    brokers: int = 1
    most: int | None = None


KINDS = (
    Kind("worker-kill", 5, targets="worker"),
    Kind("worker-stop", 18, 1, 15, targets="worker"),
    Kind("broker-kill", 90, 0, 15, targets="broker"),
    Kind("broker-stop", 90, 2, 20, targets="broker"),
    Kind("leader-loss", 120, 2, 15, brokers=3),
    Kind("database-restart", 120),
    Kind("database-kill", 120),
    Kind("database-stop", 120, 1, 10),
    Kind("standby-kill", 180, 1, 10),
    Kind("failover", 180),
    Kind("cut", 20, targets="link"),
    Kind("stall", 50, 2, 20, targets="link"),
    Kind("slow", 60, 5, 20, targets="link"),
    Kind("disk", 240, 3, 15, targets="broker", brokers=3),
    Kind("clock", 40, targets="worker"),
    Kind("partitions", 400, most=2),
    Kind("topic", 500),
    Kind("deploy", 200),
)
NAMES = tuple(kind.name for kind in KINDS)


@dataclass(frozen=True)
class Planned:
    """A fault at its time.

    Attributes:
        at: seconds after the beginning.
        kind: its name.
        target: the worker, broker or link; empty where the kind says it all.
        lasts: seconds until it is healed.
        by: seconds of a clock step, delay of a slow link in seconds per chunk, else 0.
    """

    at: float
    kind: str
    target: str = ""
    lasts: float = 0.0
    by: float = 0.0

    def __str__(self) -> str:
        parts = [self.kind, self.target]
        parts.append(f"for {self.lasts:.1f} s" if self.lasts else "")
        if self.kind == "clock":
            parts.append(f"by {self.by:+.0f} s")
        elif self.by:
            parts.append(f"{self.by * 1000:.0f} ms a piece of up to 4 kB")
        return " ".join(filter(None, parts))


def plan(options: Options, *, without: Collection[str] = ()) -> list[Planned]:
    """All faults of a run, in order of time.

    Each kind has random numbers of its own: kinds that are left out change no others.

    Args:
        without: kinds that this machine does not allow.
    Raises:
        ValueError: ``faults`` names a kind that does not exist.
    """
    if unknown := options.kinds - {*NAMES}:
        raise ValueError(f"CHAOS_FAULTS: {', '.join(sorted(unknown))} is not a fault; known: {', '.join(NAMES)}")
    chosen = [
        kind
        for kind in KINDS
        if kind.name in (options.kinds or NAMES) and kind.name not in without and kind.brokers <= options.brokers
    ]
    return sorted((each for kind in chosen for each in _of_kind(kind, options)), key=lambda each: each.at)


def _of_kind(kind: Kind, options: Options) -> Iterator[Planned]:
    chance = random.Random(f"{options.seed} {kind.name}")
    links = ["database", *(f"broker-{number + 1}" for number in range(options.brokers))]
    targets = {"worker": WORKERS, "broker": links[1:], "link": links}.get(kind.targets, [""])
    for at in _times(kind, options.seconds, chance):
        by = 0.0
        if kind.name == "clock":
            by = chance.choice((-1, 1)) * chance.choice((5, 60, 3600)) * chance.uniform(0.5, 1)
        elif kind.name == "slow":
            by = chance.uniform(0.01, 0.1)
        yield Planned(at, kind.name, chance.choice(targets), chance.uniform(kind.shortest, kind.longest), by)


def _times(kind: Kind, seconds: float, chance: random.Random) -> list[float]:
    """Once at least, between the first tenth and the last."""
    times: list[float] = []
    at = 0.1 * seconds + chance.uniform(0, 0.6) * min(kind.apart, seconds)
    while at < 0.9 * seconds and len(times) != kind.most:
        times.append(at)
        at += kind.apart * chance.uniform(0.5, 1.5)
    return times
