"""Puts results where readers look: a short table in the README, and all of it, plot and data under ``docs/``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.report import number
from tests.support.processes import ROOT

README = ROOT / "README.rst"
PAGE = ROOT / "docs" / "speed.rst"
PLOT = ROOT / "docs" / "throughput.svg"
DATA = ROOT / "docs" / "benchmarks.json"
BEGIN, END = ".. The benchmarks write from here", ".. to here."
IN_BRIEF = re.compile(
    r"publish(_many)?, .*"
    r"|(relay|consume), [\w-]+"
    r"|consume, [\w-]+, prepared statements"
    r"|relay, .* rows behind, .*"
    r"|latency, .*, commit to handler, NOTIFY, p\d+"
)
"""What of it is in the README."""


def publish(results: Mapping[str, Any]) -> None:
    """Renew the plot, its data and the tables.

    Raises:
        ValueError: if a part that is shown is not in these results.
    """
    svg = plot.throughput(results)
    lines = [line for line in results["measurements"] if line["headline"] and line["figure"] is not None]
    pages = {PAGE: _renewed(PAGE, results, lines)}
    pages[README] = _renewed(README, results, [line for line in lines if IN_BRIEF.fullmatch(line["measurement"])])
    PLOT.write_text(svg)
    DATA.write_text(json.dumps({name: value for name, value in results.items() if name != "jobs"}, indent=1) + "\n")
    for page, text in pages.items():
        page.write_text(text)


def _renewed(page: Path, results: Mapping[str, Any], lines: list[Mapping[str, Any]]) -> str:
    """The text of a page with these lines in its table."""
    if not lines:
        raise ValueError("these results have nothing for the table")
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} has lost the comments '{BEGIN}' and '{END}'")
    return f"{before}{begin}\n\n{_table(results, lines)}\n\n{end}{after}"


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
