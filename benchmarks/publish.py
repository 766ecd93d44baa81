"""Puts results where readers look: the table of docs/speed.rst, the plot and its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import plot
from benchmarks.report import number
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "speed.rst"
PLOT = ROOT / "docs" / "throughput.svg"
DATA = ROOT / "docs" / "benchmarks.json"
BEGIN, END = ".. The benchmarks write from here", ".. to here."


def publish(results: Mapping[str, Any]) -> None:
    """Renew the plot, its data and the table.

    Raises:
        ValueError: a part that is shown is not in these results.
    """
    svg = plot.throughput(results)
    lines = [line for line in results["measurements"] if line["headline"] and line["figure"] is not None]
    if not lines:
        raise ValueError("these results have nothing for the table")
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has lost the comments '{BEGIN}' and '{END}'")
    PLOT.write_text(svg)
    DATA.write_text(json.dumps({name: value for name, value in results.items() if name != "jobs"}, indent=1) + "\n")
    PAGE.write_text(f"{before}{begin}\n\n{_table(results, lines)}\n\n{end}{after}")


def _table(results: Mapping[str, Any], lines: list[Mapping[str, Any]]) -> str:
    """Where and when, and the measurements, as reStructuredText."""
    machine, servers = results["machine"], results["servers"]
    where = (
        f"Measured on {results['started'][:10]} on {machine['cpus']} CPUs ({machine['processor'] or machine['platform']}),"
        f" with Python {machine['python']}, {servers['database']} and {servers['broker']} on the same machine;"
        f" {_care(results)}:"
    )
    rows = [("What", "Here", "Beside it", "Ratio"), *map(_row, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rule = "  ".join("=" * width for width in widths)
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([where, "", rule, texts[0], rule, *texts[1:], rule])


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
