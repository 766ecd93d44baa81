"""Each write of the state machine changes its own rows and says when: rows that differ in one respect stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.brokers.base import TopicPartition
from django_outbox.exceptions import MessageNotFound
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.state import inbox, outbox, pauses, purging, undelivered
from django_outbox.state.ordering import Blocker, blockers_of, release_next, unhandled_before
from django_outbox.state.outbox import Delivery
from tests.support.inbox import make_received
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OVERDUE = datetime(2021, 1, 1, tzinfo=UTC)
LATER = timezone.now() + timedelta(days=1)
MUCH_LATER = LATER + timedelta(days=1)


def stored(model: type[Any]) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in model.objects.values()}


def changes(model: type[Any], write: Callable[[], Any]) -> dict[int, set[str]]:
    """By id, the columns that a write changes; of a row that it deletes, ``gone``."""
    model.objects.update(updated_at=LONG_AGO)
    before = stored(model)
    with transaction.atomic():
        write()
    after = stored(model)
    differing = {
        id: {name for name, value in row.items() if after[id][name] != value} if id in after else {"gone"}
        for id, row in before.items()
    }
    return {id: names for id, names in differing.items() if names}


# Inbox


def test_messages_of_a_type_wait_in_their_group_and_topic_if_they_are_due() -> None:
    due: dict[str, Any] = {"next_retry_at": OVERDUE, "delivery_count": 2}
    for name in ("group", "topic", "event_type"):
        make_received(**{**due, name: "another"})
    make_received(**due, source="")
    make_received(**{**due, "next_retry_at": LATER})
    make_received("dead", delivery_count=2)
    row, like_it = make_received(**due), make_received(**due)
    changed = changes(InboxMessage, lambda: inbox.postpone_type(row, MUCH_LATER, using="default"))
    assert changed == {id: {"next_retry_at", "delivery_count", "updated_at"} for id in [row.id, like_it.id]}


def test_later_messages_of_a_key_wait_as_long_as_their_blocker_and_never_shorter() -> None:
    waiting: dict[str, Any] = {"message_key": "k", "next_retry_at": OVERDUE}
    make_received(**waiting)  # earlier than the blocker
    blocker = make_received(**{**waiting, "next_retry_at": LATER})
    for name in ("group", "topic", "message_key"):
        make_received(**{**waiting, name: "another"})
    make_received(**{**waiting, "next_retry_at": MUCH_LATER})
    row, last = make_received(**waiting), make_received(**waiting)
    changed = changes(InboxMessage, lambda: inbox.postpone(row, Blocker(blocker.id, LATER), using="default"))
    assert changed == {id: {"next_retry_at", "updated_at"} for id in [row.id, last.id]}


def test_nothing_waits_for_a_message_that_has_ended_meanwhile() -> None:
    blocker = make_received("consumed", message_key="k")
    row = make_received(message_key="k", next_retry_at=OVERDUE)
    with transaction.atomic():
        assert inbox.postpone(row, Blocker(blocker.id, LATER), using="default") == 0
    assert changes(InboxMessage, lambda: inbox.postpone(row, Blocker(blocker.id, LATER), using="default")) == {}


def test_all_later_messages_of_a_key_wait_however_many_one_statement_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "UPDATE_SIZE", 2)
    blocker, *later = [make_received(message_key="k", next_retry_at=OVERDUE) for _ in range(6)]
    with transaction.atomic():
        assert inbox.postpone(later[0], Blocker(blocker.id, LATER), using="default") == 5


def test_an_unread_record_is_found_by_its_group_and_position() -> None:
    unread: dict[str, Any] = {"source": "", "event_id": "elsewhere-0-7"}
    make_received(**{**unread, "group": "another"})
    make_received(**{**unread, "source": "warehouse"})
    make_received(**{**unread, "event_id": "elsewhere-0-8"})
    row = make_received(**unread)
    with transaction.atomic():
        found = inbox.lock_unread(row, using="default")
    assert found is not None
    assert (found.id, found.get_deferred_fields()) == (row.id, {"raw_value"})


def test_an_unread_record_that_has_ended_is_not_found() -> None:
    row = make_received("dead", source="", event_id="elsewhere-0-7")
    with transaction.atomic():
        assert inbox.lock_unread(row, using="default") is None


def test_forgetting_an_unread_record_leaves_others() -> None:
    make_received(source="")
    row = make_received(source="")
    assert changes(InboxMessage, lambda: inbox.forget(row, using="default")) == {row.id: {"gone"}}


@pytest.mark.parametrize("fields", [{"source": "warehouse"}, {"source": "", "last_error": "no mapper"}])
def test_what_was_read_or_has_failed_is_not_forgotten(fields: dict[str, str]) -> None:
    row = make_received(**fields)
    assert changes(InboxMessage, lambda: inbox.forget(row, using="default")) == {}


def test_handlers_are_confirmed_by_their_own_rows() -> None:
    row, _other, pending = make_received("consumed"), make_received("consumed"), make_received()
    inbox.confirm([row.id], using="default")
    with pytest.raises(MessageNotFound):
        inbox.confirm([row.id, pending.id], using="default")


def test_nothing_is_added_without_rows(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert inbox.add([], using="default") == 0


def test_a_handled_message_keeps_what_deduplication_needs() -> None:
    content = {"payload": {"order": 1}, "headers": {"a": "b"}, "content_type": "text/csv", "last_error": "once"}
    row, _other = (make_received(**content, raw_key=b"k", raw_value=b"v", message_key="k") for _ in range(2))
    changed = changes(InboxMessage, lambda: inbox.mark_consumed(row, using="default"))
    cleared = {"payload", "headers", "content_type", "raw_key", "raw_value", "last_error"}
    assert changed == {row.id: {*cleared, "status", "next_retry_at", "consumed_at", "updated_at"}}
    assert row.status == "consumed"


def test_counting_a_delivery_and_taking_it_back_says_when() -> None:
    row, _other = make_received(delivery_count=1), make_received(delivery_count=1)
    counted = changes(InboxMessage, lambda: inbox.count_delivery(row, using="default", outlived=False))
    assert counted == {row.id: {"delivery_count", "next_retry_at", "updated_at"}}
    taken_back = changes(InboxMessage, lambda: inbox.uncount_delivery(row.id, using="default"))
    assert taken_back == {row.id: {"delivery_count", "updated_at"}}


def test_a_record_that_is_read_later_loses_the_key_that_was_kept_for_its_reader() -> None:
    row = make_received(source="", raw_key=b"k", next_retry_at=OVERDUE)
    known = InboxMessage(source="warehouse", event_id="1", event_type="order.created", message_key="k", payload={})
    assert inbox.identify(row, known, using="default")
    row.refresh_from_db()
    assert (row.source, row.event_id, row.message_key, row.raw_key) == ("warehouse", "1", "k", None)


def test_the_end_of_a_message_releases_the_next_of_its_key_only() -> None:
    row = make_received("consumed", message_key="k")
    for name in ("group", "topic", "message_key"):
        make_received(**{"message_key": "k", "next_retry_at": LATER, name: "another"})
    following, _last = (make_received(message_key="k", next_retry_at=LATER) for _ in range(2))
    changed = changes(InboxMessage, lambda: release_next(row, using="default"))
    assert changed == {following.id: {"next_retry_at"}}


def test_what_has_failed_itself_is_not_released() -> None:
    row = make_received("consumed", message_key="k")
    make_received(message_key="k", next_retry_at=LATER, retry_count=1)
    assert changes(InboxMessage, lambda: release_next(row, using="default")) == {}


def test_the_first_of_each_topic_and_key_blocks_the_rows_of_a_batch() -> None:
    places = [("elsewhere", "k"), ("elsewhere", "l"), ("another", "k")]
    make_received(topic="elsewhere", message_key="k", group="another")
    first = {place: make_received(topic=place[0], message_key=place[1], next_retry_at=LATER).id for place in places}
    make_received(topic="elsewhere", message_key="k", next_retry_at=LATER)
    rows = [make_received(topic=topic, message_key=key) for topic, key in places]
    assert {place: blocker.id for place, blocker in blockers_of(rows, using="default").items()} == first
    found = blockers_of(rows[:1], using="default")
    assert {place: blocker.id for place, blocker in found.items()} == {places[0]: first[places[0]]}


# Outbox


def delivery_of(message: OutboxMessage, **changed: Any) -> Delivery:
    known = Delivery(message.id, message.publish_count, message.topic, message.partition or 0, message.offset or 0)
    return known._replace(**changed)


def make_sent(**fields: Any) -> OutboxMessage:
    return make_message("published", **{"partition": 2, "offset": 7, "publish_count": 3, **fields})


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


def test_messages_wait_for_earlier_ones_in_each_topic(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    dead = make_message("dead", topic="one", message_key="k")
    pending = make_message(topic="two", message_key="k", next_retry_at=LATER)
    later = [make_message("published", topic=topic, message_key="k") for topic in ("one", "two")]
    with transaction.atomic():
        locked = outbox.lock([message.id for message in later], using="default")
        found = unhandled_before(list(locked.values()), lambda topic: ["order.created"], using="default")
    assert {id: (blocker.id, blocker.is_dead) for id, blocker in found.items()} == {
        later[0].id: (dead.id, True),
        later[1].id: (pending.id, False),
    }


def blocker_behind(message: OutboxMessage) -> Blocker | None:
    with transaction.atomic():
        locked = outbox.lock([message.id], using="default")
        return unhandled_before(list(locked.values()), lambda topic: ["order.created"], using="default").get(message.id)


def test_only_an_earlier_message_of_the_same_service_topic_and_key_is_waited_for() -> None:
    other_service = make_sent(message_key="k")
    OutboxMessage.objects.filter(id=other_service.id).update(source="another")
    make_sent(message_key="k", topic="another")
    make_sent(message_key="another")
    make_sent(message_key="k", event_type="order.archived")  # without a handler
    make_message("consumed", message_key="k")
    make_message("dead", message_key="k")
    message = make_sent(message_key="k", offset=8)
    make_sent(message_key="k", offset=9)
    assert blocker_behind(message) is None


def test_a_pending_message_says_best_how_long_to_wait() -> None:
    make_sent(message_key="k")
    pending = make_message(message_key="k", next_retry_at=LATER)
    make_message(message_key="k", next_retry_at=MUCH_LATER)
    assert blocker_behind(make_sent(message_key="k", offset=8)) == Blocker(pending.id, LATER)


@pytest.mark.parametrize(
    ("partition", "offset", "age", "wait"),
    [
        (2, 9, 0, timedelta(0)),  # sent again since, so it comes later
        (2, 3, 300, timedelta(seconds=32)),  # it was read, and the reconciler will find it
        (1, 9, 0, timedelta(seconds=32)),  # in another partition, nobody knows
        (2, 9, 300, timedelta(seconds=32)),  # sent before, so the topic has lost its records
    ],
)
def test_one_that_was_sent_is_waited_for_as_long_as_it_takes(
    partition: int, offset: int, age: int, wait: timedelta
) -> None:
    now = timezone.now()
    published_at = now - timedelta(seconds=age)
    earlier = make_sent(message_key="k", partition=partition, offset=offset, published_at=published_at)
    message = make_sent(message_key="k", published_at=now - timedelta(seconds=100))
    assert blocker_behind(message) == Blocker(earlier.id, wait)


@pytest.mark.parametrize(("minutes", "wait"), [(0, 32), (5, 300), (60, 600)])
def test_the_longer_debezium_is_away_the_longer_is_the_wait(minutes: int, wait: int) -> None:
    carried: dict[str, Any] = {"message_key": "k", "partition": None, "offset": None}
    earlier = make_sent(**carried, published_at=timezone.now() - timedelta(minutes=minutes))
    found = blocker_behind(make_sent(message_key="k"))
    assert found is not None
    assert (found.id, found.until) == (earlier.id, pytest.approx(timedelta(seconds=wait), abs=timedelta(seconds=60)))
    assert blocker_behind(make_sent(**carried)) is not None  # behind the one that the relay has sent


def test_those_that_debezium_delivers_do_not_wait_for_each_other() -> None:
    carried: dict[str, Any] = {"message_key": "k", "partition": None, "offset": None}
    make_sent(**carried)
    assert blocker_behind(make_sent(**carried)) is None


# Pauses


def test_the_breaker_moves_the_end_of_its_own_pause_only() -> None:
    known: dict[str, Any] = {"reason": "away", "created_by": pauses.BREAKER, "until": OVERDUE}
    Pause.objects.create(group="tests", handler="shop.bill", **known)
    Pause.objects.create(group="another", handler="shop.ship", **known)
    Pause.objects.create(group="tests", event_type="order.created", **known)
    pause = Pause.objects.create(group="tests", handler="shop.ship", **known)
    before = stored(Pause)
    assert not pauses.trip("tests", "shop.ship", timedelta(minutes=1), "still away", using="default")
    after = stored(Pause)
    assert {id for id in before if before[id] != after[id]} == {pause.id}
    assert (after[pause.id]["reason"], after[pause.id]["until"] > OVERDUE) == ("still away", True)


def test_what_waits_for_a_check_time_of_a_pause_waits_for_the_next_one() -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    (pause,) = pauses.active(Pause.objects.using("default"))
    following, later = pause.check_times(pause.now)
    message = make_message(next_retry_at=following)
    make_message(next_retry_at=following - timedelta(seconds=1))
    changed = changes(OutboxMessage, lambda: pauses.postpone(pause, pause.now, using="default"))
    assert changed == {message.id: {"next_retry_at", "updated_at"}}
    message.refresh_from_db()
    assert message.next_retry_at == later


# Purging


def test_deleting_counts_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "BATCH_SIZE", 2)
    for _ in range(4):
        make_sent()
    assert purging.delete(OutboxMessage.objects.all(), using="default") == 4
