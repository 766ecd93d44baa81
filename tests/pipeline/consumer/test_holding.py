"""Messages that wait in the consumer's hand for an earlier one of their key, instead of being sent again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.brokers.base import TopicPartition
from django_outbox.consumer.waits import HOLD_SECONDS
from django_outbox.models import OutboxMessage
from tests.support.clock import Clock
from tests.support.effects import effect_of_payload, effects
from tests.support.outbox import Pipeline, make_due, make_message, publish_again, row, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[False, True], ids=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest, clock: Clock) -> Pipeline:
    return Pipeline(steady=request.param, hold=50, clock=clock)


class Failing:
    """A handler that fails for the payload 0 until it is told to stop."""

    def __init__(self) -> None:
        self.fails = True

    def __call__(self, event: Any) -> None:
        if event.payload == 0 and self.fails:
            raise ArithmeticError("boom")
        effect_of_payload(event)


@pytest.fixture
def failing(pipeline: Pipeline) -> Failing:
    failing = Failing()
    pipeline.on("order.created", failing)
    return failing


def publish(number: int, **fields: Any) -> list[OutboxMessage]:
    return [make_message(payload=each, message_key="a", **fields) for each in range(number)]


def sent() -> list[int]:
    """How often each message was sent, by id."""
    return list(OutboxMessage.objects.order_by("id").values_list("publish_count", flat=True))


def committed(pipeline: Pipeline) -> int:
    place = TopicPartition("outbox", 0)
    return pipeline.broker.progress(["outbox"], pipeline.consumer.group)[place].committed or 0


def test_what_is_behind_a_failed_message_waits_and_is_not_sent_again(
    pipeline: Pipeline, failing: Failing, clock: Clock
) -> None:
    first, *_ = publish(3)

    pipeline.turn()
    assert statuses() == ["pending", "published", "published"]
    assert committed(pipeline) == 1
    assert {each.delivery_count for each in OutboxMessage.objects.all()} == {0}
    pipeline.consumer.run_once()
    assert statuses() == ["pending", "published", "published"]

    make_due(first)
    failing.fails = False
    clock.now += 1
    pipeline.turn()
    pipeline.turn()

    assert statuses() == ["consumed"] * 3
    assert effects() == ["0", "1", "2"]
    assert sent() == [2, 1, 1]
    assert committed(pipeline) == 4


def test_other_keys_go_on_meanwhile(pipeline: Pipeline, failing: Failing) -> None:
    publish(2)
    pipeline.turn()
    make_message(payload="other", message_key="b")
    pipeline.turn()
    assert statuses() == ["pending", "published", "consumed"]


def test_what_waits_too_long_is_sent_again(pipeline: Pipeline, clock: Clock) -> None:
    """The first one's record is gone, or another consumer is busy with it."""
    pipeline.on("order.created", effect_of_payload)
    earlier = make_message("published", payload=0, message_key="a", partition=7, offset=9)
    make_message(payload=1, message_key="a")

    pipeline.turn()
    assert statuses() == ["published", "published"]
    for _ in range(30):
        clock.now += HOLD_SECONDS / 20
        pipeline.consumer.run_once()
    assert statuses() == ["published", "pending"]
    assert len(pipeline.consumer.lanes) == 0
    assert committed(pipeline) == 1
    assert row(earlier).publish_count == 1


def test_a_partition_of_which_much_was_read_behind_a_waiting_message_goes_on_without_it(
    pipeline: Pipeline, clock: Clock
) -> None:
    pipeline.on("order.created", effect_of_payload)
    make_message("published", payload=0, message_key="a", partition=7, offset=9)
    waiting = make_message(payload=1, message_key="a")
    for number in range(20):
        make_message(payload=number, message_key="b")
    pipeline.turn()
    assert (row(waiting).status, committed(pipeline)) == ("published", 0)

    pipeline.consumer.lanes.window = 20
    clock.now += 0.01
    pipeline.consumer.run_once()

    assert (row(waiting).status, committed(pipeline)) == ("pending", 21)


def test_it_goes_on_as_soon_as_another_consumer_has_handled_the_first(pipeline: Pipeline, clock: Clock) -> None:
    pipeline.on("order.created", effect_of_payload)
    earlier = make_message("published", payload=0, message_key="a", partition=7, offset=9)
    later = make_message(payload=1, message_key="a")
    pipeline.turn()

    OutboxMessage.objects.filter(id=earlier.id).update(status="consumed", consumed_at=earlier.created_at)
    clock.now += 1
    pipeline.consumer.run_once()

    assert (row(later).status, row(later).publish_count) == ("consumed", 1)


