"""The plots of the overview, as coordinates of an SVG, which a template draws without scripts or inline styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.utils.formats import date_format
from django.utils.translation import gettext, pgettext

from django_outbox.admin.failures import dead_by_day
from django_outbox.admin.tables import INBOX, Table
from django_outbox.observability import text as texts
from django_outbox.operations.activity import Throughput

TOP, BOTTOM, LEFT, RIGHT = 10, 154, 56, 420
"""The edges of the area inside the axes."""


class Series(NamedTuple):
    """Numbers to plot: the CSS class, the title, and a number for each label."""

    name: str
    title: str
    numbers: Sequence[int]

    @property
    def total(self) -> str:
        return texts.number(sum(self.numbers))


class Bar(NamedTuple):
    """A number as a segment of a bar."""

    name: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """What the template draws.

    Attributes:
        title: the heading.
        description: a sentence for screen readers.
        scale: the height and the text of each grid line.
        ticks: the position and the text of each label on the time axis.
        rows: for each label with any numbers: the label, and the number of each series.
        lines: the CSS class and the points of each line.
    """

    title: str
    description: str
    series: Sequence[Series]
    scale: list[tuple[float, str]]
    ticks: list[tuple[float, str]]
    rows: list[tuple[str, ...]]
    lines: Sequence[tuple[str, str]] = ()
    bars: Sequence[Bar] = ()

    left, right = LEFT, RIGHT


def overview_plots(tables: Sequence[Table], done: Throughput, now: datetime) -> list[Plot]:
    """Throughput of the outbox and, if it is used, of the inbox; dead messages of both."""
    times = [date_format(texts.local(start), "H:i") for start in done.starts]
    written = Series("in", gettext("written"), done.written)
    published = Series("sent", gettext("published"), done.published)
    consumed = gettext("consumed")
    plots = [
        line_plot(
            gettext("Outbox, last 24 hours"),
            gettext("Messages of the outbox written, published and consumed per ten minutes, in the last 24 hours"),
            times,
            [written, published, Series("out", consumed, done.consumed)],
            every=36,
        )
    ]
    if INBOX in tables:
        received = Series("in", gettext("received"), done.inbox_received)
        plots.append(
            line_plot(
                gettext("Inbox, last 24 hours"),
                gettext("Messages of the inbox received and consumed per ten minutes, in the last 24 hours"),
                times,
                [received, Series("out", consumed, done.inbox_consumed)],
                every=36,
            )
        )
    days = dead_by_day(tables, now)
    # Translators: a day without its year, short, in Django's format
    day_format = pgettext("date format", "N j")
    names = {True: ("inbox", gettext("inbox")), False: ("outbox", gettext("outbox"))}
    dead = bar_plot(
        gettext("Dead messages, last 14 days"),
        gettext("Messages that became dead per day, in the last 14 days"),
        [date_format(day, day_format) for day in days],
        [Series(*names[table.is_inbox], [counts[table] for counts in days.values()]) for table in tables],
        every=4,
    )
    return [*plots, dead]


def line_plot(title: str, description: str, labels: Sequence[str], series: Sequence[Series], every: int) -> Plot:
    """Lines over time, with every n-th label shown."""
    top = _rounded_up(max(number for each in series for number in each.numbers))
    step = (RIGHT - LEFT) / max(1, len(labels) - 1)
    lines = [
        (each.name, " ".join(f"{LEFT + i * step:.1f},{_y(n, top):.1f}" for i, n in enumerate(each.numbers)))
        for each in series
    ]
    ticks = [(round(LEFT + i * step, 1), label) for i, label in enumerate(labels) if i % every == 0]
    return Plot(title, description, series, _scale(top), ticks, _rows(labels, series), lines=lines)


def bar_plot(title: str, description: str, labels: Sequence[str], series: Sequence[Series], every: int) -> Plot:
    """Stacked bars, the first series at the bottom, with every n-th label shown."""
    top = _rounded_up(max(map(sum, zip(*(each.numbers for each in series), strict=True))))
    step = (RIGHT - LEFT) / len(labels)
    bars = []
    for i, label in enumerate(labels):
        below = 0
        for each in series:
            number = each.numbers[i]
            if number:
                y, height = _y(below + number, top), _y(below, top) - _y(below + number, top)
                title_of_bar = f"{label}, {each.title}: {texts.number(number)}"
                x = LEFT + i * step + 2
                bars.append(
                    Bar(each.name, round(x, 1), round(y, 1), round(step - 4, 1), round(height, 1), title_of_bar)
                )
            below += number
    ticks = [(round(LEFT + (i + 0.5) * step, 1), label) for i, label in enumerate(labels) if i % every == 0]
    return Plot(title, description, series, _scale(top), ticks, _rows(labels, series), bars=bars)


def _scale(top: int) -> list[tuple[float, str]]:
    return [(round(_y(number, top), 1), texts.number(number)) for number in (0, top // 2, top)]


def _rows(labels: Sequence[str], series: Sequence[Series]) -> list[tuple[str, ...]]:
    numbers = zip(labels, *(each.numbers for each in series), strict=True)
    return [(label, *map(texts.number, each)) for label, *each in numbers if any(each)]


def _y(number: float, top: int) -> float:
    return BOTTOM - (BOTTOM - TOP) * number / top


def _rounded_up(number: int) -> int:
    """The next of 2, 4, 6, 8, 10, 20, 40 ..., so that half of it is a round number too."""
    power = 1
    while number > 10 * power:
        power *= 10
    return next(top for top in (2 * power, 4 * power, 6 * power, 8 * power, 10 * power) if top >= number)
