"""Moments and ages, as people write them: ``2026-11-24``, ``2026-11-24T18:30``, ``2h``, ``3 days``."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.db.models import Value
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from django_outbox.conf import LONGEST_RETENTION
from django_outbox.models.fields import DatabaseNow

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(
    r"(?P<number>\d{1,6})\s*(?P<unit>s|m|h|d|w|sec(onds?)?|min(utes?)?|hours?|days?|weeks?)(\s+ago)?", re.IGNORECASE
)


def parse_age(text: str) -> timedelta:
    """How long ago: ``30m``, ``2h``, ``3d``, ``1w``, or with the unit in full, as in ``3 days`` or ``3 days ago``.

    Raises:
        ValueError: if it is none of these.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no age such as 30m, 2h, 3d or 1w")
    age = timedelta(**{_UNITS[found["unit"][0].lower()]: int(found["number"])})
    if age > LONGEST_RETENTION:
        raise ValueError(f"{text!r} is longer ago than a hundred years")
    return age


def parse_moment(text: str) -> datetime | timedelta:
    """A moment: a date (its first instant), a date and a time, or how long ago.

    Without a zone it is the project's. Raises:
        ValueError: if it is none of these.
    """
    text = text.strip()
    if _AGE.fullmatch(text):
        return parse_age(text)
    try:
        moment = parse_datetime(text) if len(text) > len("2026-11-24") else _start(parse_date(text))
        if moment is not None:
            return _of_this_project(moment)
    except (ValueError, OverflowError) as error:  # well formed, but there is no such day or hour
        raise ValueError(f"{text!r} is no date: {error}") from error
    raise ValueError(
        f"{text!r} is no moment such as 2026-11-24, 2026-11-24T18:30, 2026-11-24T18:30+01:00, or how long ago, "
        "such as 30m, 2h, 3d or 1w"
    )


def in_query(moment: datetime | timedelta) -> Any:
    """A moment as part of a condition; how long ago is counted by the database's clock."""
    return DatabaseNow() - moment if isinstance(moment, timedelta) else Value(moment)


def _start(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time.min)


def _of_this_project(moment: datetime) -> datetime:
    if not django_settings.USE_TZ:
        return timezone.make_naive(moment) if timezone.is_aware(moment) else moment
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment)
    return moment.astimezone(UTC)  # now, as not every time of a zone is one of UTC
