"""Where claims begin: behind messages whose partitions wait, and at the first due message again after some time."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.relay import claims as module
from django_outbox.relay.claims import LOOK_BACK_SECONDS, STALLED_SECONDS, Claims, PostgresqlClaims, claims_of
from django_outbox.state.dialects.base import Dialect
from django_outbox.state.dialects.postgresql import START, PostgreSQL
from tests.support.clock import Clock
from tests.support.overrides import outbox_settings


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


# On PostgreSQL


class PostgresqlDue(Due):
    """Notes the statements, too."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []
        self.pending: list[Any] = []

    def plan_for_full_batch(self) -> None:
        self.statements.append("plan")

    def claim(self, limit: int, excluded_topics: Sequence[str], place: Any = None) -> list[Any]:
        self.statements.append("claim")
        return super().claim(limit, excluded_topics, place)

    def claim_with_pending(self, limit: int, excluded_topics: Sequence[str], place: Any) -> tuple[list[Any], list[Any]]:
        self.statements.append("claim with pending")
        return super().claim(limit, excluded_topics, place), self.pending

    def place_of(self, id: int) -> int:
        return id * 10

    def place_after(self, id: int) -> int:
        return id * 10 + 1

    def is_due(self, excluded_topics: Sequence[str]) -> bool:
        return bool(self.ids)


class PostgresqlPassing:
    """Claims of batches of two, on PostgreSQL."""

    def __init__(self, clock: Clock) -> None:
        self.due = PostgresqlDue()
        dialect: Any = self.due
        self.claims = PostgresqlClaims(dialect, clock)

    def claim(self, *ids: int) -> list[Any]:
        """Claim these, and return where each of the statements began."""
        self.due.ids = [*ids]
        self.due.begun.clear()
        self.due.statements.clear()
        assert [message.id for message in self.claims.claim(2, []).messages] == [*ids]
        return [*self.due.begun]

    def claim_more(self, *ids: int) -> list[Any]:
        self.due.ids = [*ids]
        self.due.begun.clear()
        assert [message.id for message in self.claims.claim_more(2, [])] == ([*ids] if self.due.begun else [])
        return [*self.due.begun]


@pytest.fixture
def postgresql(clock: Clock) -> PostgresqlPassing:
    return PostgresqlPassing(clock)


def test_claims_begin_where_the_last_full_one_did_for_a_second(postgresql: PostgresqlPassing, clock: Clock) -> None:
    assert postgresql.claim(1, 2) == [START]
    assert postgresql.claim(3, 4) == [10]
    clock.now += LOOK_BACK_SECONDS - 0.25
    assert postgresql.claim(5, 6) == [10]
    clock.now += 0.25
    assert postgresql.claim(7, 8) == [START]
    assert postgresql.claim(9, 10) == [70]


def test_a_claim_that_is_not_full_looks_from_the_beginning_at_once(postgresql: PostgresqlPassing) -> None:
    postgresql.claim(1, 2)
    assert postgresql.claim(3) == [10, START]
    assert not postgresql.claims.expects_full
    assert postgresql.claim(4) == [START]


def test_a_full_batch_is_planned_for_where_one_is_expected_or_found(postgresql: PostgresqlPassing) -> None:
    postgresql.claim(1, 2)
    assert postgresql.due.statements == ["plan", "claim"]
    postgresql.claim()
    assert postgresql.due.statements == ["plan", "claim", "claim"]
    postgresql.claim(3)
    assert postgresql.due.statements == ["claim with pending"]
    postgresql.claim(4, 5)
    assert postgresql.due.statements == ["claim with pending", "plan"]
    assert postgresql.claims.expects_full


def test_a_small_claim_reads_what_is_pending_before_it(postgresql: PostgresqlPassing) -> None:
    postgresql.due.pending = ["earlier"]
    postgresql.claim(1)
    postgresql.due.ids = [2]
    assert postgresql.claims.claim(2, []).pending_before == ["earlier"]
    assert postgresql.due.statements[-1] == "claim with pending"
    for changes in ({"ON_DEAD": "hold"}, {"ORDERING": "none"}):
        with outbox_settings(**changes):
            assert postgresql.claims.claim(2, []).pending_before is None


def test_a_claim_goes_on_behind_its_last_message(postgresql: PostgresqlPassing) -> None:
    postgresql.claim(1, 2)
    assert postgresql.claim_more(3, 4) == [21]
    assert postgresql.claim_more() == [41]
    assert postgresql.claim_more(5, 6) == [41]


