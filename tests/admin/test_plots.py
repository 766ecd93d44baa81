"""Plots: numbers keep their proportions, and every number can also be read."""

from __future__ import annotations

import pytest

from django_outbox.admin.plots import BOTTOM, HEIGHT, TOP, bar_plot, line_plot


@pytest.mark.parametrize(
    ("largest", "top"), [(0, 2), (1, 2), (3, 4), (9, 10), (11, 20), (101, 200), (999_999, 1_000_000)]
)
def test_scale_ends_at_a_number_that_is_easily_halved(largest: int, top: int) -> None:
    plot = bar_plot("title", [("a", largest)], 1)
    assert [tick.text for tick in plot.scale] == ["0", f"{top // 2:,}", f"{top:,}"]


def test_bars_are_as_high_as_their_numbers() -> None:
    bars = bar_plot("title", [("a", 0), ("b", 5), ("c", 10)], 1).bars
    heights = [bar.height for bar in bars]
    assert heights == [0, (HEIGHT - TOP - BOTTOM) / 2, HEIGHT - TOP - BOTTOM]
    assert bars[1].title == "b: 5"


def test_lines_go_from_the_first_label_to_the_last() -> None:
    plot = line_plot("title", ["a", "b", "c"], [("in", "written", [0, 10, 0]), ("out", "consumed", [0, 0, 0])], 2)
    assert plot.lines[0].points == "48.0,128.0 236.0,8.0 424.0,128.0"
    assert [tick.text for tick in plot.ticks] == ["a", "c"]


def test_numbers_can_be_read_without_those_that_are_nothing() -> None:
    assert line_plot("t", ["a", "b"], [("in", "w", [0, 3])], 1).rows == [("b", "3")]
    assert bar_plot("t", [("a", 0), ("b", 2)], 1).rows == [("b", "2")]
    assert bar_plot("t", [("a", 0)], 1).is_empty
