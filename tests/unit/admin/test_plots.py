"""Plots: numbers keep their proportions, and every number can also be read."""

from __future__ import annotations

import re

import pytest
from django.template.loader import render_to_string
from django.utils import translation

from django_outbox.admin.plots import BOTTOM, TOP, Series, bar_plot, line_plot

FULL = BOTTOM - TOP


@pytest.mark.parametrize(
    ("largest", "top"),
    [(0, 2), (1, 2), (3, 4), (9, 10), (11, 20), (101, 200), (201, 400), (401, 600), (999_999, 1_000_000)],
)
def test_scale_ends_at_a_number_that_is_easily_halved(largest: int, top: int) -> None:
    plot = bar_plot("title", "", ["a"], [Series("s", "s", [largest])], 1)
    assert [text for _, text in plot.scale] == ["0", f"{top // 2:,}", f"{top:,}"]


def test_bars_are_as_high_as_their_numbers() -> None:
    plot = bar_plot("title", "", ["a", "b", "c"], [Series("s", "dead", [0, 5, 10])], 1)
    assert [bar.height for bar in plot.bars] == [FULL / 2, FULL]
    assert plot.bars[0].title == "b, dead: 5"


def test_bars_of_several_rows_stand_on_each_other() -> None:
    series = [Series("low", "outbox", [3, 0]), Series("high", "inbox", [7, 5])]
    plot = bar_plot("title", "", ["a", "b"], series, 1)
    assert [(bar.name, bar.height) for bar in plot.bars] == [
        ("low", FULL * 3 / 10),
        ("high", FULL * 7 / 10),
        ("high", FULL / 2),
    ]
    assert plot.bars[0].y == plot.bars[1].y + plot.bars[1].height
    assert [text for _, text in plot.scale] == ["0", "5", "10"]
    assert plot.rows == [("a", "3", "7"), ("b", "0", "5")]


def test_lines_go_from_the_first_label_to_the_last() -> None:
    plot = line_plot("title", "", ["a", "b", "c"], [Series("in", "written", [0, 10, 0])], 2)
    assert plot.lines == [("in", "56.0,154.0 238.0,10.0 420.0,154.0")]
    assert [text for _, text in plot.ticks] == ["a", "c"]


@pytest.mark.parametrize("language", ["en", "de"])
def test_coordinates_are_those_of_svg_in_every_language(language: str) -> None:
    with translation.override(language):
        plot = bar_plot("title", "", ["a", "b", "c"], [Series("s", "s", [1, 2000, 3])], 1)
        shown = render_to_string("admin/django_outbox/plot.html", {"plot": plot})
    coordinates = re.findall(r' (?:x|y|x1|x2|y1|y2|width|height)="([^"]*)"', shown)
    assert len(coordinates) > 30
    assert all(float(each) >= 0 for each in coordinates)


def test_numbers_can_be_read_without_those_that_are_nothing() -> None:
    series = [Series("in", "written", [0, 3000]), Series("out", "consumed", [0, 0])]
    assert line_plot("t", "", ["a", "b"], series, 1).rows == [("b", "3,000", "0")]
    assert [each.total for each in series] == ["3,000", "0"]
    assert not line_plot("t", "", ["a"], [Series("in", "written", [0])], 1).rows
