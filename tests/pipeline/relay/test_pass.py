"""A pass of the relay: what it counts, and when the relay has nothing left to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.brokers.base import Acknowledged, Failed, Record, Refused, SendResult, TopicTrouble
from django_outbox.events.writer import Outgoing
from django_outbox.observability import instrumentation
from django_outbox.relay import batch as batches
from django_outbox.relay import relay as module
from django_outbox.relay.relay import Pass, Relay
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded
from tests.support.brokers.partitions import PartialBroker
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, make_message, memory_broker, row, statuses

pytestmark = pytest.mark.django_db

LATER = timezone.now() + timedelta(hours=1)


def make_relay(answer: SendResult | None = None, **options: Any) -> Relay:
    """A relay for batches of two, whose broker acknowledges all records or answers something else."""

    def answers(records: Sequence[Record], real: list[SendResult]) -> list[SendResult]:
        return real if answer is None else [answer] * len(records)

    return Relay(ScriptedBroker(answers), using="default", batch_size=2, **options)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, Pass(claimed=2, published=2)),
        (Failed("not now"), Pass(claimed=2, failed=2)),
        (Refused("too large"), Pass(claimed=2, dead=2)),
        (TopicTrouble("no leader"), Pass(claimed=2)),
    ],
)
@pytest.mark.parametrize("due", [2, 3])
def test_a_pass_counts_its_messages_and_goes_on_if_it_was_full_and_moved_some(
    answer: SendResult | None, expected: Pass, due: int
) -> None:
    for _ in range(due):
        make_message()
    relay = make_relay(answer)
    relay.is_idle = True
    assert relay.run_once() == expected
    assert relay.is_idle is (not expected.moved)


def test_a_pass_that_was_not_full_is_the_last_one() -> None:
    make_message()
    relay = make_relay()
    assert relay.run_once() == Pass(claimed=1, published=1)
    assert relay.is_idle
    assert relay.run_once() == Pass()


def test_after_an_error_the_relay_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    make_message()
    relay = make_relay()
    relay.is_idle = True
    monkeypatch.setattr(module, "unsent_before", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relay.run_once()
    assert not relay.is_idle


def test_messages_are_sent_in_the_order_in_which_they_were_published() -> None:
    now = timezone.now()
    ids = [make_message(next_retry_at=now - timedelta(seconds=age)).id for age in (1, 2)]
    sent: list[int] = []

    def answers(records: Sequence[Record], real: list[SendResult]) -> list[SendResult]:
        sent.extend(int(dict(record.headers)["ce_outboxid"] or b"") for record in records)
        return real

    Relay(ScriptedBroker(answers), using="default").run_once()
    assert sent == ids


def test_what_is_blocked_is_counted_and_waits_as_long_as_the_message_before_it() -> None:
    """More than half of a full batch."""
    first = make_message(message_key="k", next_retry_at=LATER)
    behind = [make_message(message_key="k") for _ in range(2)]
    other = make_message(message_key="l")
    relay = Relay(memory_broker(), using="default", batch_size=3)
    assert relay.run_once() == Pass(claimed=3, published=1, blocked=2, postponed=2)
    assert [row(message).next_retry_at for message in behind] == [row(first).next_retry_at] * 2
    assert row(other).status == "published"


def test_a_message_is_not_blocked_by_later_ones_of_its_key() -> None:
    first = make_message(message_key="k")
    make_message(message_key="k", next_retry_at=LATER)
    behind = make_message(message_key="k")
    assert Relay(memory_broker(), using="default").run_once() == Pass(claimed=2, published=1, blocked=1, postponed=1)
    assert (row(first).status, row(behind).status) == ("published", "pending")


def test_metrics_hear_of_a_batch_after_its_commit(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(instrumentation, "published", lambda *args, **options: heard.append((*args, options)))
    message, other = make_message(), make_message()

    def answers(records: Sequence[Record], real: list[SendResult]) -> list[SendResult]:
        clock.now += 2.5
        return [Acknowledged(0, 7), Failed("not now")]

    Relay(ScriptedBroker(answers), using="default", clock=clock).run_once()
    ((messages, acknowledged, seconds, options),) = heard
    assert [each.id for each in messages] == [message.id, other.id]
    assert (acknowledged, seconds, options) == ([(message.id, 1, 0, 7)], 2.5, {"using": "default"})


def test_schemas_are_loaded_for_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load(*args: Any) -> dict[Any, Any]:
        calls.append(args)
        return {}

    monkeypatch.setattr(module, "load_all", load)
    assert not make_relay().load_schemas()
    assert calls == [([], LOAD_SECONDS)]


def test_a_relay_says_what_it_is(clock: Clock) -> None:
    state = make_relay(poll_interval=7.0, clock=clock).worker_state
    assert (state.kind, state.poll_interval) == ("relay", 7.0)
    clock.now += 5
    assert state.seconds_without_progress == 5.0


def test_a_relay_connects_at_its_start_although_nothing_is_due() -> None:
    broker = ScriptedBroker(lambda records, real: real)
    Relay(broker, using="default").run_once()
    assert len(broker.producers) == 1


def test_a_broker_that_answers_for_fewer_messages_than_it_got_is_an_error() -> None:
    make_message()
    make_message()
    relay = Relay(ScriptedBroker(lambda records, real: real[:1]), using="default")
    with pytest.raises(ValueError, match="zip"):
        relay.run_once()
    assert statuses() == ["pending", "pending"]


# What a pass leaves for the next one


def test_a_message_whose_schema_is_not_loaded_is_tried_once_more_and_then_its_topic_waits(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(message: Outgoing, **options: Any) -> Record:
        raise NotLoaded("schema", lambda: None)

    monkeypatch.setattr(batches, "encode", encode)
    make_message()
    relay = make_relay(clock=clock)
    assert relay.run_once() == Pass(claimed=1, blocked=1)
    assert relay.load_schemas()
    assert relay.run_once() == Pass(claimed=1, blocked=1, waiting=1)
    assert not relay.load_schemas()


def test_what_waits_for_its_partition_counts_as_skipped() -> None:
    broker = PartialBroker("memory://skipped")
    broker.silent = {1}
    for partition in (0, 1, 1, 2):
        make_message(message_key=broker.keys_of(partition, 1)[0])
    assert Relay(broker, using="default").run_once() == Pass(claimed=4, published=2, skipped=2)
