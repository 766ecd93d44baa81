"""A lane, and what the lanes of a consumer do with a batch."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.lanes import Lane, text_of
from django_outbox.consumer.line import Queued
from django_outbox.consumer.source import Kind, Outcome
from django_outbox.exceptions import MessagesLeft
from tests.support.clock import Clock
from tests.support.hand import Hand, batches, own
from tests.support.inbox import received
from tests.support.threads import soon

OWN = TopicPartition("outbox", 0)


@pytest.fixture
def hand(clock: Clock) -> Hand:
    return Hand(clock)


# Batches


def test_a_lane_takes_as_many_as_fit_into_a_transaction_times_the_largest_batch(clock: Clock) -> None:
    hand = Hand(clock, registry=batches(wait=0.0))
    hand.engine.transaction_size = 1.5
    hand.add(*[received(offset=offset) for offset in range(7)])
    hand.work()
    assert hand.batches == [[0, 1, 2, 3, 4], [5, 6]]


def test_what_a_transaction_leaves_may_go_to_another_lane(hand: Hand) -> None:
    hand.partial = 1
    hand.add(*[received(offset=offset) for offset in range(3)])
    assert hand.work() == [0, 1, 2]
    assert hand.lanes.first_unfinished(TopicPartition("elsewhere", 0)) is None


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_request_to_stop_ends_a_batch_and_the_rest_is_handled_later(hand: Hand, one_by_one: bool) -> None:
    hand.partial, hand.engine.is_one_by_one = 1, one_by_one
    hand.add(*[received(offset=offset) for offset in range(3)])
    hand.on_handle = lambda names: setattr(hand, "interrupted", True)
    assert hand.work() == [0]
    hand.on_handle, hand.interrupted = lambda names: None, False
    assert hand.work() == [1, 2]


def test_nothing_new_is_begun_after_the_deadline(hand: Hand) -> None:
    hand.engine.transaction_size = 1.0
    hand.add(*[received(offset=offset) for offset in range(3)])
    hand.on_handle = lambda names: setattr(hand.clock, "now", hand.clock.now + 0.5)
    assert hand.work() == [0, 1]


class Passing(Clock):
    """Time passes whenever somebody looks."""

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@pytest.mark.parametrize("one_by_one", [False, True])
def test_one_lane_handles_each_delivery_once_and_returns_when_none_is_left(one_by_one: bool) -> None:
    hand = Hand(Passing())
    hand.partial, hand.engine.is_one_by_one = 1, one_by_one
    hand.on_handle = lambda names: setattr(hand, "interrupted", len(hand.batches) > 9)
    hand.add(*[received(offset=offset) for offset in range(3)])
    assert soon(hand.work) == [0, 1, 2]


@pytest.mark.parametrize("partial", [1, None])
def test_behind_a_record_that_waits_those_of_its_key_wait_too(hand: Hand, partial: int | None) -> None:
    hand.partial, hand.engine.is_one_by_one = partial, True
    hand.outcome = {1: Outcome.WAITING}
    if partial is None:
        hand.outcome[2] = Outcome.WAITING
    hand.add(*[received(key=key, offset=offset) for offset, key in enumerate("akkl")])
    handled = hand.work()
    assert [offset for offset in handled if offset not in hand.outcome] == [0, 3]
    assert len(hand.lanes) - hand.lanes.active == 2
    hand.outcome.clear()
    hand.clock.now += 10
    assert hand.work() == [1, 2]


# What is told


def test_what_is_handled_is_shown_with_its_key(hand: Hand) -> None:
    busy: list[Any] = []
    hand.on_handle = lambda names: busy.append(hand.worker_state.busy)
    hand.add(received(key="k"), received(key="k"))
    hand.work()
    assert [(each.messages, each.key) for each in busy] == [(2, "elsewhere: k")]


def test_each_batch_of_a_single_lane_is_progress(hand: Hand) -> None:
    progress: list[int] = []
    hand.worker_state.on_progress(lambda: progress.append(1))
    hand.engine.transaction_size = 1.0
    hand.add(received(), received())
    hand.work()
    assert len(progress) == 2


@pytest.mark.parametrize(
    ("key", "text"),
    [(("orders", b"k"), "orders: k"), (("orders", b"\xff"), "orders: \N{REPLACEMENT CHARACTER}"), (7, "")],
)
def test_a_key_is_shown_as_text(key: Any, text: str) -> None:
    assert text_of(key) == text


# Waiting


def test_a_message_whose_awaited_one_is_still_published_waits_on(hand: Hand) -> None:
    hand.lanes.work(lambda: False, 0.0)
    hand.outcome = {7: Outcome.WAITING, 8: Outcome.WAITING}
    hand.add(own(7, key="k"), own(8, key="l"))
    assert hand.waits.may_wait(7, OWN, timedelta(0), awaited=3)
    assert hand.waits.may_wait(8, OWN, timedelta(0), awaited=4)
    hand.work()
    hand.clock.now += 1
    hand.still = {7: hand.clock.now + 5}
    hand.outcome.clear()
    assert hand.work() == [8]
    assert sorted(hand.looked_for) == [7, 8]
    hand.clock.now += 5
    hand.still = {}
    assert hand.work() == [7]


def test_a_message_that_waits_for_no_other_is_claimed_again(hand: Hand) -> None:
    hand.lanes.work(lambda: False, 0.0)
    hand.outcome = {7: Outcome.WAITING}
    hand.add(own(7, key="k"))
    assert hand.waits.may_wait(7, OWN, timedelta(0), awaited=None)
    hand.work()
    hand.clock.now += 1
    hand.outcome.clear()
    assert hand.work() == [7]
    assert hand.looked_for == []


def test_a_drain_ends_when_records_have_waited_too_long_for_a_schema_registry(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.consumer.lanes.registry_trouble", lambda: "It is away.")
    hand.add(own(7))
    hand.lanes.require_patience(5.0)
    hand.clock.now += 100
    hand.lanes.require_patience(5.0)  # nothing waits for a registry

    hand.outcome = {3: Outcome.WAITING}
    for _ in range(2):  # its time begins anew after all was handled
        hand.add(received(offset=3))
        hand.work()
        for _ in range(5):
            hand.lanes.require_patience(5.0)
            hand.clock.now += 1
        with pytest.raises(MessagesLeft, match=r"Messages are left that wait for a schema registry\. It is away\."):
            hand.lanes.require_patience(5.0)
        hand.lanes.clear()
        hand.lanes.require_patience(5.0)


def test_a_drain_goes_on_after_a_schema_registry_has_come_back(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long what is in hand takes."""
    troubles = ["It is away again.", "", "It is away."]
    monkeypatch.setattr("django_outbox.consumer.lanes.registry_trouble", troubles.pop)
    hand.outcome = {3: Outcome.WAITING}
    hand.add(received(offset=3))
    hand.work()
    for _ in range(3):
        hand.lanes.require_patience(5.0)
        hand.clock.now += 6.0


