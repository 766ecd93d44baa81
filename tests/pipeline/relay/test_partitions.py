"""Partitions that wait for a broker: their messages stay due, and all others are sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from django_outbox.exceptions import MessagesLeft
from django_outbox.models import OutboxMessage
from django_outbox.relay.claims import LOOK_BACK_SECONDS
from django_outbox.relay.relay import Relay
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.stop import Stop
from tests.pipeline.relay.test_topics import run_one_round
from tests.support.brokers.partitions import PartialBroker
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, make_message, row, statuses

pytestmark = pytest.mark.django_db

_numbers = itertools.count()


@pytest.fixture
def broker() -> PartialBroker:
    return PartialBroker(f"memory://partial-{next(_numbers)}")


def relay_to(broker: PartialBroker, clock: Clock, batch_size: int = 500) -> Relay:
    return Relay(broker, using="default", batch_size=batch_size, clock=clock)


def publish_all_of(relay: Relay, passes: int = 50) -> int:
    """Run passes until nothing moves; returns how many messages were published."""
    published = 0
    for _ in range(passes):
        done = relay.run_once()
        published += done.published
        if not done.moved:
            return published
    raise AssertionError(f"still moving after {passes} passes: {statuses()}")


def test_messages_for_other_partitions_are_sent_and_those_that_wait_are_not_counted(
    broker: PartialBroker, clock: Clock
) -> None:
    relay = relay_to(broker, clock)
    keys = [broker.keys_of(partition, 1)[0] for partition in range(3)]
    broker.silent = {1}
    messages = [make_message(message_key=key) for key in keys * 2]

    assert publish_all_of(relay) == 4

    assert [row(message).status for message in messages] == ["published", "pending", "published"] * 2
    waiting = row(messages[1])
    assert (waiting.retry_count, waiting.publish_count) == (0, 0)
    assert waiting.next_retry_at == messages[1].next_retry_at
    assert waiting.updated_at == messages[1].updated_at, "it is not rewritten"


def test_messages_that_wait_are_sent_in_order_once_their_partition_can_be_written_to(
    broker: PartialBroker, clock: Clock
) -> None:
    relay = relay_to(broker, clock, batch_size=2)
    (key,), (other,) = broker.keys_of(1, 1), broker.keys_of(0, 1)
    broker.silent = {1}
    messages = [make_message(message_key=key) for _ in range(5)]
    late = make_message(message_key=other)
    assert publish_all_of(relay) == 1
    assert row(late).status == "published"

    broker.silent = set()
    assert publish_all_of(relay) == 5

    offsets = [row(message).offset for message in messages]
    assert offsets == sorted(offsets)


def test_a_key_continues_behind_what_was_acknowledged_of_an_abandoned_batch(
    broker: PartialBroker, clock: Clock
) -> None:
    pipeline = Pipeline(broker)
    pipeline.on("order.created")
    keys = [broker.keys_of(partition, 1)[0] for partition in range(3)]
    messages = [make_message(message_key=key, payload=n) for n, key in enumerate(keys * 10)]
    broker.silent, broker.is_known = {1}, False

    pipeline.run()
    assert broker.producers == 2, "the producer of the abandoned batch is replaced"
    broker.silent = set()
    pipeline.run()

    assert set(statuses()) == {"consumed"}
    for key in keys:
        handled = [event.payload for event in pipeline.handled if event.key == key]
        assert handled == [n for n, message in enumerate(messages) if message.message_key == key]


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_messages_that_wait_do_not_fill_the_batches(broker: PartialBroker, clock: Clock, batch_size: int) -> None:
    relay = relay_to(broker, clock, batch_size=batch_size)
    (key,), (other,) = broker.keys_of(1, 1), broker.keys_of(0, 1)
    broker.silent = {1}
    for _ in range(10):
        make_message(message_key=key)
    for _ in range(4):
        make_message(message_key=other)

    assert publish_all_of(relay) == 4


def test_messages_that_wait_are_claimed_once_and_then_only_new_ones_are(broker: PartialBroker, clock: Clock) -> None:
    relay = relay_to(broker, clock, batch_size=5)
    (key,), (other,) = broker.keys_of(1, 1), broker.keys_of(0, 1)
    broker.silent = {1}
    for _ in range(20):
        make_message(message_key=key)
    assert publish_all_of(relay) == 0
    # The others of the key are not sent, as they come after one that is pending.
    assert sum(broker.batches) == 5

    broker.batches.clear()
    for _ in range(5):
        make_message(message_key=other)
        assert relay.run_once().claimed == 1
        assert relay.run_once().claimed == 0
    assert sum(broker.batches) == 5


def test_a_message_that_becomes_due_ahead_of_those_that_wait_is_sent_after_a_second_or_so(
    broker: PartialBroker, clock: Clock
) -> None:
    """Such as one of a transaction that committed late."""
    relay = relay_to(broker, clock, batch_size=2)
    (key,), (other,) = broker.keys_of(1, 1), broker.keys_of(0, 1)
    broker.silent = {1}
    for _ in range(3):
        make_message(message_key=key)
    publish_all_of(relay)
    late = make_message(message_key=other, next_retry_at=timezone.now() - timedelta(hours=1))

    assert publish_all_of(relay) == 0
    clock.now += LOOK_BACK_SECONDS
    assert publish_all_of(relay) == 1

    assert row(late).status == "published"


def test_messages_that_wait_are_not_passed_over_when_another_partition_waits(
    broker: PartialBroker, clock: Clock
) -> None:
    relay = relay_to(broker, clock, batch_size=2)
    first, second = broker.keys_of(1, 1) + broker.keys_of(2, 1)
    broker.silent = {1}
    messages = [make_message(message_key=key) for key in [first] * 4 + [second] * 4]
    assert publish_all_of(relay) == 4

    broker.silent = {2}
    assert publish_all_of(relay) == 4

    assert {row(message).status for message in messages} == {"published"}


def test_messages_are_sent_again_at_once_whose_batch_was_not_committed(
    broker: PartialBroker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = relay_to(broker, clock, batch_size=2)
    (key,), (other,) = broker.keys_of(1, 1), broker.keys_of(0, 1)
    broker.silent = {1}
    for _ in range(3):
        make_message(message_key=key)
    publish_all_of(relay)
    messages = [make_message(message_key=other) for _ in range(2)]

    @contextmanager
    def lost_at_commit(using: str) -> Iterator[None]:
        with transaction.atomic(using=using):
            yield
            raise OperationalError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr("django_outbox.relay.relay.transaction", SimpleNamespace(atomic=lost_at_commit))
        with pytest.raises(OperationalError):
            relay.run_once()
    assert publish_all_of(relay) == 2

    assert {row(message).status for message in messages} == {"published"}


def test_what_was_abandoned_with_a_batch_is_sent_at_once_if_its_partition_does_not_wait(
    broker: PartialBroker, clock: Clock
) -> None:
    """As when the cluster has elected other leaders, but the client still sent to the old one."""
    relay = relay_to(broker, clock)
    broker.silent, broker.is_known = {1}, False
    message = make_message(message_key=broker.keys_of(1, 1)[0])
    assert relay.run_once().published == 0

    broker.silent = set()
    assert relay.run_once().published == 1
    assert row(message).status == "published"


def test_a_topic_is_not_read_while_all_of_its_partitions_wait(broker: PartialBroker, clock: Clock) -> None:
    relay = relay_to(broker, clock)
    broker.silent = {0, 1, 2}
    make_message(message_key="any")
    for _ in range(3):
        assert relay.run_once().claimed == 0
    assert broker.batches == []

    broker.silent = set()
    assert publish_all_of(relay) == 1


def test_the_outage_is_logged_once_with_the_partitions_that_wait(
    broker: PartialBroker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    relay = relay_to(broker, clock)
    broker.silent = {1}
    relay.run_once()
    assert caplog.text == "", "no message waits yet"
    for _ in range(3):
        make_message(message_key=broker.keys_of(1, 1)[0])
        relay.run_once()
    assert [each.getMessage() for each in caplog.records] == [
        "A part of topic outbox: a broker does not answer. Messages for other partitions are sent. "
        "Trying again until it works."
    ]
    assert run_one_round(relay) == ("trouble", "outbox: a broker does not answer.")
    clock.now += 9
    broker.silent = set()
    run_one_round(relay)
    clock.now += RELAPSE_SECONDS
    assert run_one_round(relay) == ("working", "")
    assert caplog.records[-1].getMessage() == "A part of topic outbox is available again after 9 s."


def test_no_other_partitions_are_mentioned_where_all_wait(
    broker: PartialBroker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    relay = relay_to(broker, clock)
    broker.silent, broker.is_known = {0, 1, 2}, False
    make_message(message_key="any")
    relay.run_once()
    relay.run_once()
    assert [each.getMessage() for each in caplog.records] == [
        "Topic outbox: a broker does not answer. Trying again until it works."
    ]


def test_drain_waits_for_partitions_as_long_as_for_a_broker_and_says_what_is_left(
    broker: PartialBroker, stop: Stop, settings: pytest.FixtureRequest
) -> None:
    clock = Clock(1000.0)
    broker.silent = {1}
    make_message(message_key=broker.keys_of(1, 1)[0])
    make_message(message_key=broker.keys_of(0, 1)[0])
    relay = relay_to(broker, clock)
    passes = 0
    real = relay.run_once

    def counted() -> object:
        nonlocal passes
        passes += 1
        clock.now += 0.3
        return real()

    relay.run_once = counted  # type: ignore[method-assign, assignment]
    with pytest.raises(MessagesLeft, match=r"outbox: a broker does not answer\."):
        relay.run(stop, drain=True)
    assert passes >= 10
    assert statuses() == ["pending", "published"]


def test_drain_does_not_wait_longer_for_partitions_that_are_tried_in_vain(broker: PartialBroker, stop: Stop) -> None:
    clock = Clock(1000.0)
    broker.silent = {1}
    make_message(message_key=broker.keys_of(1, 1)[0])
    relay = relay_to(broker, clock)
    passes = itertools.count(1)
    real = relay.run_once

    def counted() -> object:
        number = next(passes)
        assert number < 200, "drain does not end"
        clock.now += 0.3
        broker.is_known = number % 10 > 0
        return real()

    relay.run_once = counted  # type: ignore[method-assign, assignment]
    with pytest.raises(MessagesLeft, match=r"outbox: a broker does not answer\."):
        relay.run(stop, drain=True)


def test_drain_goes_on_with_messages_whose_partition_comes_back(broker: PartialBroker, stop: Stop) -> None:
    clock = Clock(1000.0)
    broker.silent = {1}
    make_message(message_key=broker.keys_of(1, 1)[0])
    relay = relay_to(broker, clock)
    real = relay.run_once

    def counted() -> object:
        clock.now += 0.3
        if clock.now > 1002:
            broker.silent = set()
        return real()

    relay.run_once = counted  # type: ignore[method-assign, assignment]
    relay.run(stop, drain=True)
    assert statuses() == ["published"]
    assert OutboxMessage.objects.get().retry_count == 0
