"""The engine by itself: how many deliveries a transaction takes, and what is told about them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from django_outbox.consumer.engine import Engine
from django_outbox.consumer.source import Claim, Outcome, Source
from django_outbox.events.event import Event
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.observability import instrumentation
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, make_message

pytestmark = pytest.mark.django_db(transaction=True)

NUMBERS = range(10)


def nothing(event: Event) -> None:
    pass


class Numbered(Source[int]):
    """Deliveries that are numbers: of any cost, with a handler that gets the number as payload."""

    def __init__(self, handle: Callable[[Event], Any] = nothing) -> None:
        registry = Registry()
        registry.register("number", handle)
        self.handlers = GroupHandlers(registry, "tests").find("number", "outbox")
        self.costs: dict[int, float] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.settled: list[tuple[int, int]] = []
        self.failed: list[int] = []

    def cost(self, item: int) -> float:
        return self.costs.get(item, 1.0)

    def claim(self, items: Sequence[int], prepared: Sequence[Claim]) -> list[Claim]:
        return [self._claim(item) for item in items]

    def _claim(self, item: int) -> Claim:
        event = Event(type="number", payload=item, key="", headers={}, topic="outbox")
        outcome = self.outcomes.get(item, Outcome.CONSUMED)
        return Claim(outcome, None, event, self.handlers, reason="it was not its turn")

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        self.settled.append((len(done), len(left)))

    def fail(self, item: int, claim: Claim | None, error: Exception) -> Outcome:
        self.failed.append(item)
        return Outcome.FAILED

    def requeue(self, item: int, fault: Exception) -> Outcome:
        raise NotImplementedError

    def describe(self, item: int) -> tuple[str, dict[str, object]]:
        return f"number {item}", {}


def taking(clock: Clock, seconds: float) -> Callable[[Event], None]:
    """A handler that takes its time."""

    def handle(event: Event) -> None:
        clock.now += seconds

    return handle


class Told:
    """In place of a circuit breaker."""

    def __init__(self) -> None:
        self.succeeded_calls: list[Any] = []
        self.failed_calls: list[Any] = []

    def succeeded(self, handlers: Any) -> None:
        self.succeeded_calls.append(handlers)

    def failed(self, handlers: Any, error: Exception) -> None:
        self.failed_calls.append((handlers, str(error)))


def make_engine(clock: Clock, *, size: float | None = None, **options: Any) -> Engine:
    engine = Engine("default", "tests", clock, **options)
    if size is not None:
        engine.transaction_size = size
    return engine


def handle(engine: Engine, source: Numbered, items: Sequence[int] = NUMBERS) -> list[Outcome]:
    return engine.handle(source, items, lambda: False)


# How many fit


@pytest.mark.parametrize(
    ("size", "costs", "fitting"),
    [
        (3, [1, 1, 1, 1], 3),
        (2, [0, 1, 0, 1, 0, 1], 5),  # what costs nothing is taken along
        (1, [0.1] * 12, 10),  # in spite of fractions
        (2, [1, 2], 2),  # at least half of it fits
        (2, [1, 3], 1),
    ],
)
def test_a_transaction_takes_what_fits(clock: Clock, size: float, costs: list[float], fitting: int) -> None:
    source = Numbered()
    source.costs = dict(enumerate(costs))
    assert make_engine(clock, size=size).fitting(source, range(len(costs))) == costs[:fitting]


def test_after_a_failure_a_transaction_takes_one_and_what_costs_nothing(clock: Clock) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError("no")

    source = Numbered(fails)
    source.costs = {1: 0.0}
    engine = make_engine(clock, size=100)
    assert engine.handle_alone(source, 0) == Outcome.FAILED
    assert engine.is_one_by_one
    assert engine.fitting(source, NUMBERS) == [1.0, 0.0]
    engine.reset()
    assert len(engine.fitting(source, NUMBERS)) == 10


def test_what_nobody_handles_needs_no_transaction(clock: Clock, django_assert_num_queries: Any) -> None:
    source = Numbered()
    source.costs = dict.fromkeys(NUMBERS, 0.0)
    with django_assert_num_queries(0):
        assert handle(make_engine(clock), source) == [Outcome.SKIPPED] * 10
        assert make_engine(clock).handle_alone(source, 0) == Outcome.SKIPPED


def test_what_nobody_handles_keeps_its_place_among_the_others(clock: Clock) -> None:
    source = Numbered()
    source.costs = {0: 0.0, 2: 0.0}
    expected = [Outcome.SKIPPED, Outcome.CONSUMED, Outcome.SKIPPED, Outcome.CONSUMED]
    assert handle(make_engine(clock, size=2), source, range(5)) == expected


# How many are tried next


@pytest.mark.parametrize(("is_lane", "sizes"), [(False, [2, 4, 8, 10]), (True, [1, 2, 4, 8])])
def test_transactions_grow_while_they_are_fast(clock: Clock, is_lane: bool, sizes: list[int]) -> None:
    engine = make_engine(clock, is_lane=is_lane)
    source = Numbered()
    assert [len(handle(engine, source)) for _ in sizes] == sizes


@pytest.mark.parametrize(
    ("is_lane", "seconds", "handled", "next_size"),
    [(False, 0.25, 4, 4), (True, 0.25, 2, 2), (False, 2.0, 1, 2), (True, 2.0, 1, 1), (False, 0.09, 10, 100)],
)
def test_transactions_take_about_a_second_and_those_of_lanes_half_of_it(
    clock: Clock, is_lane: bool, seconds: float, handled: int, next_size: float
) -> None:
    engine = make_engine(clock, is_lane=is_lane, size=100)
    source = Numbered(taking(clock, seconds))
    assert handle(engine, source) == [Outcome.CONSUMED] * handled
    assert source.settled == [(handled, 10 - handled)]
    assert engine.transaction_size == next_size


@pytest.mark.parametrize(("seconds", "next_size"), [(0.1, 2), (0.5, 1)])
def test_a_lane_takes_two_again_when_one_was_fast(clock: Clock, seconds: float, next_size: float) -> None:
    engine = make_engine(clock, is_lane=True)
    handle(engine, Numbered(taking(clock, seconds)))
    assert engine.transaction_size == next_size


def test_a_request_to_stop_ends_a_transaction_after_the_message_in_hand(clock: Clock) -> None:
    source = Numbered()
    assert make_engine(clock, size=100).handle(source, NUMBERS, lambda: True) == [Outcome.CONSUMED]
    assert source.settled == [(1, 9)]


def test_a_failure_halves_the_next_transaction(clock: Clock) -> None:
    def fails_at_last(event: Event) -> None:
        if event.payload == 9:
            raise ArithmeticError("no")

    engine = make_engine(clock, size=100)
    source = Numbered(fails_at_last)
    assert handle(engine, source) == [Outcome.CONSUMED] * 9
    assert engine.transaction_size == 18  # half of ten, then twice the nine
    assert engine.is_one_by_one
    assert handle(engine, source, [9]) == [Outcome.FAILED]
    assert source.failed == [9]


# What is told


def test_the_breaker_hears_of_each_handler_once(clock: Clock) -> None:
    told: Any = Told()
    source = Numbered()
    source.outcomes = {3: Outcome.SKIPPED}
    handle(make_engine(clock, size=100, breaker=told), source)
    assert (told.succeeded_calls, told.failed_calls) == ([source.handlers], [])


def test_the_breaker_hears_of_failures(clock: Clock) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError("no")

    told: Any = Told()
    source = Numbered(fails)
    make_engine(clock, breaker=told).handle_alone(source, 0)
    assert (told.succeeded_calls, told.failed_calls) == ([], [(source.handlers, "no")])


def test_what_is_requeued_is_counted_with_its_reason(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    monkeypatch.setattr(instrumentation, "requeued", reasons.append)
    source = Numbered()
    source.outcomes = {1: Outcome.REQUEUED}
    handle(make_engine(clock, size=100), source, range(3))
    assert reasons == ["it was not its turn"]


def test_each_handled_message_is_logged_for_who_looks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    message = make_message()
    pipeline = Pipeline()
    pipeline.on("order.created")
    with caplog.at_level(logging.DEBUG, "django_outbox.consumer"):
        pipeline.turn()
    (record,) = (each for each in caplog.records if each.__dict__.get("action") == "consumed")
    assert record.getMessage() == f"Message {message.id} (order.created) is consumed."
    assert record.__dict__["message_id"] == message.id
