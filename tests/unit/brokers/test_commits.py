"""Commits of a member that goes on reading: one at a time, repeated until there is an answer."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.calls import COMMIT_SECONDS
from django_outbox.brokers.commits import Commits, Offsets
from tests.support.clock import Clock

ONE, OTHER = (TopicPartition("topic", number) for number in range(2))
CLOCK = Clock(1000.0)


class Late(Exception):
    """An answer that was not there in time."""


class Group:
    """What was asked, and the answers to come."""

    def __init__(self) -> None:
        self.asked: list[Offsets] = []
        self.answers: list[Future[None]] = []
        self.answers_at_once = False
        self.commits = Commits(self._begin, lambda error: isinstance(error, Late))

    def _begin(self, offsets: Offsets) -> Future[None]:
        self.asked.append(offsets)
        self.answers.append(Future())
        if self.answers_at_once:
            self.answers[-1].set_result(None)
        return self.answers[-1]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(time, "monotonic", CLOCK)
    return Group()


def test_an_answer_that_is_there_at_once_ends_a_commit(group: Group) -> None:
    group.answers_at_once = True
    assert group.commits.commit({ONE: 1})
    assert group.commits.commit({ONE: 2})
    assert group.asked == [{ONE: 1}, {ONE: 2}]


def test_nothing_is_committed_while_an_answer_is_missing(group: Group) -> None:
    assert not group.commits.commit({ONE: 1})
    assert not group.commits.commit({ONE: 2})
    assert group.asked == [{ONE: 1}]


def test_an_answer_ends_the_commit_of_its_own_offsets_only(group: Group) -> None:
    group.commits.commit({ONE: 1, OTHER: 5})
    group.answers[0].set_result(None)
    assert not group.commits.commit({ONE: 2, OTHER: 5})
    assert group.asked[1:] == [{ONE: 2}]
    group.answers[1].set_result(None)
    assert group.commits.commit({ONE: 2})
    assert len(group.asked) == 2


def test_a_late_commit_is_repeated_with_the_offsets_of_that_time(group: Group) -> None:
    group.commits.commit({ONE: 1})
    group.answers[0].set_exception(Late())
    assert not group.commits.commit({ONE: 1})  # now its answer is known
    assert not group.commits.commit({ONE: 2})
    assert group.asked == [{ONE: 1}, {ONE: 2}]


def test_any_other_answer_is_raised_once(group: Group) -> None:
    group.commits.commit({ONE: 1})
    group.answers[0].set_exception(ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        group.commits.commit({ONE: 1})
    assert not group.commits.commit({ONE: 1})
    assert len(group.asked) == 2


def test_attempts_are_late_for_so_long_at_most(group: Group) -> None:
    group.commits.commit({ONE: 1})
    for _ in range(2):
        CLOCK.now += COMMIT_SECONDS / 2
        group.answers[-1].set_exception(Late())
        assert not group.commits.commit({ONE: 1})
        assert not group.commits.commit({ONE: 1})
    group.answers[-1].set_exception(Late())
    with pytest.raises(Late):
        group.commits.commit({ONE: 1})


def test_a_late_answer_that_is_seen_only_after_a_long_handler_is_the_first(group: Group) -> None:
    group.commits.commit({ONE: 1})
    group.answers[0].set_exception(Late())
    CLOCK.now += 10 * COMMIT_SECONDS
    assert not group.commits.commit({ONE: 1})
    assert not group.commits.commit({ONE: 1})
    assert len(group.asked) == 2


def test_an_answer_is_not_waited_for_for_ever(group: Group) -> None:
    group.commits.commit({ONE: 1})
    CLOCK.now += COMMIT_SECONDS - 0.1
    assert not group.commits.commit({ONE: 1})
    CLOCK.now += 0.1
    with pytest.raises(TimeoutError):
        group.commits.commit({ONE: 1})


def test_a_commit_that_succeeds_begins_a_new_time(group: Group) -> None:
    group.commits.commit({ONE: 1})
    CLOCK.now += COMMIT_SECONDS / 2
    group.answers[0].set_result(None)
    assert not group.commits.commit({ONE: 2})
    CLOCK.now += COMMIT_SECONDS / 2
    assert not group.commits.commit({ONE: 2})


def test_the_commit_of_partitions_that_were_lost_is_not_waited_for(group: Group) -> None:
    group.commits.commit({ONE: 1})
    CLOCK.now += 10 * COMMIT_SECONDS
    assert not group.commits.commit({OTHER: 5})
    group.answers[0].set_exception(ValueError("lost"))
    group.answers[1].set_result(None)
    assert group.commits.commit({OTHER: 5})


def test_offsets_that_were_committed_once_are_committed_again(group: Group) -> None:
    """As for a topic that was deleted and created again: Kafka has forgotten them."""
    group.answers_at_once = True
    assert group.commits.commit({ONE: 3})
    assert group.commits.commit({ONE: 3})
    assert group.asked == [{ONE: 3}, {ONE: 3}]