@pytest.mark.parametrize(("more", "begin"), [([3], START), ([3, 4], 41)])
def test_what_was_claimed_last_tells_whether_the_last_message_was_reached(
    postgresql: PostgresqlPassing, clock: Clock, more: list[int], begin: Any
) -> None:
    postgresql.claim(1, 2)
    assert postgresql.claim_more(*more) == [21]
    assert postgresql.claims.pass_over(more[-1])
    clock.now += LOOK_BACK_SECONDS
    assert postgresql.claim(5, 6) == [begin]


def test_only_a_full_claim_from_the_beginning_goes_on(postgresql: PostgresqlPassing) -> None:
    postgresql.claim(1, 2)
    postgresql.claim(3)
    assert postgresql.claim_more(4) == []
    postgresql.claims.expects_full = True
    postgresql.claims.is_skipping = True
    assert postgresql.claim_more(4) == []
    postgresql.claims.is_skipping = False
    assert postgresql.claims.pass_over(3)
    assert postgresql.claim_more(4) == []


def test_claims_behind_messages_that_wait_are_planned_as_full_batches(postgresql: PostgresqlPassing) -> None:
    postgresql.claim(1, 2)
    assert postgresql.claims.pass_over(2)
    assert postgresql.claim(3) == [21]
    assert postgresql.due.statements == ["plan", "claim"]
    assert not postgresql.claims.skip_blocked({9: 5})


def test_messages_behind_a_stalled_relay_are_skipped_if_they_are_most_of_a_batch(
    postgresql: PostgresqlPassing, clock: Clock
) -> None:
    postgresql.claim(1, 2)
    assert not postgresql.claims.skip_blocked({9: 3, 8: 1})
    clock.now += STALLED_SECONDS - 0.25
    assert not postgresql.claims.skip_blocked({9: 3})
    clock.now += 0.25
    assert not postgresql.claims.skip_blocked({9: 2, 7: 2})  # half of them
    assert postgresql.claims.skip_blocked({9: 3, 7: 2})
    assert postgresql.claims.is_skipping
    assert postgresql.claim(3) == [21]  # neither full nor again from the beginning
    clock.now += STALLED_SECONDS
    assert postgresql.claims.skip_blocked({7: 1})
    assert postgresql.claims.skip_blocked({9: 1})  # known for long, although it did not show meanwhile
    clock.now += LOOK_BACK_SECONDS
    assert postgresql.claim(4) == [START]
    assert not postgresql.claims.is_skipping


def test_when_the_blocking_messages_are_free_claims_begin_again(postgresql: PostgresqlPassing, clock: Clock) -> None:
    postgresql.claim(1, 2)
    postgresql.claims.skip_blocked({9: 3})
    clock.now += STALLED_SECONDS
    assert postgresql.claims.skip_blocked({9: 3})
    assert not postgresql.claims.skip_blocked({5: 1})
    assert postgresql.claim(3, 4) == [START]


def test_a_blocking_message_counts_from_when_it_blocks_again(postgresql: PostgresqlPassing, clock: Clock) -> None:
    postgresql.claim(1, 2)
    postgresql.claims.skip_blocked({9: 3})
    postgresql.claims.skip_blocked({8: 3})
    clock.now += STALLED_SECONDS
    assert not postgresql.claims.skip_blocked({9: 3})


@pytest.mark.parametrize("due", [False, True])
def test_a_relay_that_skips_goes_on_while_a_message_is_due(postgresql: PostgresqlPassing, due: bool) -> None:
    postgresql.claims.is_skipping = True
    postgresql.due.ids = [1] if due else []
    assert postgresql.claims.is_due([]) is due
    assert postgresql.claims.is_skipping is due
    postgresql.claims.is_skipping = False
    postgresql.claims.is_due([])
    assert not postgresql.claims.is_skipping


def test_other_databases_skip_nothing_and_claim_no_more(passing: Passing) -> None:
    passing.claim(1, 2)
    assert passing.claims.claim_more(2, []) == []
    assert not passing.claims.skip_blocked({9: 3})


@pytest.mark.parametrize(("kind", "expected"), [(Dialect, Claims), (PostgreSQL, PostgresqlClaims)])
def test_each_database_has_its_claims(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, kind: type[Dialect], expected: type[Claims]
) -> None:
    monkeypatch.setattr(module, "dialect_of", kind)
    assert type(claims_of("default", clock)) is expected
