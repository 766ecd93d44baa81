"""Records of this service's own outbox: how long their rows may not be visible yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from django_outbox.consumer.own_record import UNSEEN_FOR, OwnRecord, own_record
from tests.support.hand import own
from tests.support.overrides import outbox_settings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
A_MOMENT = timedelta(microseconds=1)


def record_at(time: str | None) -> OwnRecord:
    found = own_record(own(7, time=time), "tests")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("retention", "longest"),
    [
        ({}, UNSEEN_FOR),
        ({"consumed": timedelta(minutes=10), "dead": None}, timedelta(minutes=10)),
        ({"published": timedelta(0)}, timedelta(0)),
        ({"inbox": timedelta(minutes=10)}, UNSEEN_FOR),  # of other rows
        ({"consumed": timedelta(days=1), "inbox": timedelta(0)}, UNSEEN_FOR),
    ],
)
def test_a_row_may_be_unseen_for_an_hour_unless_it_may_be_purged_before(
    retention: dict[str, Any], longest: timedelta
) -> None:
    with outbox_settings(RETENTION=retention):
        ages = (longest - A_MOMENT, longest, longest + A_MOMENT)
        assert [record_at((NOW - age).isoformat()).may_be_unseen(NOW) for age in ages] == [True, False, False]


@pytest.mark.parametrize(("minutes", "may_be"), [(59, True), (61, False)])
def test_without_time_zones_the_time_is_that_of_the_process(settings: Any, minutes: int, may_be: bool) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Tokyo"
    now = NOW.astimezone(ZoneInfo("Asia/Tokyo")).replace(tzinfo=None)
    assert record_at((NOW - timedelta(minutes=minutes)).isoformat()).may_be_unseen(now) is may_be


@pytest.mark.parametrize("time", ["soon", None], ids=["wrong", "missing"])
def test_a_record_that_does_not_say_when_its_row_was_inserted_is_not_waited_for(time: str | None) -> None:
    assert not record_at(time).may_be_unseen(NOW)
