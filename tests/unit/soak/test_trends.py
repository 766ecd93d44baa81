"""When a soak run says that a measure grows."""

from __future__ import annotations

import random

import pytest

from tests.soak.trends import Limit, Trend

HOUR = [10.0 * number for number in range(1, 361)]
LIMIT = Limit(0.05)


def test_a_constant_is_flat() -> None:
    trend = Trend.of(HOUR, [80.0] * len(HOUR), LIMIT)
    assert (trend.mean, trend.highest, trend.bound) == (80, 80, 4)
    assert trend.slope == pytest.approx(0)
    assert trend.flat


def test_a_leak_is_not_flat() -> None:
    trend = Trend.of(HOUR, [80 + 8 * second / 3600 for second in HOUR], LIMIT)
    assert trend.slope == pytest.approx(8)
    assert not trend.flat


def test_what_shrinks_is_flat() -> None:
    assert Trend.of(HOUR, [80 - 8 * second / 3600 for second in HOUR], LIMIT).flat


def test_what_grows_in_the_first_quarter_does_not_count() -> None:
    assert Trend.of(HOUR, [min(second, 900) for second in HOUR], LIMIT).flat


def test_single_outliers_are_no_trend() -> None:
    values = [80.0] * len(HOUR)
    values[-1] = values[-10] = 5_000
    trend = Trend.of(HOUR, values, LIMIT)
    assert trend.flat
    assert trend.highest == 5_000


@pytest.mark.parametrize("seed", range(20))
def test_noise_hides_no_leak_and_is_none(seed: int) -> None:
    noise = random.Random(seed)
    assert Trend.of(HOUR, [noise.gauss(80, 4) for _ in HOUR], LIMIT).flat
    assert not Trend.of(HOUR, [noise.gauss(80, 4) + 12 * second / 3600 for second in HOUR], LIMIT).flat


def test_what_is_almost_zero_may_grow_by_a_little() -> None:
    values = [second / 3600 for second in HOUR]
    assert not Trend.of(HOUR, values, LIMIT).flat
    assert Trend.of(HOUR, values, Limit(0.05, least=1.5)).flat


def sawtooth(second: float, period: float) -> float:
    """As the rows of a table that is purged in walks."""
    return 100 + 20 * (second % period) / period


@pytest.mark.parametrize("period", range(60, 600, 20))
def test_what_rises_and_falls_is_flat_unless_it_grows(period: float) -> None:
    assert Trend.of(HOUR, [sawtooth(second, period) for second in HOUR], LIMIT).flat
    assert not Trend.of(HOUR, [sawtooth(second, period) + 40 * second / 3600 for second in HOUR], LIMIT).flat


def test_few_samples_are_no_trend() -> None:
    with pytest.raises(ValueError, match="three bins"):
        Trend.of([10.0, 10.0, 100.0], [1, 2, 3], LIMIT)
