"""Puts results where readers look: the table of docs/speed.rst, the plots and their data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import plot
from benchmarks.report import number
from tests.support.documentation import renew, table
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "speed.rst"
PLOTS = {plot.BACKLOG: ROOT / "docs" / "throughput.svg", plot.CONCURRENCY: ROOT / "docs" / "concurrency.svg"}
DATA = ROOT / "docs" / "benchmarks.json"
BEGIN, DRAWN = ".. The benchmarks write from here", ".. The benchmarks draw from here"
IMAGE = """.. image:: concurrency.svg
   :alt: Messages a second of a consumer whose handler waits 20 ms, and of a bare loop with threads, by their number"""


def publish(results: Mapping[str, Any]) -> None:
    """Renew the plots of which there are results, and, if the backlog is among them, the table and its data.

    Raises:
        ValueError: no part that is shown is in these results.
    """
    drawn = {each: plot.draw(results, each) for each in PLOTS if plot.has_points(results, each)}
    if not drawn:
        raise ValueError(f"these results have none of the parts {', '.join(each.part for each in PLOTS)}")
    for each, svg in drawn.items():
        PLOTS[each].write_text(svg)
    if plot.CONCURRENCY in drawn:
        renew(PAGE, DRAWN, IMAGE)
    if plot.BACKLOG not in drawn:
        return
    lines = [line for line in results["measurements"] if line["headline"] and line["figure"] is not None]
    if not lines:
        raise ValueError("these results have nothing for the table")
    DATA.write_text(json.dumps({name: value for name, value in results.items() if name != "jobs"}, indent=1) + "\n")
    renew(PAGE, BEGIN, _table(results, lines))


def _table(results: Mapping[str, Any], lines: list[Mapping[str, Any]]) -> str:
    """Where and when, and the measurements, as reStructuredText."""
    rows = [("What", "Here", "Beside it", "Ratio"), *map(_row, lines)]
    return f"{where(results, results['machine']['python'])}:\n\n{table(rows)}"


def where(results: Mapping[str, Any], python: str) -> str:
    """When and on what a run was measured, and with how much care."""
    machine, servers = results["machine"], results["servers"]
    return (
        f"Measured on {results['started'][:10]} on {machine['cpus']} CPUs ({machine['processor'] or machine['platform']}),"
        f" with Python {python}, {servers['database']} and {servers['broker']} on the same machine;"
        f" {_care(results)}"
    )


def _care(results: Mapping[str, Any]) -> str:
    """How much care was taken: what a reader should know before comparing."""
    runs, load, cpus = results["options"]["runs"], results["load_at_start"][0], results["machine"]["cpus"]
    rounds = "one round" if runs == 1 else f"medians of up to {runs} rounds"
    busy = load > cpus / 2
    return f"{rounds}, while other work was going on (load {load:.1f}), so take it as a rough guide" if busy else rounds


def _row(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    raw = "\\" if line["raw"] is None else f"{number(line['raw'])} ({line['raw_is']})"
    ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
    return line["measurement"], f"{number(line['figure'])} {line['unit']}", raw, ratio
