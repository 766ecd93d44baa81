"""Moments and ages as people write them, and what is wrong with others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from django_outbox.operations.time_parsing import parse_age, parse_time

AGES = {
    "30s": timedelta(seconds=30),
    "30m": timedelta(minutes=30),
    "45 min": timedelta(minutes=45),
    "2h": timedelta(hours=2),
    "2 H": timedelta(hours=2),
    "1 hour ago": timedelta(hours=1),
    "3d": timedelta(days=3),
    "3 days": timedelta(days=3),
    "3 days ago": timedelta(days=3),
    "8w": timedelta(weeks=8),
    "1 week": timedelta(weeks=1),
    "0d": timedelta(0),
}


@pytest.mark.parametrize(("text", "age"), AGES.items())
def test_ages(text: str, age: timedelta) -> None:
    assert parse_age(text) == age
    assert parse_time(text) == age


@pytest.mark.parametrize("text", ["", "3", "d", "-3d", "3y", "3months", "1.5h", "3d4h", "soon", "1234567d", "٣d٣"])
def test_what_is_no_age_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid age; use for example 30m, 2h, 3d or 1w"):
        parse_age(text)


@override_settings(TIME_ZONE="Europe/Berlin", USE_TZ=True)
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-24", datetime(2026, 11, 23, 23, tzinfo=UTC)),
        ("2026-11-24T18:30", datetime(2026, 11, 24, 17, 30, tzinfo=UTC)),
        ("2026-11-24 18:30:05", datetime(2026, 11, 24, 17, 30, 5, tzinfo=UTC)),
        ("2026-11-24T18:30Z", datetime(2026, 11, 24, 18, 30, tzinfo=UTC)),
        (" 2026-11-24T18:30+05:30 ", datetime(2026, 11, 24, 13, tzinfo=UTC)),
    ],
)
def test_dates_are_of_the_projects_zone_unless_they_name_one(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


def test_what_is_longer_ago_than_anything_is_no_age() -> None:
    assert parse_age("36500d") == timedelta(days=36500)
    for parse in (parse_age, parse_time):
        with pytest.raises(ValueError, match="'999999w' is too long; the maximum is 100 years"):
            parse("999999w")


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_moments_outside_of_the_calendar_are_named(text: str, use_tz: bool) -> None:
    with override_settings(USE_TZ=use_tz), pytest.raises(ValueError, match="is not a valid date"):
        parse_time(text)


@override_settings(USE_TZ=False)
def test_without_time_zones_moments_have_none() -> None:
    assert parse_time("2026-11-24T18:30") == datetime(2026, 11, 24, 18, 30)  # noqa: DTZ001
    assert parse_time("2026-11-24T18:30Z").tzinfo is None  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["2026-02-30", "2026-13-01T00:00", "2026-11-24T25:00"])
def test_days_that_do_not_exist_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid date"):
        parse_time(text)


@pytest.mark.parametrize("text", ["", "yesterday", "24.11.2026", "2026", "17"])
def test_what_is_no_moment_is_named_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid time; use for example 2026-11-24, .* or an age such as 30m"):
        parse_time(text)
