"""How the relay claims: more at a time while it is behind, and past messages that a stalled relay has locked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from django_outbox.brokers.base import Failed, Record, SendResult
from django_outbox.events.writer import Outgoing
from django_outbox.relay import relay as module
from django_outbox.relay.claims import Claimed, Claims
from django_outbox.relay.growth import BatchGrowth
from django_outbox.relay.relay import Pass, Relay
from django_outbox.state.dialects import dialect_of
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, make_message, memory_broker

pytestmark = pytest.mark.django_db

# Batches that grow


class GoingOn(Claims):
    """Claims that go on behind the last one, as PostgreSQL's do."""

    def _claim_first(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        claimed = super()._claim_first(limit, excluded_topics)
        self.last_id = claimed.messages[-1].id if claimed.messages else 0
        return claimed

    def claim_more(self, limit: int, excluded_topics: Sequence[str]) -> list[Outgoing]:
        messages = self._dialect.claim(limit, excluded_topics, self._dialect.place_after(self.last_id))
        self.last_id = messages[-1].id if messages else self.last_id
        return messages


class Looking(GoingOn):
    """They have looked for pending messages of the same keys as well."""

    def _claim_first(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        return super()._claim_first(limit, excluded_topics)._replace(pending_before=[])


@pytest.mark.parametrize(
    ("claims", "published"), [(GoingOn, [1, 2, 4, 3]), (Looking, [1, 1, 1, 1])], ids=["going on", "looking"]
)
def test_while_a_relay_is_behind_a_batch_takes_more_claims(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, claims: type[GoingOn], published: list[int]
) -> None:
    monkeypatch.setattr(module, "claims_of", lambda using, clock: claims(dialect_of(using), clock))
    for _ in range(10):
        make_message()
    relay = Relay(memory_broker(), using="default", batch_size=1, clock=clock)
    assert [relay.run_once().published for _ in range(4)] == published


def test_a_batch_ends_with_a_claim_that_is_not_full(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting(GoingOn):
        def claim_more(self, limit: int, excluded_topics: Sequence[str]) -> list[Outgoing]:
            messages = super().claim_more(limit, excluded_topics)
            asked.append(len(messages))
            return messages

    monkeypatch.setattr(module, "claims_of", lambda using, clock: Counting(dialect_of(using), clock))
    for _ in range(9):
        make_message()
    relay = Relay(memory_broker(), using="default", batch_size=2, clock=clock)
    assert [relay.run_once().published for _ in range(3)] == [2, 4, 3]
    assert asked == [2, 1]


def test_the_growth_of_batches_hears_how_long_each_locked_its_rows_and_whether_all_of_it_was_sent(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[float, bool]] = []

    class Hearing(BatchGrowth):
        def record(self, seconds: float, *, is_full: bool) -> None:
            heard.append((seconds, is_full))

    def answers(records: Sequence[Record], real: list[SendResult]) -> list[SendResult]:
        clock.now += 2.5
        if len(heard) == 1:
            raise ValueError("odd")
        return [Failed("not now"), *real[1:]] if len(heard) == 2 else real

    monkeypatch.setattr(module, "BatchGrowth", Hearing)
    for _ in range(6):
        make_message()
    relay = Relay(ScriptedBroker(answers), using="default", batch_size=2, clock=clock)
    relay.run_once()
    with pytest.raises(ValueError, match="odd"):
        relay.run_once()
    for _ in range(3):
        relay.run_once()
    assert heard == [(2.5, True), (0.0, False), (2.5, False), (2.5, True), (0.0, False)]


# Batches behind a relay that is stalled


@pytest.mark.parametrize(
    ("keys", "batch_size", "asked"),
    [
        ("kklo", 4, []),  # half of it
        ("kkl", 3, [{"k": 2}]),
        ("kkk-lo", 6, []),  # half of it
        ("kkkm-", 5, [{"k": 3, "m": 1}]),
        ("kkkm-", 6, []),  # not full
    ],
)
def test_a_full_batch_that_is_blocked_for_the_most_part_by_locked_messages_may_be_skipped(
    monkeypatch: pytest.MonkeyPatch, keys: str, batch_size: int, asked: list[dict[str, int]]
) -> None:
    locked = {make_message(message_key=key).id: key for key in "km"}
    blocked: list[dict[str, int]] = []

    class BesideOther(Claims):
        """Another relay has locked the first messages."""

        def _claim_first(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
            found = super()._claim_first(limit + len(locked), excluded_topics).messages
            return Claimed([message for message in found if message.id not in locked][:limit])

        def skip_blocked(self, blocked_by: Mapping[int, int]) -> bool:
            blocked.append({locked[id]: number for id, number in blocked_by.items()})
            return True

    monkeypatch.setattr(module, "claims_of", lambda using, clock: BesideOther(dialect_of(using), clock))
    for key in keys:
        make_message(message_key=key.replace("-", ""))
    done = Relay(memory_broker(), using="default", batch_size=batch_size).run_once()
    number = sum(key in "km" for key in keys)
    sent = len(keys) - number
    skipped = number if asked else 0
    assert done == Pass(claimed=len(keys), published=sent, blocked=number, skipped=skipped)
    assert blocked == asked
