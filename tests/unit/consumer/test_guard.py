"""Which records are guarded against poison, and which of them are handled alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.guard import TOGETHER, PoisonGuard
from django_outbox.consumer.line import Queued
from django_outbox.consumer.source import Kind
from tests.support.overrides import outbox_settings

NEW, KNOWN = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Guarded:
    """A guard of two records of each partition; ids of messages without a handler are negative."""

    def __init__(self, *, has_lanes: bool = False) -> None:
        self.suspects: set[int] = set()
        self.is_away = False
        outbox: Any = SimpleNamespace(cost=lambda item: float(item.id > 0), counted=self._counted)
        inbox: Any = SimpleNamespace(uses_mapper=lambda item: item == "for a mapper")
        self.guard = PoisonGuard(outbox, inbox, 2, has_lanes=has_lanes)
        self.guard.begin([NEW])

    def _counted(self, ids: list[int]) -> set[int]:
        if self.is_away:
            raise OperationalError("away")
        return self.suspects & {*ids}

    def mark(self, *items: Any, group: TopicPartition = NEW) -> list[tuple[bool, bool, int | None]]:
        """For each record, whether it is guarded, whether alone, and with how many like it."""
        queued = [self._queued(item, group) for item in items]
        self.guard.mark(queued)
        return [(each.guarded, each.alone, each.most) for each in queued]

    def _queued(self, item: Any, group: TopicPartition) -> Queued[Any]:
        if isinstance(item, int):
            return Queued(SimpleNamespace(id=item), None, Kind.OWN, group)
        return Queued(item, None, Kind.FOREIGN, group)


FREE, ALONE, TOGETHER_WITH_OTHERS = (False, False, None), (True, True, 1), (True, False, TOGETHER)
ONE_BY_ONE = (True, False, 1)


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def test_the_first_records_of_a_new_partition_are_guarded_together(guarded: Guarded) -> None:
    assert guarded.mark(1, 2) == [TOGETHER_WITH_OTHERS] * 2
    assert guarded.mark(3, 4, group=KNOWN) == [FREE] * 2
    assert guarded.mark("foreign", "for a mapper") == [ONE_BY_ONE, ALONE]


def test_what_was_being_handled_when_a_process_died_is_handled_alone(guarded: Guarded) -> None:
    guarded.suspects = {2}
    assert guarded.mark(1, 2, 3) == [TOGETHER_WITH_OTHERS, ALONE, TOGETHER_WITH_OTHERS]


def test_what_nobody_handles_kills_no_process(guarded: Guarded) -> None:
    assert guarded.mark(-1, 2) == [FREE, TOGETHER_WITH_OTHERS]
    assert guarded.mark(-1, -2) == [FREE] * 2


@pytest.mark.parametrize(("has_lanes", "expected"), [(False, ALONE), (True, TOGETHER_WITH_OTHERS)])
def test_a_single_record_is_handled_alone_anyway_unless_other_lanes_work(
    has_lanes: bool, expected: tuple[bool, bool, int]
) -> None:
    assert Guarded(has_lanes=has_lanes).mark(1) == [expected]


@pytest.mark.parametrize(("most", "expected"), [(1, ALONE), (2, TOGETHER_WITH_OTHERS)])
def test_all_are_handled_alone_where_none_may_kill_a_process_twice(
    guarded: Guarded, most: int, expected: tuple[bool, bool, int]
) -> None:
    with outbox_settings(MAX_DELIVERIES=most):
        assert guarded.mark(1, 2) == [expected] * 2


def test_without_the_database_all_are_handled_alone(guarded: Guarded) -> None:
    guarded.is_away = True
    assert guarded.mark(1, 2) == [ALONE] * 2


def test_the_guard_ends_with_as_many_as_a_killed_process_had_in_hand(guarded: Guarded) -> None:
    first: Queued[Any] = Queued("foreign", None, Kind.FOREIGN, NEW, guarded=True)
    free: Queued[Any] = Queued("foreign", None, Kind.FOREIGN, NEW)
    for queued in (first, free):
        guarded.guard.handled(queued)
        assert guarded.mark("foreign", "foreign") == [ONE_BY_ONE] * 2
    guarded.guard.handled(first)
    assert (bool(guarded.guard), guarded.mark("foreign", "foreign")) == (False, [FREE] * 2)
    guarded.guard.begin([KNOWN])
    assert guarded.mark("foreign", "foreign") == [FREE] * 2
    guarded.guard.end()
    assert not guarded.guard
