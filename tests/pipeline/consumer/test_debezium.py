"""Messages that Debezium delivers: their rows do not name a place, and commits decide their order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from django_outbox.consumer.waits import HOLD_SECONDS
from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.carried import committed, consume, deliver, inserted, sent
from tests.support.clock import Clock
from tests.support.effects import effect_of_payload, effects
from tests.support.outbox import Pipeline, Status, make_due, make_message, row, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def debezium(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium"}


@pytest.fixture(params=[False, True], ids=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest, clock: Clock) -> Pipeline:
    pipeline = Pipeline(steady=request.param, hold=50, clock=clock)
    pipeline.on("order.created", effect_of_payload)
    return pipeline


def test_a_message_is_handled_once_however_often_it_is_delivered(pipeline: Pipeline) -> None:
    message = inserted(1)
    deliver(pipeline, message, message)
    pipeline.consumer.run_once()
    deliver(pipeline, message)
    pipeline.consumer.run_once()
    assert effects() == ["1"]
    assert row(message).status == Status.CONSUMED
    assert committed(pipeline) == 3


@pytest.mark.parametrize("at_once", [True, False])
def test_concurrent_writers_of_a_key_are_handled_in_the_order_of_their_commits(
    pipeline: Pipeline, clock: Clock, at_once: bool
) -> None:
    """The id is taken at the insert."""
    first_inserted, first_committed = inserted("inserted first"), inserted("committed first")
    deliver(pipeline, first_committed)
    if not at_once:
        consume(pipeline, clock, 1)
    deliver(pipeline, first_inserted)
    consume(pipeline, clock, 1)
    assert effects() == ["committed first", "inserted first"]
    assert sent() == [1, 1]


def test_the_order_of_commits_holds_behind_other_keys_in_hand(pipeline: Pipeline, clock: Clock) -> None:
    """They are in the queue together, one after the other."""
    others = [inserted(f"other {number}", message_key=str(number)) for number in range(5)]
    second, first = inserted("second"), inserted("first")
    deliver(pipeline, *others, first, second)
    consume(pipeline, clock)
    assert [name for name in effects() if "other" not in name] == ["first", "second"]


def test_a_message_that_the_relay_sent_waits_for_an_earlier_one_of_debezium(pipeline: Pipeline, clock: Clock) -> None:
    """The connector is behind."""
    first = inserted(1)
    make_message(payload=2, message_key="a")
    pipeline.turn()
    consume(pipeline, clock)
    assert statuses() == ["published", "published"]
    assert committed(pipeline) == 0

    deliver(pipeline, first)
    consume(pipeline, clock)
    assert effects() == ["1", "2"]
    assert sent() == [1, 1]


def test_a_message_that_the_relay_sent_waits_for_one_of_debezium_behind_it_in_a_batch(
    pipeline: Pipeline, clock: Clock
) -> None:
    first = inserted(1)
    make_message(payload=2, message_key="a")
    pipeline.relay.run_once()
    deliver(pipeline, first)
    consume(pipeline, clock)
    assert effects() == ["1", "2"]
    assert sent() == [1, 1]


@pytest.mark.parametrize("late", [["first", "second"], ["second", "first"]], ids=["by id", "by commit"])
def test_several_messages_of_debezium_that_one_of_the_relay_waits_for_keep_the_order_of_their_commits(
    pipeline: Pipeline, clock: Clock, late: list[str]
) -> None:
    """An index by type names the second one first; the one that is named must not pass the others."""
    pipeline.on("order.closed", effect_of_payload)
    messages = {"first": inserted("first"), "second": inserted("second", event_type="order.closed")}
    make_message(payload="of the relay", message_key="a")
    pipeline.relay.run_once()
    consume(pipeline, clock, 1)
    for each in late:
        deliver(pipeline, messages[each])
    consume(pipeline, clock)
    assert effects() == [*late, "of the relay"]
    assert sent() == [1, 1, 1]


def test_a_message_of_debezium_waits_for_an_earlier_one_that_the_relay_sends(pipeline: Pipeline, clock: Clock) -> None:
    """With headers of its own or a delay, for example. It is pending, then on its way."""
    make_message(payload=1, message_key="a")
    second = inserted(2)
    deliver(pipeline, second)
    consume(pipeline, clock)
    assert statuses() == ["pending", "published"]

    pipeline.relay.run_once()
    consume(pipeline, clock)
    assert effects() == ["1", "2"]
    assert sent() == [1, 1]


@pytest.mark.parametrize("looked_at", [0, 1, 3], ids=["unread", "the first in hand", "all in hand"])
def test_several_messages_of_debezium_wait_for_an_earlier_one_whose_record_comes_last(
    pipeline: Pipeline, clock: Clock, looked_at: int
) -> None:
    """The first publications of relay and Debezium look alike, so their place in the queue is known only by who waits."""
    make_message(payload=1, message_key="a")
    later = [inserted(number) for number in (4, 2, 3)]
    for number, message in enumerate(later):
        deliver(pipeline, message)
        if number < looked_at:
            consume(pipeline, clock, 1)
    pipeline.relay.run_once()
    consume(pipeline, clock, 6)
    assert effects() == ["1", "4", "2", "3"]
    assert sent() == [1, 1, 1, 1]


@pytest.mark.parametrize("looked_at", [False, True])
def test_messages_wait_for_several_earlier_ones_that_come_in_any_order(
    pipeline: Pipeline, clock: Clock, looked_at: bool
) -> None:
    """Debezium is behind, and relays were down: 1 and 3 come from Debezium, 2 and 4 from a relay."""
    first = inserted(1)
    second, third = make_message(payload=2, message_key="a"), inserted(3)
    make_message(payload=4, message_key="a")
    deliver(pipeline, third)
    if looked_at:
        consume(pipeline, clock, 1)
    assert pipeline.relay.run_once().published == 2
    if looked_at:
        consume(pipeline, clock, 1)
    deliver(pipeline, first)
    consume(pipeline, clock, 8)
    assert effects() == ["1", "2", "3", "4"]
    assert row(second).publish_count == 1
    assert sent() == [1, 1, 1, 1]


def test_a_message_of_debezium_waits_for_an_earlier_one_whose_record_comes_later(
    pipeline: Pipeline, clock: Clock
) -> None:
    first, second = make_message(payload=1, message_key="a"), inserted(2)
    deliver(pipeline, second)
    pipeline.relay.run_once()
    assert row(first).offset == 1
    consume(pipeline, clock)
    assert effects() == ["1", "2"]
    assert sent() == [1, 1]


@pytest.mark.parametrize("later", ["relay", "debezium"])
def test_what_follows_a_failed_message_waits_until_the_relay_has_sent_it_again(clock: Clock, later: str) -> None:
    def fails_at_first(event: Event) -> None:
        if (event.payload, event.attempt) == (1, 1):
            raise ArithmeticError("not yet")
        effect_of_payload(event)

    pipeline = Pipeline(steady=True, hold=50, clock=clock)
    pipeline.on("order.created", fails_at_first)
    first = inserted(1)
    second = make_message(payload=2, message_key="a") if later == "relay" else inserted(2)
    deliver(pipeline, first)
    if later == "relay":
        pipeline.relay.run_once()
    else:
        deliver(pipeline, second)
    consume(pipeline, clock)
    assert statuses() == ["pending", "published"]
    make_due(first, second)
    for _ in range(3):
        pipeline.relay.run_once()
        consume(pipeline, clock)
    assert effects() == ["1", "2"]
    assert row(first).publish_count == 2


@pytest.mark.parametrize("fields", [{"event_type": "for.others"}, {"topic": "elsewhere"}, {"message_key": "b"}])
def test_a_message_without_a_handler_holds_nothing_back(
    pipeline: Pipeline, clock: Clock, fields: dict[str, Any]
) -> None:
    """It stays published until it is deleted."""
    inserted(1, **fields)
    make_message(payload=2, message_key="a")
    pipeline.turn()
    assert effects() == ["2"]


def test_what_debezium_lost_holds_later_messages_of_the_relay_only_until_it_is_sent_again(
    pipeline: Pipeline, clock: Clock
) -> None:
    first = inserted(1)
    make_message(payload=2, message_key="a")
    pipeline.turn()
    for _ in range(30):
        clock.now += HOLD_SECONDS / 20
        pipeline.consumer.run_once()
    assert statuses() == ["published", "pending"]  # it waited long enough in hand
    OutboxMessage.objects.filter(id=first.id).update(status="pending", next_retry_at=DatabaseNow())
    make_due(*OutboxMessage.objects.all())
    for _ in range(3):
        pipeline.relay.run_once()
        consume(pipeline, clock)
    assert effects() == ["1", "2"]


@pytest.mark.parametrize(("carried", "least"), [(0, 30), (300, 300), (7200, 600)])
def test_behind_what_debezium_has_not_delivered_for_long_a_message_is_not_sent_again_soon(
    pipeline: Pipeline, clock: Clock, carried: int, least: int
) -> None:
    """While the connector is down, nothing is gained by that."""
    inserted(1, published_at=DatabaseNow() - timedelta(seconds=carried))
    later = make_message(payload=2, message_key="a")
    pipeline.turn()
    for _ in range(30):
        clock.now += HOLD_SECONDS / 20
        pipeline.consumer.run_once()
    now = row(later)
    assert now.next_retry_at is not None
    assert timedelta(seconds=least) <= now.next_retry_at - now.updated_at <= timedelta(minutes=11)
