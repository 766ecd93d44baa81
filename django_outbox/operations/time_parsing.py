"""Parses times and ages as people write them: ``2026-11-24``, ``2026-11-24T18:30``, ``2h``, ``3 days``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from django.conf import settings as django_settings
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from django_outbox.conf import LONGEST_RETENTION

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(
    r"(?P<number>\d{1,6})\s*(?P<unit>s|m|h|d|w|sec(onds?)?|min(utes?)?|hours?|days?|weeks?)(\s+ago)?", re.IGNORECASE
)


def parse_age(text: str) -> timedelta:
    """Parse an age: ``30m``, ``2h``, ``3d``, ``1w``, ``3 days`` or ``3 days ago``.

    Raises:
        ValueError: it is not a valid age.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a valid age; use for example 30m, 2h, 3d or 1w")
    age = timedelta(**{_UNITS[found["unit"][0].lower()]: int(found["number"])})
    if age > LONGEST_RETENTION:
        raise ValueError(f"{text!r} is too long; the maximum is 100 years")
    return age


def parse_time(text: str) -> datetime | timedelta:
    """Parse a date (its first instant), a date with a time, or an age. The default time zone is the project's.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if _AGE.fullmatch(text):
        return parse_age(text)
    try:
        if len(text) > len("2026-11-24"):
            parsed = parse_datetime(text)
        else:
            parsed = datetime.combine(day, time.min) if (day := parse_date(text)) else None
        if parsed is not None:
            return _in_project_zone(parsed)
    except (ValueError, OverflowError) as error:  # well formed, but there is no such day or hour
        raise ValueError(f"{text!r} is not a valid date: {error}") from error
    raise ValueError(
        f"{text!r} is not a valid time; use for example 2026-11-24, 2026-11-24T18:30, 2026-11-24T18:30+01:00, or an age "
        "such as 30m, 2h, 3d or 1w"
    )


def _in_project_zone(parsed: datetime) -> datetime:
    if not django_settings.USE_TZ:
        return timezone.make_naive(parsed) if timezone.is_aware(parsed) else parsed
    if timezone.is_naive(parsed):
        parsed = timezone.make_aware(parsed)
    return parsed.astimezone(UTC)  # here, as some local times have no UTC time and raise
