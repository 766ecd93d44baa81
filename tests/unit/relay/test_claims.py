"""Where claims begin: behind messages whose partitions wait, and at the first due message again after some time."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.relay.claims import LOOK_BACK_SECONDS, Claims
from tests.support.clock import Clock


class Due:
    """In place of a database: notes after which message each claim began, and returns ``ids``."""

    def __init__(self) -> None:
        self.begun: list[int | None] = []
        self.ids: list[int] = []

    def claim(self, limit: int, excluded_topics: Sequence[str], place: int | None = None) -> list[Any]:
        self.begun.append(place)
        return [SimpleNamespace(id=id) for id in self.ids]

    def place_after(self, id: int) -> int:
        return id


class Passing:
    """Claims of batches of two."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.due = Due()
        dialect: Any = self.due
        self.claims = Claims(dialect, clock)

    def claim(self, *ids: int) -> int | None:
        """Claim these, and return after which message that began."""
        self.due.ids = [*ids]
        assert [message.id for message in self.claims.claim(2, []).messages] == [*ids]
        return self.due.begun[-1]

    def behind(self, *ids: int) -> int | None:
        """Claim, and pass over them; returns after which message the claim began."""
        began = self.claim(*ids)
        assert self.claims.pass_over(ids[-1] if ids else None)
        return began


@pytest.fixture
def passing(clock: Clock) -> Passing:
    return Passing(clock)


def test_claims_begin_at_the_first_due_message_while_nothing_waits(passing: Passing) -> None:
    for _ in range(3):
        assert passing.claim(1, 2) is None
        assert not passing.claims.pass_over(None)


def test_claims_begin_behind_those_that_wait_and_then_behind_the_last_claim(passing: Passing) -> None:
    assert passing.behind(1, 2) is None
    assert passing.behind(3, 4) == 2
    assert passing.behind(5, 6) == 4
    assert passing.claim(7, 8) == 6
    assert passing.claims.pass_over(None)  # also when the last batch was sent
    assert passing.claim() == 8
    assert passing.claims.pass_over(None)
    assert passing.claim() == 8  # there was nothing


def test_when_other_partitions_wait_claims_begin_again(passing: Passing) -> None:
    passing.behind(1, 2)
    passing.claims.begin_again()
    assert passing.claim(1, 2) is None


@pytest.mark.parametrize(("walk", "pause"), [(0.0, LOOK_BACK_SECONDS), (5.0, 50.0)])
def test_after_the_last_message_claims_begin_again_some_time_later(
    passing: Passing, clock: Clock, walk: float, pause: float
) -> None:
    passing.behind(1, 2)
    clock.now += walk
    assert passing.behind(3) == 2  # no full batch, so it is the last one
    clock.now += pause - 0.25
    assert passing.behind(4) == 3  # neither later than that, as it is known where the end was
    clock.now += 0.25
    assert passing.claim(1, 2) is None


def test_claims_that_never_reach_the_last_message_begin_again_after_ten_minutes(passing: Passing, clock: Clock) -> None:
    passing.behind(1, 2)
    clock.now += 599
    assert passing.behind(3, 4) == 2
    clock.now += 1
    assert passing.claim(1, 2) is None


def test_the_end_is_searched_for_each_time(passing: Passing, clock: Clock) -> None:
    for _ in range(2):
        assert passing.behind(1, 2) is None
        clock.now += 100
        assert passing.behind(3, 4) == 2
        clock.now += 1
        assert passing.behind(5) == 4
        clock.now += 1009
        assert passing.claim(6) == 5
        clock.now += 1
