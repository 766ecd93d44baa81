"""What a soak run found: for people, and for the documentation."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.soak.run import Result
from tests.soak.trends import WARM_UP, Trend
from tests.support.clients import CLIENTS
from tests.support.documentation import renew, table
from tests.support.drawing import head, panel, time_axis, x_of
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "proof.rst"
DATA = ROOT / "docs" / "soak.json"
BEGIN = ".. The soak runs write from here"
HEAD = ("Measure", "Mean", "Highest", "Slope an hour", "Error", "Allowed")
TOP, PANEL, GAP, BOTTOM = 96, 120, 34, 48
POINTS = 240


def text(client: str, result: Result) -> str:
    """Everything that a person wants to know, with the verdict in the last line."""
    lines = [f"at most {result.highest_rate:,.0f} a second were handled when publishers waited for consumers"]
    if result.is_judged:
        lines += [table([HEAD, *(_row(name, trend) for name, trend in result.trends.items())])]
        lines += [f"not flat: {name}" for name, trend in result.trends.items() if not trend.flat]
    else:
        lines += ["the run was too short for trends"]
    lines += [
        f"{result.verdict}: {client}, {result.rate:,.0f} a second for {result.seconds:,.0f} s, "
        f"{result.published:,} published, {result.handled:,} handled, {result.dead:,} dead"
    ]
    return "\n".join(lines)


def publish(client: str, result: Result) -> None:
    """Renew the client's table and plot in the documentation.

    Raises:
        ValueError: the run was too short for trends, or the page has lost the comments between which it is written.
    """
    if not result.is_judged:
        raise ValueError("the run was too short for trends")
    (ROOT / "docs" / f"soak-{client}.svg").write_text(draw(client, result))
    runs = json.loads(DATA.read_text()) if DATA.exists() else {}
    runs[client] = summary(result)
    DATA.write_text(json.dumps(runs, indent=1) + "\n")
    renew(PAGE, BEGIN, page(runs))


def summary(result: Result) -> dict[str, Any]:
    """A run in a few figures, as the documentation keeps it."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "servers": result.versions,
        "cpus": os.cpu_count() or 1,
        "load": round(result.load, 1),
        "highest_rate": round(result.highest_rate),
        "rate": round(result.rate),
        "seconds": round(result.seconds),
        "published": result.published,
        "handled": result.handled,
        "dead": result.dead,
        "measures": [_row(name, trend) for name, trend in result.trends.items()],
    }


def page(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables and plots of the documentation."""
    parts = []
    for client in filter(runs.__contains__, CLIENTS.values()):
        run = runs[client]
        parts += [
            f"**{client}**, {run['date']}, {run['servers']}, {run['cpus']} CPUs, load {run['load']:.1f} before. "
            f"At most {run['highest_rate']:,} events a second were handled, so the run had {run['rate']:,} for "
            f"{run['seconds']:,} s: {run['published']:,} published, {run['handled']:,} handled once and in order, "
            f"{run['dead']:,} dead.",
            table([HEAD, *run["measures"]]),
            f".. image:: soak-{client}.svg\n   :alt: Memory, sizes, latency and rate over time, with {client}",
        ]
    return "\n\n".join(parts)


def _row(name: str, trend: Trend) -> tuple[str, ...]:
    return (name, *(f"{value:,.2f}" for value in (trend.mean, trend.highest, trend.slope, trend.error, trend.bound)))


def draw(client: str, result: Result) -> str:
    """The measures over time, one panel for each unit."""
    samples = result.samples
    rates = [
        (after - before) / (end - start)
        for before, after, start, end in zip(
            samples.handled, samples.handled[1:], samples.seconds, samples.seconds[1:], strict=False
        )
    ]
    workers = [name for name in samples.series if name.startswith("memory of ")]
    shown = [*workers, "rows", "tables, MB", "indexes, MB", "latency p50, ms", "latency p99, ms"]
    panels = {"handled a second": [rates[0], *rates], **{name: samples.series[name] for name in shown}}
    height = TOP + len(panels) * (PANEL + GAP) + BOTTOM - GAP
    subtitle = f"{client}, {result.rate:,.0f} events a second; judged from the dotted line on"
    end = samples.seconds[-1]
    lines = [*head("Soak: half of the highest rate", subtitle, f"{len(panels)} measures in {end:,.0f} s", height)]
    for number, (name, values) in enumerate(panels.items()):
        lines += _panel(name, TOP + number * (PANEL + GAP), samples.seconds, values)
    return "\n".join([*lines, *time_axis(TOP + len(panels) * (PANEL + GAP) - GAP, end), "</svg>", ""])


def _panel(name: str, top: int, seconds: Sequence[float], values: Sequence[float]) -> Iterator[str]:
    highest = max(values) * 1.05 or 1
    yield from panel(name, top, PANEL, highest)
    width = -(-len(values) // POINTS)
    points = " ".join(
        f"{x_of(statistics.fmean(seconds[at : at + width]), seconds[-1]):.1f},"
        f"{top + PANEL * (1 - statistics.median(values[at : at + width]) / highest):.1f}"
        for at in range(0, len(values), width)
    )
    yield f'<g class="series0"><polyline class="line" style="stroke-width: 1.5" points="{points}"/></g>'
    x = x_of(seconds[-1] * WARM_UP, seconds[-1])
    yield f'<line class="axis" stroke-dasharray="2 4" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + PANEL}"/>'
