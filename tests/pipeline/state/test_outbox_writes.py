"""Each write of the outbox changes its own rows: those that differ in one respect stay as they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.brokers.base import TopicPartition
from django_outbox.models import OutboxMessage
from django_outbox.state import outbox, undelivered
from django_outbox.state.outbox import Delivery
from tests.support.changes import LONG_AGO, changes
from tests.support.outbox import make_message, make_sent

pytestmark = pytest.mark.django_db

LATER = timezone.now() + timedelta(days=1)


def delivery_of(message: OutboxMessage, **changed: Any) -> Delivery:
    known = Delivery(message.id, message.publish_count, message.topic, message.partition or 0, message.offset or 0)
    return known._replace(**changed)


def test_deliveries_of_a_message_are_counted_and_of_no_other() -> None:
    make_sent()
    message = make_sent()
    changed = changes(OutboxMessage, lambda: outbox.count_deliveries([delivery_of(message)], using="default"))
    assert changed == {message.id: {"delivery_count", "updated_at"}}


@pytest.mark.parametrize("known", [{"attempt": None}, {}])
def test_a_delivery_is_counted_as_far_as_the_record_is_known(known: dict[str, Any]) -> None:
    placed, carried = make_sent(), make_sent(partition=None, offset=None)
    deliveries = [delivery_of(each, **known) for each in (placed, carried)]
    assert outbox.count_deliveries(deliveries, using="default") == 2


@pytest.mark.parametrize("wrong", [{"topic": "another"}, {"partition": 3}, {"offset": 8}, {"attempt": 2}])
def test_a_delivery_of_another_record_is_not_counted(wrong: dict[str, Any]) -> None:
    message, other = make_sent(), make_sent(topic="another", partition=3, offset=8, publish_count=2)
    deliveries = [delivery_of(message, **wrong), delivery_of(other)]
    assert set(changes(OutboxMessage, lambda: outbox.count_deliveries(deliveries, using="default"))) == {other.id}


def test_a_record_that_has_the_place_of_another_message_is_not_counted() -> None:
    message, other = make_sent(), make_sent(offset=8)
    deliveries = [delivery_of(message, offset=8), delivery_of(other)]
    assert set(changes(OutboxMessage, lambda: outbox.count_deliveries(deliveries, using="default"))) == {other.id}


def test_records_that_have_the_places_of_each_other_are_not_counted() -> None:
    message, other = make_sent(), make_sent(offset=8)
    deliveries = [delivery_of(message, offset=8), delivery_of(other, offset=7)]
    assert changes(OutboxMessage, lambda: outbox.count_deliveries(deliveries, using="default")) == {}


@pytest.mark.parametrize("fields", [{"source": "another"}, {"status": "dead"}])
def test_a_delivery_of_another_service_or_after_the_end_is_not_counted(fields: dict[str, Any]) -> None:
    message = make_sent()
    OutboxMessage.objects.filter(id=message.id).update(**fields)
    assert changes(OutboxMessage, lambda: outbox.count_deliveries([delivery_of(message)], using="default")) == {}


def test_only_counted_deliveries_are_taken_back() -> None:
    counted, not_counted, other = make_sent(delivery_count=2), make_sent(), make_sent(delivery_count=2)
    deliveries = [delivery_of(counted), delivery_of(not_counted)]
    changed = changes(OutboxMessage, lambda: outbox.uncount_deliveries(deliveries, using="default"))
    assert changed == {counted.id: {"delivery_count"}}
    counted.refresh_from_db()
    assert (counted.delivery_count, other.delivery_count) == (1, 2)


def test_deliveries_are_forgotten_of_published_messages_only() -> None:
    message, other, dead = (make_sent(delivery_count=2) for _ in range(3))
    OutboxMessage.objects.filter(id=dead.id).update(status="dead")
    changed = changes(OutboxMessage, lambda: outbox.forget_deliveries([message.id, dead.id], using="default"))
    assert changed == {message.id: {"delivery_count"}}
    message.refresh_from_db()
    assert (message.delivery_count, other.delivery_count) == (0, 2)


def test_forgetting_no_deliveries_asks_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        outbox.forget_deliveries([], using="default")


def test_counted_deliveries_are_found_among_those_that_are_asked_for() -> None:
    message, not_counted, _other = make_sent(delivery_count=1), make_sent(), make_sent(delivery_count=1)
    assert outbox.with_deliveries([message.id, not_counted.id], using="default") == {message.id}


def test_consuming_says_when_and_leaves_others() -> None:
    make_sent()
    message = make_sent(last_error="once", delivery_count=1)

    def consume() -> None:
        locked = outbox.lock([message.id], using="default")
        outbox.mark_consumed(list(locked.values()), using="default")

    assert changes(OutboxMessage, consume) == {message.id: {"status", "consumed_at", "last_error", "updated_at"}}


def test_requeueing_says_when_and_leaves_others() -> None:
    make_sent()
    message = make_sent()
    chosen = OutboxMessage.objects.using("default").filter(id=message.id)
    changed = changes(OutboxMessage, lambda: outbox.requeue_all(chosen, "default"))
    assert changed == {message.id: {"status", "next_retry_at", "updated_at"}}


def test_lost_messages_are_those_outside_of_the_log_or_with_an_unknown_place() -> None:
    known = {"published_at": LONG_AGO, "partition": 2}
    lost = [make_sent(**known, offset=offset).id for offset in (4, 9, 10)]
    unknown = make_sent(**known, offset=None).id
    for neighbour in ({"partition": 3}, {"topic": "another"}, {"event_type": "another"}, {"published_at": LATER}):
        make_sent(**{**known, "offset": 4, **neighbour})
    unread = make_sent(**known, offset=5).id

    def requeue(first: int, end: int) -> int:
        place, types = TopicPartition("outbox", 2), ["order.created"]
        return outbox.requeue_lost(place, first, end, age=timedelta(0), event_types=types, using="default")

    with transaction.atomic():
        assert requeue(5, 9) == 3
    assert {*OutboxMessage.objects.pending().values_list("id", flat=True)} == {*lost}
    assert set(changes(OutboxMessage, lambda: requeue(5, 5))) == {unknown, unread}  # all was read


def test_what_debezium_has_not_delivered_is_found_by_topic_type_and_age() -> None:
    carried: dict[str, Any] = {"published_at": LONG_AGO, "partition": None, "offset": None}
    for neighbour in ({"partition": 2}, {"topic": "another"}, {"event_type": "another"}, {"published_at": LATER}):
        make_sent(**{**carried, **neighbour})
    known: dict[str, Any] = {"age": timedelta(0), "event_types": ["order.created"], "using": "default"}
    assert not undelivered.has_undelivered("outbox", **known)
    message = make_sent(**carried)
    assert undelivered.has_undelivered("outbox", **known)
    changed = changes(OutboxMessage, lambda: undelivered.requeue_undelivered("outbox", horizon=None, most=10, **known))
    assert set(changed) == {message.id}


def test_messages_of_partitions_that_are_gone_are_lost() -> None:
    known = {"published_at": LONG_AGO, "offset": 4}
    make_sent(**known, partition=1)
    for neighbour in ({"topic": "another"}, {"event_type": "another"}, {"published_at": LATER}):
        make_sent(**{**known, "partition": 2, **neighbour})
    lost = make_sent(**known, partition=2)
    changed = changes(
        OutboxMessage,
        lambda: outbox.requeue_without_partition(
            "outbox", 2, age=timedelta(0), event_types=["order.created"], using="default"
        ),
    )
    assert set(changed) == {lost.id}


def test_what_was_passed_and_is_not_in_hand_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "UPDATE_SIZE", 2)
    known = {"published_at": LONG_AGO, "partition": 2}
    before, *passed, in_hand, after = [make_sent(**known, offset=offset) for offset in range(4, 12)]
    for neighbour in ({"partition": 3}, {"topic": "another"}, {"event_type": "another"}, {"published_at": LATER}):
        make_sent(**{**known, "offset": 5, **neighbour})

    def requeue() -> None:
        place, types = TopicPartition("outbox", 2), ["order.created"]
        requeued = outbox.requeue_passed(
            place, 5, 11, [in_hand.id], age=timedelta(0), event_types=types, using="default"
        )
        assert requeued == 5

    changed = changes(OutboxMessage, requeue)
    assert set(changed) == {message.id for message in passed}
    assert not {before.id, after.id} & set(changed)


@pytest.mark.parametrize(("seconds", "postponed"), [(-1, True), (0, False), (1, False)])
def test_what_is_due_before_a_batch_postpones_nothing(seconds: int, postponed: bool) -> None:
    """Usually another relay is sending it."""
    earlier, later = (make_message(message_key="k", next_retry_at=due) for due in (LATER, LONG_AGO))
    first = make_message(next_retry_at=LATER + timedelta(seconds=seconds))
    changed = changes(OutboxMessage, lambda: outbox.postpone([earlier.id], first_due=first.id, using="default"))
    assert changed == ({later.id: {"next_retry_at", "updated_at"}} if postponed else {})
