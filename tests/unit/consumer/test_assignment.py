"""How long a member may wait for its partitions: when it is told, and when a new client takes its place."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.consumer.assignment import REJOIN_SECONDS, TROUBLE, WARN_SECONDS, AssignmentTimeout
from django_outbox.worker.outage_log import REMINDER_SECONDS
from tests.support.clock import Clock

log = logging.getLogger("django_outbox.consumer")


@pytest.fixture
def member() -> Any:
    """Of the subscription, what counts here."""
    return SimpleNamespace(is_assigned=False)


@pytest.fixture
def assignment(clock: Clock, caplog: pytest.LogCaptureFixture) -> AssignmentTimeout:
    caplog.set_level(logging.INFO, log.name)
    return AssignmentTimeout("shop", log, clock)


def test_a_member_is_in_trouble_after_a_minute_and_replaced_after_longer_than_a_rebalance_may_take(
    assignment: AssignmentTimeout, member: Any, clock: Clock
) -> None:
    joined_at = clock.now
    assert not assignment.is_overdue(member)
    clock.now = joined_at + WARN_SECONDS - 1
    assert not assignment.is_overdue(member)
    assert str(assignment) == ""
    clock.now = joined_at + WARN_SECONDS
    assert not assignment.is_overdue(member)
    assert str(assignment) == f"The consumer group shop: {TROUBLE}"
    clock.now = joined_at + REJOIN_SECONDS - 1
    assert not assignment.is_overdue(member)
    clock.now = joined_at + REJOIN_SECONDS
    assert assignment.is_overdue(member)


def test_the_trouble_is_told_once_then_each_minute_and_at_its_end(
    assignment: AssignmentTimeout, member: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assignment.is_overdue(member)
    clock.now += WARN_SECONDS
    assignment.is_overdue(member)
    clock.now += REMINDER_SECONDS - 1
    assignment.is_overdue(member)
    clock.now += 1
    assignment.is_overdue(member)
    clock.now += 10
    member.is_assigned = True
    assignment.is_overdue(member)

    assert caplog.messages == [
        f"The consumer group shop: {TROUBLE} Trying again until it works.",
        f"The consumer group shop is still unavailable after {REMINDER_SECONDS:.0f} s: {TROUBLE}",
        f"The consumer group shop is available again after {REMINDER_SECONDS + 10:.0f} s.",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert str(assignment) == ""
