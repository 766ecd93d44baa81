"""Pauses: when messages are due that wait for their end, and when the circuit breaker may try one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from django_outbox.state.pauses import AFTER_OTHERS, AHEAD, INTERVAL, ActivePause

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def active(until: datetime | None = None) -> ActivePause:
    return ActivePause(1, "tests", "order.*", "", SINCE, until, SINCE)


@pytest.mark.parametrize(
    ("before_check", "checks_later"), [(AHEAD + SECOND, 1), (AHEAD, 2), (AHEAD - SECOND, 2), (INTERVAL, 1)]
)
def test_a_message_put_back_is_due_at_the_next_check_time_that_is_more_than_a_minute_ahead(
    before_check: timedelta, checks_later: int
) -> None:
    assert active().due_at(SINCE + INTERVAL - before_check) == SINCE + checks_later * INTERVAL


def test_messages_wait_for_the_next_two_check_times_and_for_the_end_and_shortly_after_it() -> None:
    checks = [SINCE + INTERVAL, SINCE + 2 * INTERVAL]
    assert active().due_times(SINCE + SECOND) == checks
    until = SINCE + 30 * SECOND
    assert active(until).due_times(SINCE + SECOND) == [*checks, until, until + AFTER_OTHERS]


def test_a_message_may_be_tried_from_the_end_of_the_pause_on() -> None:
    until = SINCE + 30 * SECOND
    found = [active(until).is_half_open(until + offset) for offset in (-SECOND, timedelta(0), SECOND)]
    assert found == [False, True, True]
    assert not active().is_half_open(until)
