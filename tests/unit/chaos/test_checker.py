"""The checker of a chaos run finds each kind of wrong row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.checker import LegRow, check
from tests.chaos.stream import Flight

STREAM = [
    Flight(number, tail, miles)
    for number, tail, miles in [(1, "N1", 100), (2, "N2", 50), (3, "N1", 10), (4, "", 70), (5, "N1", 1), (6, "", 20)]
]
RIGHT = [
    LegRow(2, "N2", 1, 50),
    LegRow(1, "N1", 1, 100),
    LegRow(6, "", 1, 20),
    LegRow(3, "N1", 2, 110),
    LegRow(4, "", 1, 70),
    LegRow(5, "N1", 3, 111),
]
ROLLED_BACK = next(flight for number in range(7, 10_000) if (flight := Flight(number, "N1", 5)).rolled_back)


def test_right_rows_are_found_right() -> None:
    assert not any(flight.rolled_back for flight in STREAM)
    findings = check([*STREAM, ROLLED_BACK], range(1, 7), RIGHT)
    assert not findings.broken
    assert findings.handled == 6


def wrong(change: Callable[[list[LegRow]], object]) -> dict[str, int]:
    legs = list(RIGHT)
    change(legs)
    findings = check(STREAM, range(1, 7), legs)
    assert findings.broken
    return {name: number for name, number in findings._asdict().items() if number and name != "handled"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda legs: legs.pop(4), {"lost": 1}),
        (lambda legs: legs.pop(1), {"lost": 1}),
        (lambda legs: legs.append(legs[2]), {"twice": 1}),
        (lambda legs: legs.append(LegRow(5, "N1", 4, 112)), {"twice": 1, "wrong_totals": 1}),
        (lambda legs: legs.append(LegRow(9, "N2", 2, 60)), {"unknown": 1}),
        (lambda legs: legs.insert(1, legs.pop(3)), {"out_of_order": 1}),
        (lambda legs: legs.__setitem__(5, LegRow(5, "N1", 3, 101)), {"wrong_totals": 1}),
        (lambda legs: legs.__setitem__(5, LegRow(5, "N1", 2, 111)), {"wrong_totals": 1}),
    ],
    ids=["keyless lost", "lost", "keyless twice", "twice", "unknown", "out of order", "miles", "sequence"],
)
def test_a_wrong_row_is_found(change: Callable[[list[LegRow]], object], found: dict[str, int]) -> None:
    assert wrong(change) == found


def test_a_flight_that_was_not_published_but_must_have_been_is_found() -> None:
    findings = check(STREAM, [1, 2, 3, 4, 6], RIGHT[:-1])
    assert (findings.unpublished, findings.lost) == (1, 0)
    assert findings.broken


def test_a_flight_that_was_rolled_back_and_left_something_is_found() -> None:
    assert check([*STREAM, ROLLED_BACK], [*range(1, 7), ROLLED_BACK.number], RIGHT).unknown == 1
    assert check([*STREAM, ROLLED_BACK], range(1, 7), [*RIGHT, LegRow(ROLLED_BACK.number, "N1", 4, 116)]).unknown == 1
