"""What a message waits for, and for how long: an earlier one of its service or group, its topic and its key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state import outbox
from django_outbox.state.ordering import (
    LONGEST_WAIT,
    Blocker,
    blocker_of,
    blockers_of,
    is_blocking,
    release_next,
    unhandled_before,
)
from tests.support.changes import changes
from tests.support.inbox import make_received
from tests.support.outbox import make_message, make_sent

pytestmark = pytest.mark.django_db

LATER = timezone.now() + timedelta(days=1)
MUCH_LATER = LATER + timedelta(days=1)


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


# Inbox, with ON_DEAD = "hold"


def test_a_dead_message_holds_longer_than_a_pending_one(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    pending = make_received(message_key="k", next_retry_at=LATER)
    row = make_received(message_key="k")
    assert blocker_of(row, using="default") == Blocker(pending.id, LATER)
    first = {("elsewhere", "k"): Blocker(pending.id, LATER)}
    assert blockers_of([row], using="default") == first
    assert is_blocking(Blocker(pending.id, LATER), using="default")
    dead = make_received("dead", message_key="k", id=row.id + 10)
    last = make_received(message_key="k", id=row.id + 20)
    found = blocker_of(last, using="default")
    assert found == Blocker(dead.id, LONGEST_WAIT)
    assert is_blocking(Blocker(dead.id, LONGEST_WAIT), using="default")


def test_a_handled_message_holds_nothing(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    consumed = make_received("consumed", message_key="k")
    row = make_received(message_key="k")
    assert blocker_of(row, using="default") is None
    assert not is_blocking(Blocker(consumed.id, LATER), using="default")
