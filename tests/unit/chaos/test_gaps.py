"""What a chaos run reports."""

from __future__ import annotations

import pytest

from tests.chaos.gaps import longest_gap


@pytest.mark.parametrize(
    ("times", "longest"),
    [
        ([], 20.0),
        ([101.0], 19.0),
        ([101.0, 104.0, 119.0], 15.0),
        ([90.0, 95.0], 20.0),
        ([103.0, 110.0, 118.0, 130.0, 200.0], 12.0),
    ],
    ids=["none", "one", "inside", "before", "across the end"],
)
def test_the_longest_gap_is_one_to_the_next_event_or_to_the_end(times: list[float], longest: float) -> None:
    assert longest_gap(times, 100.0, 120.0) == longest
