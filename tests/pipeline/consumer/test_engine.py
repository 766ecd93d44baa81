"""The engine by itself: how many deliveries a transaction takes, and what is told about them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.db import OperationalError

from django_outbox.consumer import engine as engine_module
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.source import Claim, Outcome, Source
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject
from django_outbox.handlers.handler import Handlers
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.observability import instrumentation
from django_outbox.observability.tracing.base import NoTracing
from django_outbox.worker import database_errors
from django_outbox.worker.transactions import MAX_ATTEMPTS, OutageCounts
from tests.support.clock import Clock
from tests.support.database_errors import caused
from tests.support.outbox import Pipeline, make_message

pytestmark = pytest.mark.django_db(transaction=True)

NUMBERS = range(10)


def nothing(event: Event) -> None:
    pass


def handlers_of(function: Callable[[Event], Any]) -> Handlers:
    registry = Registry()
    registry.register("number", function)
    return GroupHandlers(registry, "tests").find("number", "outbox")


class Numbered(Source[int]):
    """Deliveries that are numbers: of any cost, with a handler that gets the number as payload."""

    def __init__(self, handle: Callable[[Event], Any] = nothing) -> None:
        self.handlers = handlers_of(handle)
        self.others: dict[int, Handlers] = {}
        self.costs: dict[int, float] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.settled: list[tuple[int, int]] = []
        self.claimed: list[list[int]] = []
        self.failed: list[int] = []
        self.failed_claims: list[Claim | None] = []
        self.requeued: list[tuple[int, str]] = []

    def cost(self, item: int) -> float:
        return self.costs.get(item, 1.0)

    def claim(self, items: Sequence[int], prepared: Sequence[Claim]) -> list[Claim]:
        self.claimed.append([*items])
        return [self._claim(item) for item in items]

    def _claim(self, item: int) -> Claim:
        event = Event(type="number", payload=item, key="", headers={}, topic="outbox")
        outcome = self.outcomes.get(item, Outcome.CONSUMED)
        return Claim(outcome, None, event, self.others.get(item, self.handlers), reason="it was not its turn")

    def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
        self.settled.append((len(done), len(left)))

    def fail(self, item: int, claim: Claim | None, error: Exception) -> Outcome:
        self.failed.append(item)
        self.failed_claims.append(claim)
        return Outcome.FAILED

    def requeue(self, item: int, fault: Exception) -> Outcome:
        self.requeued.append((item, str(fault)))
        return Outcome.REQUEUED

    def describe(self, item: int) -> tuple[str, dict[str, object]]:
        return f"number {item}", {"number": item}


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
    shared = {"outages": OutageCounts(), "breaker": Told(), "is_lane": False}
    engine = Engine("default", "tests", clock, **{**shared, **options})
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


def test_the_time_of_a_transaction_counts_by_the_cost_of_its_messages(clock: Clock) -> None:
    engine, source = make_engine(clock, size=2), Numbered()
    source.costs = dict.fromkeys(NUMBERS, 0.25)
    assert handle(engine, source) == [Outcome.CONSUMED] * 8
    assert engine.transaction_size == 4


def test_after_an_error_outside_of_handlers_each_has_a_transaction_of_its_own(clock: Clock) -> None:
    class Failing(Numbered):
        def settle(self, done: Sequence[Claim], left: Sequence[Claim]) -> None:
            super().settle(done, left)
            if len(done) > 1:
                raise ArithmeticError("no")

    engine, source = make_engine(clock, size=100), Failing()
    assert handle(engine, source) == [Outcome.CONSUMED]  # the first of ten
    assert source.claimed == [[*NUMBERS], [0]]
    assert engine.transaction_size == 5
    for number in range(1, 10):
        assert engine.is_one_by_one
        assert engine.fitting(source, NUMBERS) == [1.0]
        assert handle(engine, source, [number]) == [Outcome.CONSUMED]
    assert not engine.is_one_by_one
    assert source.settled == [(10, 0), *[(1, 0)] * 10]


def test_after_one_that_failed_the_next_has_a_transaction_of_its_own(clock: Clock) -> None:
    def fails_at_first(event: Event) -> None:
        if event.payload == 0:
            raise ArithmeticError("no")

    engine, source = make_engine(clock), Numbered(fails_at_first)
    assert engine.handle_alone(source, 0) == Outcome.FAILED
    assert engine.handle_alone(source, 1) == Outcome.CONSUMED
    assert not engine.is_one_by_one


def test_a_single_delivery_runs_once_before_it_fails(clock: Clock) -> None:
    calls: list[Any] = []

    def fails(event: Event) -> None:
        calls.append(event.payload)
        raise ArithmeticError("no")

    source = Numbered(fails)
    assert handle(make_engine(clock), source, [3]) == ["failed"]
    assert (calls, source.failed) == ([3], [3])


# Faults of the database


DEADLOCK, SERVER_GONE = (caused(OperationalError("not now"), Exception(code)) for code in (1213, 2006))  # of MySQL


def test_a_transaction_is_retried_after_a_transient_fault_and_the_log_says_so(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [DEADLOCK]

    def handler(event: Event) -> None:
        if faults:
            raise faults.pop()

    assert make_engine(clock).handle_alone(Numbered(handler), 3) == Outcome.CONSUMED
    (record,) = caplog.records
    assert record.getMessage() == "Retrying number 3: not now"
    assert (record.__dict__["action"], record.__dict__["number"]) == ("again", 3)


def test_a_delivery_that_meets_faults_without_end_has_another_turn_later(clock: Clock) -> None:
    calls: list[int] = []

    def handler(event: Event) -> None:
        calls.append(event.payload)
        raise DEADLOCK

    source = Numbered(handler)
    assert make_engine(clock).handle_alone(source, 3) == Outcome.REQUEUED
    assert (calls, source.requeued) == ([3] * MAX_ATTEMPTS, [(3, "not now")])


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection does not answer."""
    monkeypatch.setattr(database_errors, "is_connected", lambda using: False)


