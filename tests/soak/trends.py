"""Whether a series of samples stays flat: its fitted slope, and how much of it is allowed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

WARM_UP = 0.25
"""The share of a run, from its beginning, in which nothing need be flat: caches fill, and no row is old enough to be purged."""
BINS = 30
"""A bin's median is a point of the fit: a checkpoint or a vacuum is no trend."""


@dataclass(frozen=True)
class Limit:
    """How much a measure may grow in an hour.

    Attributes:
        share: of its mean.
        least: in its unit, for measures that are almost zero.
    """

    share: float
    least: float = 0.0


@dataclass(frozen=True)
class Trend:
    """The fitted line of a series.

    Attributes:
        mean: after the warm-up.
        highest: after the warm-up.
        slope: by least squares, per hour.
        error: twice the slope's standard error. A measure that rises and falls, such as rows between two walks of the
            purge, has a slope by chance.
        bound: what the slope must not exceed by more than that. A measure may shrink.
    """

    mean: float
    highest: float
    slope: float
    error: float
    bound: float

    @property
    def flat(self) -> bool:
        return self.slope - self.error <= self.bound

    @classmethod
    def of(cls, seconds: Sequence[float], values: Sequence[float], limit: Limit) -> Self:
        """Fit the samples behind the warm-up.

        Args:
            seconds: of the samples, from the beginning of the run, ascending.
            values: as many.

        Raises:
            ValueError: fewer than three bins have a sample.
        """
        warm = seconds[-1] * WARM_UP
        found = [(second, value) for second, value in zip(seconds, values, strict=True) if second >= warm]
        width = (seconds[-1] - warm) / BINS
        bins: dict[int, list[tuple[float, float]]] = {}
        for second, value in found:
            bins.setdefault(min(int((second - warm) / width), BINS - 1), []).append((second, value))
        if len(bins) < 3:
            raise ValueError("a trend needs three bins of samples")
        hours = [statistics.fmean(second for second, _ in each) / 3600 for each in bins.values()]
        medians = [statistics.median(value for _, value in each) for each in bins.values()]
        mean = statistics.fmean(value for _, value in found)
        line = statistics.linear_regression(hours, medians)
        residuals = [median - line.slope * hour - line.intercept for hour, median in zip(hours, medians, strict=True)]
        middle = statistics.fmean(hours)
        spread = sum((hour - middle) ** 2 for hour in hours)
        error = 2 * math.sqrt(sum(each**2 for each in residuals) / (len(bins) - 2) / spread)
        highest = max(value for _, value in found)
        return cls(mean, highest, line.slope, error, max(mean * limit.share, limit.least))
