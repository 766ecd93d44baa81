"""The search for what Debezium did not deliver, without a database: what it waits for, and what it asks of the rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.consumer.undelivered import MISSING_SECONDS, Undelivered
from django_outbox.state import undelivered as state
from django_outbox.state.dialects.results import LogPosition
from tests.support.clock import Clock

OWN, OTHER = TopicPartition("outbox", 0), TopicPartition("outbox", 1)
TYPES = ["order.created"]
AGE = timedelta(seconds=30)
IN_LOG = LogPosition(1000, "700", 1000, True)


class Search:
    """The search of one topic, whose rows and log are the test's own.

    Attributes:
        position: of the database's log.
        found: whether there are undelivered messages.
        asked: for which types that was asked.
        requeued: how each requeuing was asked for.
    """

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.position: LogPosition | None = IN_LOG
        self.found = True
        self.asked: list[Any] = []
        self.requeued: list[dict[str, Any]] = []
        self.undelivered = Undelivered(clock, "default")
        monkeypatch.setattr(state, "log_position", lambda slot, using: self.position)
        monkeypatch.setattr(state, "has_undelivered", self._has_undelivered)
        monkeypatch.setattr(state, "requeue_undelivered", self._requeue)

    def _has_undelivered(self, topic: str, *, age: timedelta, event_types: Any, using: str) -> bool:
        self.asked.append((topic, age, event_types, using))
        return self.found

    def _requeue(self, topic: str, **asked: Any) -> int:
        self.requeued.append({"topic": topic, **asked})
        return 2

    def check(self, progress: dict[TopicPartition, Progress] | None = None, read: int = 5) -> int:
        """One check of a member that has read its own partition so far."""
        self.undelivered.update()
        found = {OWN: Progress(0, 5, None)} if progress is None else progress
        return self.undelivered.requeue_lost("outbox", found, {OWN: read}, age=AGE, event_types=TYPES)


@pytest.fixture
def search(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Search:
    return Search(clock, monkeypatch)


def test_a_search_begins_only_for_messages_that_have_a_handler(search: Search) -> None:
    search.found = False
    assert [search.check(), search.check()] == [0, 0]
    assert search.asked == [("outbox", AGE, TYPES, "default")] * 2
    assert search.requeued == []


@pytest.mark.parametrize(("position", "horizon", "wait"), [(IN_LOG, "700", 30.0), (None, None, MISSING_SECONDS)])
def test_what_was_committed_when_the_search_began_and_has_a_handler_is_requeued(
    search: Search, clock: Clock, position: LogPosition | None, horizon: str | None, wait: float
) -> None:
    search.position = position
    assert search.check() == 0
    clock.now += wait
    assert search.check() == 2
    (asked,) = search.requeued
    assert (asked["topic"], asked["event_types"], asked["horizon"]) == ("outbox", TYPES, horizon)
    assert (asked["age"], asked["using"]) == (timedelta(seconds=wait), "default")


def test_what_this_member_has_read_counts_before_it_is_committed(search: Search) -> None:
    assert [search.check(read=4), search.check(read=4)] == [0, 0]
    assert search.check(read=5) == 2


@pytest.mark.parametrize("committed", [None, 0])
def test_the_only_record_of_a_partition_that_another_member_has_not_read_is_waited_for(
    search: Search, committed: int | None
) -> None:
    progress = {OWN: Progress(0, 5, 5), OTHER: Progress(0, 1, committed)}
    assert [search.check(progress), search.check(progress)] == [0, 0]
    assert search.requeued == []
    assert search.check({**progress, OTHER: Progress(0, 1, 1)}) == 2


def test_a_slot_that_disappears_during_a_search_is_missing_from_then_on(search: Search, clock: Clock) -> None:
    assert search.check() == 0
    clock.now += 30
    search.position = IN_LOG._replace(sent=None)
    assert search.check() == 0
    clock.now += MISSING_SECONDS - 1
    assert search.check() == 0
    clock.now += 1
    assert search.check() == 2
