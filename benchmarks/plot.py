"""Draws rates by the size of the backlog, or by the number of lanes, as an SVG for light and dark pages."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tests.support.drawing import LEFT, RIGHT, WIDTH, head, round_step

HEIGHT = 420
TOP, BOTTOM = 96, 58


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot of one part's lines.

    Attributes:
        part: of the benchmarks.
        title, axis, unit: what is drawn by what, and what is said behind a number on that axis.
        kinds: the name of each series by its key in the results.
    """

    part: str
    title: str
    axis: str
    unit: str
    kinds: Mapping[str, str]


BACKLOG = Plot(
    "backlog", "Relay: messages a second", "messages that are due", "due", {"runs": "relay", "raw_runs": "raw loop"}
)
CONCURRENCY = Plot(
    "concurrency",
    "Consumer, handler waits 20 ms: messages a second",
    "N: lanes of one consumer, or threads of a bare loop without order and retries",
    "at the same time",
    {"runs": "lanes", "raw_runs": "threads"},
)


def has_points(results: Mapping[str, Any], plot: Plot) -> bool:
    """True if there is something to draw."""
    return bool(_points(results, plot))


def _points(results: Mapping[str, Any], plot: Plot) -> list[Mapping[str, Any]]:
    return [line for line in results["measurements"] if (line["point"] or {}).get("plot") == plot.part and line["runs"]]


def draw(results: Mapping[str, Any], plot: Plot) -> str:
    """A plot of a results file.

    Raises:
        ValueError: if there is nothing to draw in it.
    """
    points = _points(results, plot)
    if not points:
        raise ValueError(f"these results have no part {plot.part!r}, which is what is drawn")
    clients = list(dict.fromkeys(line["point"]["client"] for line in points))
    sizes = sorted({line["point"]["at"] for line in points})
    highest = max(rate for line in points for kind in plot.kinds for rate in line[kind])
    axes = _Axes(sizes, highest)
    parts = [
        *head(plot.title, _where(results), "; ".join(_spoken(line, plot) for line in points), HEIGHT),
        *axes.draw(plot.axis),
    ]
    for number, client in enumerate(clients):
        own = sorted(
            (line for line in points if line["point"]["client"] == client), key=lambda line: line["point"]["at"]
        )
        parts.append(f'<g class="series{number % 2}">')
        for place, (kind, name) in enumerate(plot.kinds.items(), 2 * number):
            parts += _series(axes, own, kind, f"{name}, {client}", plot.unit)
            parts += _legend(place, kind, f"{name}, {client}")
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


class _Axes:
    """From sizes and rates to places: sizes by their logarithm, rates from 0."""

    def __init__(self, sizes: Sequence[int], highest: float) -> None:
        self._sizes = sizes
        self._step = round_step(highest)
        self._top = self._step * math.ceil(highest / self._step)

    def x(self, size: int) -> float:
        low, high = math.log10(self._sizes[0]), math.log10(self._sizes[-1])
        inner = WIDTH - LEFT - RIGHT - 40
        return LEFT + 20 + inner * ((math.log10(size) - low) / (high - low) if high > low else 0.5)

    def y(self, rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / self._top

    def draw(self, title: str) -> Iterator[str]:
        end = WIDTH - RIGHT
        for number in range(round(self._top / self._step) + 1):
            rate = number * self._step
            y = self.y(rate)
            kind = "grid" if number else "axis"
            yield f'<line class="{kind}" x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="faint" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{rate:,.0f}</text>'
        for size in self._sizes:
            x, y = self.x(size), HEIGHT - BOTTOM
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>'
            yield f'<text class="faint" x="{x:.1f}" y="{y + 21}" text-anchor="middle">{size:,}</text>'
        middle = (LEFT + end) / 2
        yield f'<text class="ink" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{title}</text>'


def _series(axes: _Axes, lines: Sequence[Mapping[str, Any]], kind: str, name: str, unit: str) -> Iterator[str]:
    places = [(axes.x(line["point"]["at"]), axes.y(statistics.median(line[kind]))) for line in lines]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline class="line{" raw" if kind == "raw_runs" else ""}" points="{path}"/>'
    for (x, y), line in zip(places, lines, strict=True):
        low, high = axes.y(min(line[kind])), axes.y(max(line[kind]))
        if low != high:
            yield f'<line class="span" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        text = f"{name}, {line['point']['at']:,} {unit}: {statistics.median(line[kind]):,.0f} a second"
        shape = "hollow" if kind == "raw_runs" else "dot"
        yield f'<circle class="{shape}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(text)}</title></circle>'


def _legend(number: int, kind: str, name: str) -> Iterator[str]:
    x, y = LEFT + 165 * number, 74
    yield f'<line class="line{" raw" if kind == "raw_runs" else ""}" x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}"/>'
    yield f'<text class="ink" x="{x + 33}" y="{y + 4}" font-size="12">{escape(name)}</text>'


def _spoken(line: Mapping[str, Any], plot: Plot) -> str:
    point, raw = line["point"], plot.kinds["raw_runs"]
    return f"{point['client']}, {point['at']:,} {plot.unit}: {line['figure']:,.0f}, {raw} {line['raw']:,.0f}"


def _where(results: Mapping[str, Any]) -> str:
    machine, servers = results["machine"], results["servers"]
    return f"{machine['cpus']} CPUs, Python {machine['python']}, {servers['database']}, {servers['broker']}, 200-byte payloads"
