"""What of a transaction that was rolled back is handled again together, and what fails or is handled alone."""

from __future__ import annotations

import pytest

from django_outbox.consumer.calls import Attempt
from django_outbox.consumer.redo import Redo
from django_outbox.consumer.source import Claim, Outcome
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.worker.transactions import MAX_ATTEMPTS


def event(name: str, key: str = "", topic: str = "orders") -> Event:
    return Event(type=name, key=key, topic=topic)


def events(names: str) -> list[Event]:
    return [event(name) for name in names]


def attempt(redo: Redo[Event], *running: Event) -> Attempt:
    """Deliveries that are their own events, of which some raised."""
    return Attempt([Claim(Outcome.CONSUMED, event=each) for each in redo.together], running)


def types(redo: Redo[Event]) -> str:
    return "".join(each.type for each in redo.together)


# Deliveries that an error names


def test_those_that_are_named_fail_and_the_others_are_handled_again() -> None:
    a, _, c, _ = items = events("abcd")
    redo = Redo(items)
    assert redo.name(Reject("first", events=[a]), attempt(redo))
    assert types(redo) == "bcd"
    assert redo.name(Retry(reason="then", events=[c]), attempt(redo))
    assert types(redo) == "bd"

    failed: list[tuple[Event, Event | None, str]] = []

    def fail(item: Event, claim: Claim, error: Exception) -> Outcome:
        failed.append((item, claim.event, str(error)))
        return Outcome.FAILED

    assert redo.outcomes(attempt(redo).claims, fail) == ["failed", "consumed", "failed", "consumed"]
    assert failed == [(a, a, "first"), (c, c, "then")]


def test_what_is_behind_a_named_one_in_its_key_is_left_with_all_after_it() -> None:
    named = event("a", "k")
    redo = Redo([named, event("b"), event("c", "l"), event("d", "k", "elsewhere"), event("e", "k"), event("f")])
    assert redo.name(Reject(events=[named]), attempt(redo))
    assert types(redo) == "bcd"


@pytest.mark.parametrize("error", [ArithmeticError("no"), Reject("all of them")])
def test_an_error_that_names_none_divides_nothing(error: Exception) -> None:
    redo = Redo(events("abc"))
    assert not redo.name(error, attempt(redo))
    assert types(redo) == "abc"


def test_after_too_many_errors_each_is_handled_alone() -> None:
    items = events("abcdefgh")
    redo = Redo(items)
    found = [redo.name(Reject(events=[each]), attempt(redo)) for each in items[:MAX_ATTEMPTS]]
    assert found == [True] * (MAX_ATTEMPTS - 1) + [False]
    assert not redo.cut(attempt(redo, items[-1]))


# Other errors


@pytest.mark.parametrize(("raised", "alone"), [("c", 1), ("cd", 2), ("ce", 3)])
def test_what_is_before_the_one_that_raised_is_handled_again_and_that_one_alone(raised: str, alone: int) -> None:
    items = events("abcdef")
    redo = Redo(items)
    assert redo.cut(attempt(redo, *[each for each in items if each.type in raised]))
    assert types(redo) == "ab"
    assert [redo.alone(handled) for handled in (2, 3, 6)] == [alone, alone - 1, 0]


@pytest.mark.parametrize(("raised", "alone"), [("a", 1), ("b", 2), ("", 4)])
def test_there_is_nothing_to_handle_together_before_the_second(raised: str, alone: int) -> None:
    items = events("abcd")
    redo = Redo(items)
    assert not redo.cut(attempt(redo, *[each for each in items if each.type in raised]))
    assert redo.alone(0) == alone