def goes_away(event: Event) -> None:
    raise SERVER_GONE


@pytest.mark.usefixtures("no_database")
def test_a_delivery_that_meets_outages_without_end_lets_others_go_first(clock: Clock) -> None:
    """Also if it meets each of them in another lane."""
    outages, source = OutageCounts(), Numbered(goes_away)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(OperationalError):
            make_engine(clock, outages=outages, is_lane=True).handle_alone(source, 3)
    with pytest.raises(OperationalError):
        make_engine(clock, outages=outages, is_lane=True).handle_alone(source, 4)
    assert source.requeued == []
    assert make_engine(clock, outages=outages, is_lane=True).handle_alone(source, 3) == Outcome.REQUEUED
    assert source.requeued == [(3, "not now")]


@pytest.mark.usefixtures("no_database")
def test_after_an_outage_the_deliveries_that_met_it_are_handled_one_by_one(clock: Clock) -> None:
    engine, source = make_engine(clock, size=4), Numbered(goes_away)
    with pytest.raises(OperationalError):
        handle(engine, source)
    assert (source.failed, source.settled) == ([], [])
    after = Numbered()
    for _ in range(4):
        assert engine.fitting(after, NUMBERS) == [1.0]
        handle(engine, after)
    assert not engine.is_one_by_one
    assert engine.transaction_size == 4


def test_deliveries_are_not_suspected_of_an_outage_that_was_there_before(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_session(using: str) -> object:
        raise SERVER_GONE

    monkeypatch.setattr(engine_module, "session_of", no_session)
    engine = make_engine(clock, size=4)
    with pytest.raises(OperationalError):
        handle(engine, Numbered())
    assert not engine.is_one_by_one


# What is told


def test_the_breaker_hears_of_each_handler_once(clock: Clock) -> None:
    told: Any = Told()
    source = Numbered()
    source.outcomes = {3: Outcome.SKIPPED}
    source.others = {3: handlers_of(print), 5: handlers_of(repr)}
    handle(make_engine(clock, size=100, breaker=told), source)
    assert (told.succeeded_calls, told.failed_calls) == ([source.handlers, source.others[5]], [])


def test_the_breaker_hears_of_one_that_a_batch_handler_names(clock: Clock) -> None:
    def names_the_second(events: Sequence[Event]) -> None:
        if len(events) == 3:
            raise Reject("no", events=[events[1]])

    registry, told, source = Registry(), Told(), Numbered()
    registry.register("number", names_the_second, batch=3)
    source.handlers = GroupHandlers(registry, "tests").find("number", "outbox")
    assert handle(make_engine(clock, size=3, breaker=told), source, range(3)) == ["consumed", "failed", "consumed"]
    assert (source.failed, told.failed_calls) == ([1], [(source.handlers, "no")])


def test_traces_hear_whether_others_may_share_the_transaction(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    class Listening(NoTracing):
        def processing(self, group: str, *, using: str, together: bool) -> Any:
            heard.append((group, using, together))
            return super().processing(group, using=using, together=together)

    monkeypatch.setattr(engine_module, "current_tracing", Listening)
    handle(make_engine(clock), Numbered())
    make_engine(clock).handle_alone(Numbered(), 0)
    assert heard == [("tests", "default", True), ("tests", "default", False)]


def test_a_transaction_that_was_rolled_back_is_logged_for_who_looks_for_it(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError("no")

    with caplog.at_level(logging.DEBUG, "django_outbox.consumer"):
        handle(make_engine(clock), Numbered(fails))
    (record,) = (each for each in caplog.records if each.__dict__["action"] == "rolled_back")
    assert record.getMessage().startswith("Rolled back after ArithmeticError")


def test_metrics_hear_of_what_was_handled_after_the_commit(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(instrumentation, "consumed", lambda *args, **options: heard.append((*args, options)))
    handled, dead, skipped = (make_message() for _ in range(3))

    class WithRows(Numbered):
        def claim(self, items: Sequence[int], prepared: Sequence[Claim]) -> list[Claim]:
            claims = super().claim(items, prepared)
            for claim, message in zip(claims, [handled, dead, skipped, None], strict=True):
                claim.message = message  # type: ignore[assignment]
            return claims

    source = WithRows()
    source.outcomes = {1: Outcome.DEAD, 2: Outcome.SKIPPED}
    reports: list[Any] = []
    monkeypatch.setattr(engine_module, "report_dead", lambda log, *args, **options: reports.append((*args, options)))
    handle(make_engine(clock, size=4), source, range(4))
    assert heard == [([handled], {"group": "tests", "using": "default"})]
    assert reports == [(dead, "it was not its turn", {"using": "default"})]


def test_the_breaker_hears_of_failures(clock: Clock) -> None:
    def fails(event: Event) -> None:
        raise ArithmeticError("no")

    told: Any = Told()
    source = Numbered(fails)
    make_engine(clock, breaker=told).handle_alone(source, 0)
    assert (told.succeeded_calls, told.failed_calls) == ([], [(source.handlers, "no")])
    (claim,) = source.failed_claims
    assert claim is not None
    assert claim.handlers is source.handlers


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
