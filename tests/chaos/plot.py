"""Draws rate and backlog over time, with the faults of the run below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from tests.chaos.faults import Caused
from tests.chaos.timeline import Timeline
from tests.support.drawing import LEFT, RIGHT, WIDTH, head, panel, time_axis, x_of

TOP, PANEL, GAP, ROW, BOTTOM = 96, 130, 34, 17, 48
POINTS = 320
FAMILIES = {
    "workers": ("worker-kill", "worker-stop", "clock"),
    "brokers": ("broker-kill", "broker-stop", "leader-loss", "disk"),
    "database": ("database-restart", "database-kill", "database-stop", "standby-kill", "failover"),
    "links": ("cut", "stall", "slow"),
    "topic": ("partitions", "topic"),
    "deploy": ("deploy",),
}


def draw(title: str, subtitle: str, timeline: Timeline, caused: Sequence[Caused]) -> str:
    """A run as an SVG."""
    seconds = len(timeline.handled)
    width = max(1, -(-seconds // POINTS))
    published, handled = (_rates(each, width) for each in (timeline.published, timeline.handled))
    backlog = [float(max(timeline.backlog[at : at + width])) for at in range(0, seconds, width)]
    lanes = TOP + 2 * PANEL + 2 * GAP
    bottom = lanes + ROW * len(FAMILIES)
    height = bottom + BOTTOM
    description = f"{sum(timeline.handled):,} flights in {seconds} s; backlog of {max(backlog, default=0):,.0f} at most"
    return "\n".join(
        [
            *head(title, subtitle, description, height),
            *_legend(),
            *_panel("flights a second", TOP, (published, handled), seconds, width),
            *_panel("published, not handled", TOP + PANEL + GAP, (backlog,), seconds, width),
            *_faults(caused, lanes, seconds),
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>',
            *time_axis(bottom, seconds),
            "</svg>",
            "",
        ]
    )


def _rates(counts: Sequence[int], width: int) -> list[float]:
    return [sum(counts[at : at + width]) / width for at in range(0, len(counts), width)]


def _legend() -> Iterator[str]:
    for number, name in enumerate(("published", "handled")):
        x = LEFT + 120 * number
        yield f'<g class="series{number}"><line class="line" x1="{x}" x2="{x + 26}" y1="74" y2="74"/></g>'
        yield f'<text class="ink" x="{x + 33}" y="78" font-size="12">{name}</text>'


def _panel(name: str, top: int, series: Sequence[Sequence[float]], seconds: int, width: int) -> Iterator[str]:
    highest = max((value for each in series for value in each), default=0) or 1
    yield from panel(name, top, PANEL, highest)
    for number, values in enumerate(series):
        points = " ".join(
            f"{x_of((place + 0.5) * width, seconds):.1f},{top + PANEL * (1 - value / highest):.1f}"
            for place, value in enumerate(values)
        )
        yield f'<g class="series{number}"><polyline class="line" style="stroke-width: 1.5" points="{points}"/></g>'


def _faults(caused: Sequence[Caused], top: int, seconds: int) -> Iterator[str]:
    """A row for each family; a bar for each fault, as long as it lasted."""
    for row, (family, kinds) in enumerate(FAMILIES.items()):
        y = top + ROW * row
        yield f'<text class="faint" x="{LEFT - 10}" y="{y + 10}" text-anchor="end" font-size="12">{family}</text>'
        yield '<g class="series1" opacity="0.75">'
        for each in caused:
            if each.planned.kind in kinds:
                x, end = x_of(each.began_at, seconds), x_of(each.ended_at, seconds)
                text = escape(f"{each.began_at:.0f} s: {each.planned}")
                yield f'<rect class="dot" x="{x:.1f}" y="{y}" width="{max(end - x, 1.5):.1f}" height="{ROW - 5}"><title>{text}</title></rect>'
        yield "</g>"
