"""Small plots: turns numbers into coordinates of an SVG, which a template draws without scripts or inline styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django_outbox.observability import text as texts

WIDTH, HEIGHT = 440, 180
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 10, 26
_STEPS = (1, 2, 3, 4, 5)


class Series(NamedTuple):
    """Numbers to plot: the CSS class, the title, and a number for each label."""

    name: str
    title: str
    numbers: Sequence[int]

    @property
    def total(self) -> str:
        return texts.number(sum(self.numbers))


class Line(NamedTuple):
    """A series as a line."""

    name: str
    points: str


class Bar(NamedTuple):
    """A number as a bar, or as a segment of one."""

    name: str
    x: float
    y: float
    width: float
    height: float
    title: str


class Tick(NamedTuple):
    """A label on an axis; on the vertical one with the height of its grid line."""

    x: float
    y: float
    text: str
    line: float = 0.0


class Plot(NamedTuple):
    """What the template draws."""

    title: str
    description: str
    series: Sequence[Series]
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


def line_plot(title: str, description: str, labels: Sequence[str], series: Sequence[Series], every: int) -> Plot:
    """Lines over time.

    Args:
        title: the heading.
        description: a sentence for screen readers.
        labels: one for each position.
        series: one for each line.
        every: show the label of every n-th position.
    """
    top = _rounded_up(max((number for each in series for number in each.numbers), default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels) - 1)
    lines = [
        Line(each.name, " ".join(f"{LEFT + i * step:.1f},{_y(n, top):.1f}" for i, n in enumerate(each.numbers)))
        for each in series
    ]
    ticks = [_tick(LEFT + i * step, label) for i, label in enumerate(labels) if i % every == 0]
    return _plot(title, description, labels, series, top, lines=lines, ticks=ticks)


def bar_plot(title: str, description: str, labels: Sequence[str], series: Sequence[Series], every: int) -> Plot:
    """Stacked bars, the first series at the bottom; otherwise as ``line_plot``."""
    sums = [sum(numbers) for numbers in zip(*(each.numbers for each in series), strict=True)]
    top = _rounded_up(max(sums, default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    bars = []
    for i, label in enumerate(labels):
        below = 0
        for each in series:
            number = each.numbers[i]
            if number:
                x, y = LEFT + i * step + 2, _y(below + number, top)
                title_of_bar = f"{label}, {each.title}: {texts.number(number)}"
                height = _y(below, top) - y
                bars.append(
                    Bar(each.name, round(x, 1), round(y, 1), round(step - 4, 1), round(height, 1), title_of_bar)
                )
            below += number
    ticks = [_tick(LEFT + (i + 0.5) * step, label) for i, label in enumerate(labels) if i % every == 0]
    return _plot(title, description, labels, series, top, bars=bars, ticks=ticks)


def _plot(
    title: str,
    description: str,
    labels: Sequence[str],
    series: Sequence[Series],
    top: int,
    *,
    ticks: list[Tick],
    lines: Sequence[Line] = (),
    bars: Sequence[Bar] = (),
) -> Plot:
    heights = {n: round(_y(n, top), 1) for n in (0, top // 2, top)}
    scale = [Tick(LEFT - 6, round(y + 5, 1), texts.number(n), y) for n, y in heights.items()]
    numbers = zip(labels, *(each.numbers for each in series), strict=True)
    rows = [(label, *map(texts.number, each)) for label, *each in numbers if any(each)]
    return Plot(
        title,
        description,
        series,
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
    """The next of 2, 4, 6, 8, 10, 20, 40 ..., so that half of it is a round number too."""
    power = 1
    while True:
        for step in _STEPS:
            if number <= 2 * step * power:
                return 2 * step * power
        power *= 10