@pytest.mark.parametrize(("lanes", "resets"), [(1, 1), (2, 0)])
def test_a_new_start_forgets_what_a_single_lane_was_looking_for(clock: Clock, lanes: int, resets: int) -> None:
    """Lanes with threads may be in a transaction."""
    hand = Hand(clock, lanes=lanes)
    hand.lanes.clear()
    assert hand.resets == resets


# One lane


class Sources:
    """In place of engine, outbox and inbox: keeps what is asked of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.outcomes: list[Outcome] = [Outcome.CONSUMED]
        self.due: Outcome | None = Outcome.CONSUMED
        outbox: Any = SimpleNamespace(
            count_deliveries=self._note("count"),
            uncount_deliveries=self._note("uncount"),
            survived=SimpleNamespace(discard=self._note("discard")),
        )
        engine: Any = SimpleNamespace(
            handle=self._note("handle", lambda: self.outcomes), fitting=lambda source, items: items[:2]
        )
        inbox: Any = SimpleNamespace(
            handle_due=self._note("due", lambda: self.due),
            receive_counted=self._note("counted", lambda: Outcome.DEAD),
            receive=self._note("receive", lambda: self.outcomes),
        )
        self.outbox = outbox
        prepared: Any = None
        self.lane = Lane(1, engine, outbox, inbox, prepared)

    def _note(self, name: str, result: Any = lambda: None) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return result()

        return call

    def handle(self, kind: Kind, *items: Any, guarded: bool = False) -> list[Outcome]:
        return self.lane.handle([Queued(item, None, kind, OWN, guarded=guarded) for item in items], is_stopping)


def is_stopping() -> bool:
    return False


@pytest.fixture
def sources() -> Sources:
    return Sources()


def test_records_of_the_outbox_are_handled_together(sources: Sources) -> None:
    assert sources.handle(Kind.OWN, "a", "b") == ["consumed"]
    assert sources.calls == [("handle", sources.outbox, ["a", "b"], is_stopping)]


def test_guarded_records_of_the_outbox_are_counted_first_and_uncounted_if_they_did_not_run(sources: Sources) -> None:
    first, second, third = (SimpleNamespace(place=name) for name in "abc")
    assert sources.handle(Kind.OWN, first, second, third, guarded=True) == ["consumed"]
    assert sources.calls == [
        ("count", [first, second]),
        ("handle", sources.outbox, [first, second], is_stopping),
        ("discard", "a"),
        ("uncount", [second]),
    ]


def test_records_of_others_are_handled_together_and_guarded_ones_by_themselves(sources: Sources) -> None:
    assert sources.handle(Kind.FOREIGN, "a", "b") == ["consumed"]
    assert sources.handle(Kind.FOREIGN, "a", "b", guarded=True) == ["dead"]
    assert sources.calls == [("receive", ["a", "b"], is_stopping), ("counted", "a")]


@pytest.mark.parametrize(("due", "outcome"), [(Outcome.FAILED, "failed"), (None, "skipped")])
def test_a_stored_message_that_is_not_due_any_more_is_skipped(
    sources: Sources, due: Outcome | None, outcome: str
) -> None:
    sources.due = due
    assert sources.handle(Kind.DUE, 7) == [outcome]
    assert sources.calls == [("due", 7)]
