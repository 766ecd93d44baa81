"""What a run found: one line a measurement, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TextIO

RESULTS = Path(__file__).with_name("results") / "latest.json"
COLUMNS = ("measurement", "figure", "unit", "raw", "ratio", "target", "met")
PACKAGES = ("Django", "psycopg", "kafka-python", "confluent-kafka", "crc32c")


@dataclass(frozen=True, slots=True)
class Target:
    """What a measurement has to reach; what is None does not count."""

    least: float | None = None
    most: float | None = None
    least_ratio: float | None = None
    most_ratio: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.least_ratio is not None:
            parts.append(f"ratio >= {self.least_ratio:g}")
        if self.most_ratio is not None:
            parts.append(f"ratio <= {self.most_ratio:g}")
        if self.least is not None:
            parts.append(f">= {number(self.least)}")
        if self.most is not None:
            parts.append(f"<= {number(self.most)}")
        return ", ".join(parts)

    def met(self, figure: float, ratio: float | None) -> bool:
        """True if figure and ratio are as wanted."""
        return (
            (self.least is None or figure >= self.least)
            and (self.most is None or figure <= self.most)
            and (self.least_ratio is None or (ratio is not None and ratio >= self.least_ratio))
            and (self.most_ratio is None or (ratio is not None and ratio <= self.most_ratio))
        )


class Point(NamedTuple):
    """Where a measurement stands in a plot."""

    plot: str
    client: str
    at: int


@dataclass(slots=True)
class Line:
    """One measurement: a figure a run and, beside it, that of the raw loop in the same round.

    ``headline`` lines are shown in the documentation; a line with a ``point`` is drawn.
    """

    name: str
    unit: str
    runs: list[float] = field(default_factory=list)
    raw_runs: list[float] = field(default_factory=list)
    target: Target = field(default_factory=Target)
    beside: str = ""
    missing: str = ""
    headline: bool = False
    point: Point | None = None

    @property
    def figure(self) -> float | None:
        return statistics.median(self.runs) if self.runs else None

    @property
    def raw(self) -> float | None:
        return statistics.median(self.raw_runs) if self.raw_runs else None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: both sides of each had the same machine at the same time."""
        pairs = list(zip(self.runs, self.raw_runs, strict=False))
        return statistics.median(ours / raw for ours, raw in pairs) if pairs else None

    @property
    def met(self) -> bool | None:
        """None where there is no target or no figure."""
        return None if not str(self.target) or self.figure is None else self.target.met(self.figure, self.ratio)

    def cells(self) -> tuple[str, ...]:
        """The line as the table shows it."""
        figure, raw, ratio = self.figure, self.raw, self.ratio
        return (
            self.name,
            self.missing if figure is None else number(figure),
            "" if figure is None else self.unit,
            "" if raw is None else f"{number(raw)}{self.beside and f' ({self.beside})'}",
            "" if ratio is None else f"{ratio:.2f}",
            str(self.target),
            {None: "", True: "yes", False: "NO"}[self.met],
        )

    def as_json(self) -> dict[str, Any]:
        """The line with every single run."""
        return {
            "measurement": self.name,
            "unit": self.unit,
            "figure": self.figure,
            "runs": self.runs,
            "raw": self.raw,
            "raw_runs": self.raw_runs,
            "raw_is": self.beside or "the raw loop",
            "ratio": self.ratio,
            "target": str(self.target) or None,
            "met": self.met,
            "missing": self.missing or None,
            "headline": self.headline,
            "point": self.point and self.point._asdict(),
        }


class Progress:
    """Says on standard error what is going on: one line that changes, or, in a file, a line a step."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        text = f"[{time.monotonic() - self._since:5.0f} s] {text}"
        self._stream.write(f"\r\033[K{text if text.endswith(chr(10)) else text[:150]}" if self._live else f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(lines: Iterable[Line]) -> str:
    """All lines, in columns."""
    rows = [COLUMNS, *(line.cells() for line in lines)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    right = {1, 3, 4}
    shown = [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def write_json(lines: Sequence[Line], jobs: Sequence[dict[str, Any]], about: dict[str, Any]) -> Path:
    """Write all that was measured, with the machine that it was measured on."""
    RESULTS.parent.mkdir(exist_ok=True)
    found = {
        **about,
        "machine": machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "measurements": [line.as_json() for line in lines],
        "jobs": list(jobs),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return RESULTS


def machine() -> dict[str, Any]:
    """What a run was measured on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
