"""The flights of a chaos run and how publishers share them."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.stream import Flight, Share, read, write

STREAM = [Flight(number, f"N{number % 7}" if number % 5 else "", 100 + number) for number in range(1, 201)]
SHARES = [Share(number, 3) for number in range(3)]


def test_each_flight_has_one_publisher_and_each_airplane_too() -> None:
    publishers = {flight: [share.number for share in SHARES if share.has(flight)] for flight in STREAM}
    assert all(len(found) == 1 for found in publishers.values())
    by_tail = {tail: {publishers[each][0] for each in STREAM if each.tail == tail} for tail in ("N1", "N2", "N3")}
    assert all(len(found) == 1 for found in by_tail.values())
    assert {found[0] for found in publishers.values()} == {0, 1, 2}


def test_some_transactions_are_rolled_back() -> None:
    rolled_back = [flight.number for flight in STREAM if flight.rolled_back]
    assert 0 < len(rolled_back) < 20


def test_publishers_read_what_the_run_wrote(tmp_path: Path) -> None:
    write(STREAM, tmp_path / "flights.csv")
    assert list(read(tmp_path / "flights.csv")) == STREAM
