"""What a run found: for people, and for the documentation."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

from tests.chaos import plot
from tests.chaos.options import Options
from tests.chaos.plan import NAMES
from tests.chaos.run import Result
from tests.support.clients import CLIENTS
from tests.support.documentation import renew, table
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "proof.rst"
DATA = ROOT / "docs" / "chaos.json"
BEGIN = ".. The chaos runs write from here"
FASTEST_SECONDS = 10


@dataclass(frozen=True)
class Summary:
    """A run in a few figures, as the documentation keeps it.

    Attributes:
        flights: that were to be committed.
        wrong: rows that are wrong, by what is wrong with them.
        rate: flights that publishers were to publish a second.
        faults: how many were caused, by kind.
        drained: seconds from the end of the load until all was handled; -1: it was not.
        backlog: the most flights that were published and not handled.
        drain_rate: flights handled a second after the end of the last fault, in the fastest ten seconds.
        resent: records sent again, failures of handlers not counted.
        load: of the machine before the run.
    """

    client: str
    date: str
    seed: int
    seconds: float
    rate: float
    brokers: int
    old: str
    flights: int
    wrong: Mapping[str, int]
    faults: Mapping[str, int]
    drained: float
    backlog: int
    drain_rate: int
    resent: int
    load: float
    cpus: int

    @classmethod
    def of(cls, options: Options, result: Result) -> Self:
        """The summary of a run."""
        kinds = Counter(each.planned.kind for each in result.caused)
        findings = result.findings._asdict()
        calm_from = max((each.ended_at for each in result.caused), default=0.0)
        return cls(
            client=CLIENTS[options.backend],
            date=time.strftime("%Y-%m-%d"),
            seed=options.seed,
            seconds=options.seconds,
            rate=options.rate,
            brokers=options.brokers,
            old=result.old,
            flights=findings.pop("handled"),
            wrong=findings,
            faults={name: kinds[name] for name in NAMES if kinds[name]},
            drained=-1 if result.drained is None else round(result.drained, 1),
            backlog=max(result.timeline.backlog, default=0),
            drain_rate=round(fastest(result.timeline.handled[int(calm_from) :])),
            resent=max(result.counted.resent - result.counted.failed, 0),
            load=round(result.load, 1),
            cpus=os.cpu_count() or 1,
        )


def fastest(counts: Sequence[int]) -> float:
    """The most a second in ``FASTEST_SECONDS``, of counts of seconds; of all, if they are fewer."""
    width = max(min(FASTEST_SECONDS, len(counts)), 1)
    return max((sum(counts[at : at + width]) / width for at in range(len(counts) - width + 1)), default=0.0)


def text(summary: Summary, result: Result) -> str:
    """Everything that a person wants to know, with the verdict in the last line."""
    drained = "not drained" if result.drained is None else f"drained {result.drained:.0f} s after the load"
    share = summary.resent / max(summary.flights, 1)
    lines = [
        *result.errors,
        *filter(None, [result.gaps]),
        f"faults: {_listed(summary.faults)}",
        f"handled by release: {_listed(result.releases)}; package of the first: {result.old or 'that of the second'}",
        f"largest backlog {summary.backlog:,}, {drained}; after the last fault up to {summary.drain_rate:,} handled a second; "
        f"{result.counted.failed} failures of the handler, {result.counted.dead} dead, "
        f"{summary.resent} other re-sends ({share:.3f} of the flights)",
        f"{result.verdict}: seed {summary.seed}, {summary.client}, {summary.seconds:.0f} s, "
        f"{sum(summary.faults.values())} faults, {result.findings}",
    ]
    return "\n".join(lines)


def draw(summary: Summary, result: Result) -> str:
    """Rate and backlog over time."""
    subtitle = (
        f"{summary.client}, seed {summary.seed}, {sum(summary.faults.values())} faults in {summary.seconds:.0f} s"
    )
    return plot.draw("Chaos: flights over time", subtitle, result.timeline, result.caused)


def publish(summary: Summary, result: Result) -> None:
    """Renew the client's row in the documentation, and its plot.

    Raises:
        ValueError: the page has lost the comments between which it is written.
    """
    (ROOT / "docs" / f"chaos-{summary.client}.svg").write_text(draw(summary, result))
    runs = json.loads(DATA.read_text()) if DATA.exists() else {}
    runs[summary.client] = asdict(summary)
    DATA.write_text(json.dumps(runs, indent=1) + "\n")
    renew(PAGE, BEGIN, page(runs))


def page(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables and plots of the documentation."""
    clients = [client for client in CLIENTS.values() if client in runs]
    figures: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Date": lambda run: run["date"],
        "Seed": lambda run: str(run["seed"]),
        "Load of the machine before": lambda run: f"{run['load']:.1f} on {run['cpus']} CPUs",
        "Seconds of faults": lambda run: f"{run['seconds']:,.0f}",
        "Flights a second": lambda run: f"{run['rate']:g}",
        "Flights handled": lambda run: f"{run['flights']:,}",
        "Faults": lambda run: str(sum(run["faults"].values())),
        **{_title(name): partial(_wrong, name) for name in runs[clients[0]]["wrong"]},
        "Largest backlog": lambda run: f"{run['backlog']:,}",
        "Seconds until all was handled, after the load": lambda run: (
            f"{run['drained']:,.0f}" if run["drained"] >= 0 else "never"
        ),
        "Flights handled a second after the last fault, at most": lambda run: f"{run['drain_rate']:,}",
        "Records sent again": lambda run: f"{run['resent']:,}",
    }
    rows = [(name, *(figure(runs[client]) for client in clients)) for name, figure in figures.items()]
    kinds = [name for name in NAMES if any(name in runs[client]["faults"] for client in clients)]
    counts = [(f"``{kind}``", *(str(runs[client]["faults"].get(kind, 0)) for client in clients)) for kind in kinds]
    plots = [
        f".. image:: chaos-{client}.svg\n   :alt: Flights published and handled a second, and the backlog, with {client}"
        for client in clients
    ]
    return "\n\n".join([table([("Run", *clients), *rows]), table([("Fault", *clients), *counts]), *plots])


def _wrong(name: str, run: Mapping[str, Any]) -> str:
    return str(run["wrong"][name])


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
