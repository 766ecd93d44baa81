"""Small plots: numbers to the coordinates of an SVG, which a template draws without scripts or inline styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 440, 150
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 8, 22
_STEPS = (1, 2, 5)


class Line(NamedTuple):
    """One row of numbers as a line."""

    name: str
    title: str
    points: str


class Bar(NamedTuple):
    """One number as a bar."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Tick(NamedTuple):
    """A label on an axis."""

    x: float
    y: float
    text: str


class Plot(NamedTuple):
    """All that the template draws."""

    title: str
    width: int
    height: int
    left: int
    right: int
    bottom: int
    lines: list[Line]
    bars: list[Bar]
    scale: list[Tick]
    ticks: list[Tick]
    rows: Sequence[tuple[str, ...]]
    is_empty: bool


def line_plot(title: str, labels: Sequence[str], series: Sequence[tuple[str, str, Sequence[int]]], every: int) -> Plot:
    """Lines over time.

    Args:
        title: what it shows, for people and screen readers.
        labels: of each position.
        series: CSS class, title and numbers of each line.
        every: label each so-manieth position.
    """
    top = _rounded_up(max((number for _, _, numbers in series for number in numbers), default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels) - 1)
    lines = [
        Line(name, name_title, " ".join(f"{LEFT + i * step:.1f},{_y(n, top):.1f}" for i, n in enumerate(numbers)))
        for name, name_title, numbers in series
    ]
    ticks = [_tick(LEFT + i * step, label) for i, label in enumerate(labels) if i % every == 0]
    rows = [(label, *(str(numbers[i]) for _, _, numbers in series)) for i, label in enumerate(labels)]
    return _plot(title, top, lines=lines, ticks=ticks, rows=[row for row in rows if set(row[1:]) != {"0"}])


def bar_plot(title: str, numbers: Sequence[tuple[str, int]], every: int) -> Plot:
    """A bar for each label and number."""
    top = _rounded_up(max((number for _, number in numbers), default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(numbers))
    bars = [
        Bar(
            round(LEFT + i * step + 2, 1),
            round(_y(n, top), 1),
            round(step - 4, 1),
            round(_y(0, top) - _y(n, top), 1),
            f"{label}: {n}",
        )
        for i, (label, n) in enumerate(numbers)
    ]
    ticks = [_tick(LEFT + (i + 0.5) * step, label) for i, (label, _) in enumerate(numbers) if i % every == 0]
    rows = [(label, str(number)) for label, number in numbers if number]
    return _plot(title, top, bars=bars, ticks=ticks, rows=rows)


def _plot(
    title: str,
    top: int,
    *,
    ticks: list[Tick],
    rows: Sequence[tuple[str, ...]],
    lines: Sequence[Line] = (),
    bars: Sequence[Bar] = (),
) -> Plot:
    scale = [Tick(LEFT - 6, round(_y(n, top) + 4, 1), f"{n:,}") for n in dict.fromkeys((0, top // 2, top))]
    return Plot(
        title,
        WIDTH,
        HEIGHT,
        LEFT,
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        list(lines),
        list(bars),
        scale,
        ticks,
        rows,
        not rows,
    )


def _tick(x: float, text: str) -> Tick:
    return Tick(round(x, 1), HEIGHT - 6, text)


def _y(number: float, top: int) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - number / top)


def _rounded_up(number: int) -> int:
    """The next of 2, 4, 10, 20, 40, 100 ..., so that half of it is a number to read as well."""
    power = 1
    while True:
        for step in _STEPS:
            if number <= 2 * step * power:
                return 2 * step * power
        power *= 10
