"""The pauses of a group: when a paused message is due, which one is tried, and what is done while time passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_outbox.consumer.pauses import FIRST, LONGEST_TRANSACTION_SECONDS, REFRESH_SECONDS, Pauses
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.state import pauses as state
from django_outbox.state.pauses import AFTER_OTHERS, AHEAD, ActivePause
from tests.support.clock import Clock
from tests.support.overrides import outbox_settings

START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
PAUSE = 7 * MINUTE
"""Of the circuit breaker."""
CREATED, SENT = ("order.created", "outbox"), ("invoice.sent", "outbox")


class Stored:
    """The pauses in a database, whose clock goes as the consumer's does, and what the consumer wants of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pauses: list[ActivePause] = []
        self.is_being_tried = False
        self.tried: list[tuple[list[int], timedelta]] = []
        self.released: list[int] = []
        self.postponed: list[int] = []

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self._clock())

    def add(
        self, event_type: str = "", *, handler: str = "", since: timedelta = MINUTE, ends_in: timedelta | None = None
    ) -> ActivePause:
        until = None if ends_in is None else self.now + ends_in
        id = len(self.pauses) + 1
        self.pauses.append(ActivePause(id, "tests", event_type, handler, self.now - since, until, self.now))
        return self.pauses[-1]

    def active(self, rows: Any) -> list[ActivePause]:
        return [pause._replace(now=self.now) for pause in self.pauses]

    def try_one(self, pauses: Sequence[ActivePause], length: timedelta, *, using: str) -> list[ActivePause] | None:
        self.tried.append(([pause.id for pause in pauses], length))
        return None if self.is_being_tried else [pause._replace(until=self.now + length) for pause in pauses]

    def release(self, pause: ActivePause, now: datetime, *, using: str) -> int:
        self.released.append(pause.id)
        return 0

    def postpone(self, pause: ActivePause, now: datetime, *, using: str) -> int:
        self.postponed.append(pause.id)
        return 0


@pytest.fixture(autouse=True)
def breaker() -> Iterator[None]:
    with outbox_settings(CIRCUIT_BREAKER={"FAILURES": 3, "PAUSE": PAUSE.total_seconds()}):
        yield


@pytest.fixture
def stored(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Stored:
    stored = Stored(clock)
    for name in ("active", "try_one", "release", "postpone"):
        monkeypatch.setattr(state, name, getattr(stored, name))
    return stored


@pytest.fixture
def pauses(clock: Clock, stored: Stored) -> Pauses:
    return Pauses("default", GroupHandlers(Registry(), "tests"), clock)


def test_so_many_messages_wait_for_the_end_and_the_others_for_a_check_time(pauses: Pauses, stored: Stored) -> None:
    pause = stored.add("order.*", ends_in=HOUR)
    pauses.refresh()
    due = [pauses.due_at(*CREATED) for _ in range(FIRST + 2)]
    assert due == [pause.until] * FIRST + [pause.due_at(stored.now)] * 2
    assert pauses.due_at(*CREATED, has_failed=True) == stored.now + HOUR + AFTER_OTHERS
    assert pauses.due_at(*SENT) is None
    assert stored.tried == []


def test_a_message_is_tried_once_its_pause_has_ended_and_the_next_waits_for_the_new_end(
    pauses: Pauses, stored: Stored
) -> None:
    pause = stored.add("order.*", ends_in=-MINUTE)
    pauses.refresh()
    assert pauses.due_at(*SENT) is None
    assert stored.tried == []
    assert pauses.due_at(*CREATED) is None
    assert stored.tried == [([pause.id], PAUSE)]
    assert pauses.due_at(*CREATED) == stored.now + PAUSE
    assert len(stored.tried) == 1


def test_a_message_waits_for_a_check_time_while_another_is_tried(pauses: Pauses, stored: Stored) -> None:
    pause = stored.add("order.*", ends_in=timedelta(0))
    stored.is_being_tried = True
    pauses.refresh()
    assert pauses.due_at(*CREATED) == pause.due_at(stored.now)


def test_a_message_of_two_pauses_waits_for_the_one_that_goes_on_and_is_not_tried(
    pauses: Pauses, stored: Stored
) -> None:
    stored.add("order.*", ends_in=-MINUTE, since=3 * MINUTE)
    lasting = stored.add("order.created")
    pauses.refresh()
    assert pauses.due_at(*CREATED) == lasting.due_at(stored.now)
    assert stored.tried == []


def test_the_pause_of_the_circuit_breaker_is_found_by_its_handler(pauses: Pauses, stored: Stored) -> None:
    stored.add(handler="shop.bill")
    pause = stored.add(handler="shop.ship", ends_in=HOUR)
    stored.add(handler="shop.mail")
    pauses.refresh()
    names = ("shop.ship", "shop.bill", "shop.mail", "shop.pack")
    assert [pauses.by_breaker(name) for name in names] == [pause.id, None, None, None]


def test_what_waits_for_a_pause_that_has_ended_is_released_for_a_minute_and_once_after_each_reading(
    pauses: Pauses, stored: Stored, clock: Clock
) -> None:
    pause = stored.add("order.*")
    pauses.maintain()
    stored.pauses.clear()
    found: list[int] = []
    for seconds in (REFRESH_SECONDS, 0, LONGEST_TRANSACTION_SECONDS / 2, LONGEST_TRANSACTION_SECONDS / 2, 5):
        clock.now += seconds
        pauses.maintain()
        found.append(len(stored.released))
    assert found == [1, 1, 2, 3, 3]
    assert set(stored.released) == {pause.id}


def test_messages_are_moved_on_once_a_minute_before_a_check_time_unless_one_is_to_be_tried(
    pauses: Pauses, stored: Stored
) -> None:
    since = state.INTERVAL - AHEAD
    stored.add("order.*", since=since, ends_in=-MINUTE)
    stored.add("invoice.*", since=since - timedelta(seconds=1))
    pause = stored.add("mail.*", since=since)
    pauses.maintain()
    pauses.maintain()
    assert stored.postponed == [pause.id]
