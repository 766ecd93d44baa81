"""Batches fill up before they are handled, and no longer than their handlers allow."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytest

from django_outbox.consumer.filling import Filling
from django_outbox.handlers.handler import NO_HANDLERS, Handler, Handlers


def kind(event_type: str, wait: float) -> Handlers:
    return Handlers([Handler(event_type, print, None, None, batch=3, wait=wait)])


@dataclass(eq=False)
class Record:
    name: str
    key: Hashable
    event: Hashable
    handlers: Handlers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def filling(clock: Clock) -> Filling[Record]:
    return Filling(clock, limit=10)


_no_key = itertools.count()


def record(name: str, key: Any, event_type: str, handlers: Handlers) -> Record:
    return Record(name, next(_no_key) if key is None else key, event_type, handlers)


def paid(name: str, key: Any = None) -> Record:
    return record(name, key, "paid", kind("paid", 5.0))


def noted(name: str, key: Any = None) -> Record:
    return record(name, key, "noted", kind("noted", 1.0))


def sent(name: str, key: Any = None) -> Record:
    return record(name, key, "sent", NO_HANDLERS)


def take(filling: Filling[Record], *records: Record) -> list[str]:
    return [each.name for each in filling.take(records)]


def test_what_does_not_wait_is_handled_at_once(filling: Filling[Record]) -> None:
    assert take(filling, sent("a"), paid("b"), sent("c")) == ["a", "c"]
    assert len(filling) == 1


def test_a_full_batch_is_handled(filling: Filling[Record]) -> None:
    assert take(filling, paid("a"), paid("b")) == []
    assert take(filling, paid("c"), paid("d")) == ["a", "b", "c"]
    assert len(filling) == 1


def test_a_batch_waits_from_its_first_record(filling: Filling[Record], clock: Clock) -> None:
    assert filling.seconds_left == float("inf")
    assert take(filling, paid("a")) == []
    clock.now = 4.0
    assert take(filling, paid("b")) == []
    assert filling.seconds_left == 1.0
    clock.now = 5.0
    assert take(filling) == ["a", "b"]
    assert filling.seconds_left == float("inf")


def test_another_kind_of_the_same_key_ends_the_wait(filling: Filling[Record]) -> None:
    assert take(filling, paid("a", "k"), paid("b", "l"), sent("other", "m")) == ["other"]
    assert take(filling, sent("c", "k")) == ["a", "b", "c"]


def test_of_two_kinds_that_wait_the_earlier_one_of_a_key_comes_first(filling: Filling[Record], clock: Clock) -> None:
    assert take(filling, paid("a", "k"), noted("b", "k")) == ["a"]
    clock.now = 1.0
    assert take(filling) == ["b"]


def test_there_is_a_limit_to_what_is_held(clock: Clock) -> None:
    filling: Filling[Record] = Filling(clock, limit=4)
    assert take(filling, paid("a"), paid("b"), noted("c"), noted("d")) == ["a", "b", "c", "d"]


def test_what_is_dropped_is_not_handled(filling: Filling[Record]) -> None:
    take(filling, paid("a"), paid("b"))
    filling.drop(lambda item: item.name == "a")
    assert take(filling, paid("c"), paid("d")) == ["b", "c", "d"]
    take(filling, paid("e"))
    filling.drop(lambda item: True)
    assert (len(filling), filling.seconds_left) == (0, float("inf"))


def test_batches_that_are_ready_at_once_come_in_the_order_of_what_ended_their_wait(filling: Filling[Record]) -> None:
    given = [paid("a", "k"), noted("b", "l"), sent("c", "k"), sent("d", "l"), paid("e"), paid("f"), paid("g")]
    assert take(filling, *given) == ["a", "c", "b", "d", "e", "f", "g"]
