"""What a run is asked for, by its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.clients import BACKENDS


class UnknownOption(ValueError):
    """A variable has a value that a run cannot use; the message names both."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run. ``CHAOS_SECONDS`` sets ``seconds``, and so on.

    Attributes:
        seconds: of load and faults. The run then waits until all events are handled.
        rate: flights published a second. The default takes 30 minutes for the year.
        seed: of the plan of faults.
        backend: the client, ``kafka`` (kafka-python) or ``confluent``.
        brokers: 3, or 1 for a short run.
        replicas: of each partition; the number of brokers by default. With 2, one broker may acknowledge alone.
        faults: kinds of faults, by comma; empty: all that this machine allows.
        old: the git revision of the package that the old release runs, or ``same``; empty: the first with today's tables.
    """

    seconds: float = 180
    rate: float = 187.1
    seed: int = 1
    backend: str = "kafka"
    brokers: int = 3
    replicas: int = 0
    faults: str = ""
    old: str = ""

    @property
    def backend_path(self) -> str:
        return BACKENDS[self.backend]

    @property
    def flights(self) -> int:
        """How many flights are published."""
        return round(self.seconds * self.rate)

    @property
    def replication(self) -> int:
        return self.replicas or self.brokers

    @property
    def kinds(self) -> set[str]:
        """The kinds of faults that were asked for; empty: all."""
        return {kind.strip() for kind in self.faults.split(",") if kind.strip()}


def read(env: Mapping[str, str] = os.environ) -> Options:
    """The options that the environment sets.

    Raises:
        UnknownOption: a value is of the wrong type or out of range, or a variable is not an option.
    """
    known = {f"CHAOS_{name.upper()}": (name, type(value)) for name, value in Options().__dict__.items()}
    found = {}
    for variable, text in env.items():
        if not variable.startswith("CHAOS_"):
            continue
        if variable not in known:
            raise UnknownOption(f"{variable} is not an option; known: {', '.join(known)}")
        name, kind = known[variable]
        try:
            found[name] = kind(text)
        except ValueError:
            raise UnknownOption(f"{variable}={text}: expected a number") from None
    options = Options(**found)
    if options.backend not in BACKENDS:
        raise UnknownOption(f"CHAOS_BACKEND={options.backend}: expected {' or '.join(BACKENDS)}")
    if options.brokers not in (1, 3):
        raise UnknownOption(f"CHAOS_BROKERS={options.brokers}: expected 1 or 3")
    if not 0 <= options.replicas <= options.brokers:
        raise UnknownOption(f"CHAOS_REPLICAS={options.replicas}: expected 0 to {options.brokers}")
    if options.seconds < 1 or options.rate <= 0:
        raise UnknownOption("CHAOS_SECONDS must be 1 or more, CHAOS_RATE more than 0")
    return options