def test_looking_after_messages_that_wait_for_one_that_is_published_takes_one_query(
    pipeline: Pipeline, clock: Clock
) -> None:
    pipeline.on("order.created", effect_of_payload)
    for number, key in enumerate(["a", "b", "c"]):
        make_message("published", payload=0, message_key=key, partition=7, offset=number)
        make_message(payload=1, message_key=key)
        make_message(payload=2, message_key=key)
    pipeline.turn()
    before = list(OutboxMessage.objects.order_by("id").values())

    clock.now += 1
    with CaptureQueriesContext(connection) as queries:
        pipeline.consumer.run_once()

    looks = [query["sql"] for query in queries if OutboxMessage._meta.db_table in query["sql"]]
    assert [sql.split()[0] for sql in looks] == ["SELECT"], looks
    assert list(OutboxMessage.objects.order_by("id").values()) == before


def test_a_retry_that_is_far_away_is_not_waited_for(pipeline: Pipeline, failing: Failing) -> None:
    publish(2, retry_count=8)  # the next one waits 32 s
    pipeline.turn()
    assert statuses() == ["pending", "pending"]


def test_only_so_many_wait(clock: Clock) -> None:
    pipeline = Pipeline(steady=True, hold=2, batch_size=2, clock=clock)
    pipeline.on("order.created", Failing())
    publish(12)
    pipeline.relay.run_once()
    for _ in range(12):
        pipeline.consumer.run_once()
        assert len(pipeline.consumer.lanes) <= 2 + 2 + 2
    assert statuses().count("pending") > 4
    other = make_message("published", payload=6, message_key="b")
    pipeline.deliver(other, publish_count=0)
    pipeline.consumer.run_once()
    assert statuses()[-1] == "consumed"


def test_a_killed_consumer_reads_what_waited_again(pipeline: Pipeline, failing: Failing, clock: Clock) -> None:
    first, *_ = publish(3)
    pipeline.turn()

    pipeline.restart_consumer()
    pipeline.consumer.run_once()
    make_due(first)
    failing.fails = False
    clock.now += 1
    pipeline.turn()
    pipeline.turn()

    assert effects() == ["0", "1", "2"]
    assert sent() == [2, 1, 1]


def test_records_in_the_wrong_order_are_handled_in_the_order_of_their_ids(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_payload)
    messages = [make_message("published", payload=each, message_key="a", publish_count=2) for each in range(4)]
    for message in reversed(messages):
        pipeline.deliver(message, publish_count=1)  # Debezium sends only first publications
    pipeline.consumer.run_once()
    assert effects() == ["0", "1", "2", "3"]
    assert sent() == [2] * 4


def test_first_publications_of_the_relay_in_the_wrong_order_are_handled_in_the_order_of_their_ids(
    pipeline: Pipeline, clock: Clock
) -> None:
    """They may be in two partitions, or be those of Debezium as far as the queue knows."""
    pipeline.on("order.created", effect_of_payload)
    for offset, each in enumerate(reversed(publish(4))):
        pipeline.deliver(each)
        publish_again(each, offset=offset)
    for _ in range(8):
        clock.now += 2
        pipeline.consumer.run_once()
    assert effects() == ["0", "1", "2", "3"]
    assert sent() == [1] * 4


def test_a_message_waits_with_its_own_record_not_with_a_stale_one(pipeline: Pipeline, clock: Clock) -> None:
    """A relay was killed after it had sent the message, and the next one sent it again."""
    pipeline.on("order.created", effect_of_payload)
    first, second = publish(2, next_retry_at=timezone.now() + timedelta(seconds=5))
    pipeline.deliver(second)
    record = pipeline.deliver(second)
    publish_again(second, record.partition, record.offset)

    pipeline.consumer.run_once()

    assert committed(pipeline) == record.offset
    make_due(first)
    pipeline.relay.run_once()
    clock.now += 10
    pipeline.consumer.run_once()
    assert effects() == ["0", "1"]
    assert statuses() == ["consumed", "consumed"]
    assert sent() == [1, 1]
