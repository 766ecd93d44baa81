"""Counters and histograms in plain Python: a worker adds a whole batch at once; the thread of a scrape reads them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

Labels = tuple[str, ...]


class Counters:
    """Counters by labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[Labels, int] = {}

    def add(self, labels: Labels, number: int) -> None:
        with self._lock:
            self._numbers[labels] = self._numbers.get(labels, 0) + number

    def read(self) -> dict[Labels, int]:
        with self._lock:
            return dict(self._numbers)


class Histogram:
    """Histograms by labels: values per bucket, and their sum."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = (*sorted(bounds), float("inf"))
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, values: Iterable[float]) -> None:
        with self._lock:
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._counts[labels] = [0] * len(self.bounds)
            total = self._sums.get(labels, 0.0)
            for value in values:
                counts[bisect_left(self.bounds, value)] += 1
                total += value
            self._sums[labels] = total

    def read(self) -> Iterator[tuple[Labels, list[tuple[float, int]], float]]:
        """For each labels: the upper bounds with cumulative counts, and the sum."""
        with self._lock:
            rows = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        for labels, counts, total in rows:
            yield labels, list(zip(self.bounds, accumulate(counts), strict=True)), total
