"""What must have happened, computed from the flights and the business rows alone, and what is different."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from tests.chaos.stream import Flight


class LegRow(NamedTuple):
    """A row that the handler wrote, in the order of these rows."""

    number: int
    tail: str
    sequence: int
    miles: int


class Findings(NamedTuple):
    """How many rows are wrong, by what is wrong with them.

    Attributes:
        handled: flights that were handled.
        unpublished: flights whose transaction must have been committed, without a row.
        lost: published flights that were not handled.
        twice: rows of flights that had been handled before.
        unknown: rows of flights that were not published, such as those rolled back.
        out_of_order: rows behind one of a later flight of the same airplane.
        wrong_totals: rows whose number in the sequence, or whose miles, are not those of the airplane's flights so far.
    """

    handled: int
    unpublished: int
    lost: int
    twice: int
    unknown: int
    out_of_order: int
    wrong_totals: int

    @property
    def broken(self) -> bool:
        """True if anything is wrong."""
        return any(self[1:])

    def __str__(self) -> str:
        texts = [f"{name.replace('_', ' ')} {number}" for name, number in zip(self._fields[1:], self[1:], strict=True)]
        return f"{self.handled:,} flights handled: {', '.join(texts)}"


def check(stream: Iterable[Flight], published: Collection[int], legs: Iterable[LegRow]) -> Findings:
    """Compare the handler's rows with the flights.

    Args:
        stream: the flights of the run, in order.
        published: the numbers of those that were committed.
    """
    wanted = {flight.number: flight for flight in stream if not flight.rolled_back}
    committed = [wanted[number] for number in sorted(published) if number in wanted]
    rolled_back = len(published) - len(committed)
    expected = _totals(committed)
    seen: Counter[int] = Counter()
    latest: defaultdict[str, int] = defaultdict(int)
    twice = unknown = out_of_order = wrong_totals = 0
    for leg in legs:
        seen[leg.number] += 1
        twice += seen[leg.number] > 1
        unknown += leg.number not in expected
        if leg.tail:
            out_of_order += leg.number < latest[leg.tail]
            latest[leg.tail] = max(leg.number, latest[leg.tail])
        wrong_totals += leg.number in expected and expected[leg.number] != leg
    return Findings(
        handled=len(seen),
        unpublished=len(wanted) - len(committed),
        lost=len(expected.keys() - seen.keys()),
        twice=twice,
        unknown=unknown + rolled_back,
        out_of_order=out_of_order,
        wrong_totals=wrong_totals,
    )


def _totals(flights: Iterable[Flight]) -> dict[int, LegRow]:
    """What the handler must have written for each flight. Flights without a tail number have totals of their own."""
    legs = {}
    last: dict[str, LegRow] = {}
    for flight in flights:
        before = last.get(flight.tail, LegRow(0, flight.tail, 0, 0))
        leg = LegRow(flight.number, flight.tail, before.sequence + 1, before.miles + flight.miles)
        legs[flight.number] = leg
        if flight.tail:
            last[flight.tail] = leg
    return legs
