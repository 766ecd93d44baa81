"""The statements of a database, whether they are its own or those that every database understands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.models import OutboxMessage
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Dialect
from django_outbox.state.dialects.results import Published
from tests.support.changes import changes
from tests.support.outbox import make_message, make_sent

pytestmark = pytest.mark.django_db

NOW = timezone.now()
EARLIER, LATER = NOW - timedelta(seconds=1), NOW + timedelta(hours=1)


@pytest.fixture
def dialect() -> Dialect:
    return dialect_of("default")


def claimed(dialect: Dialect, *arguments: Any) -> list[int]:
    with transaction.atomic():
        return [message.id for message in dialect.claim(10, [], *arguments)]


def test_claims_begin_behind_a_message_in_the_order_of_due_times(dialect: Dialect) -> None:
    second_of_all, first_of_all = (
        make_message(next_retry_at=at).id for at in (EARLIER, EARLIER - timedelta(seconds=1))
    )
    first, waiting, behind = (make_message(next_retry_at=NOW).id for _ in range(3))
    last = make_message(next_retry_at=NOW + timedelta(microseconds=1)).id
    assert claimed(dialect) == [first_of_all, second_of_all, first, waiting, behind, last]
    assert claimed(dialect, dialect.place_after(waiting)) == [behind, last]
    assert claimed(dialect, dialect.place_after(first_of_all)) == [second_of_all, first, waiting, behind, last]


def test_only_messages_behind_the_given_one_wait(dialect: Dialect) -> None:
    make_message("dead", message_key="other")
    make_message(message_key="other")
    waiting = make_message(message_key="k", next_retry_at=LATER)
    behind = make_message(message_key="k")
    make_sent(message_key="k")
    changed = changes(OutboxMessage, lambda: dialect.postpone([waiting.id], None))
    assert changed == {behind.id: {"next_retry_at", "updated_at"}}


def test_publishing_says_when_and_leaves_others(dialect: Dialect) -> None:
    make_message()
    message, other = make_message(last_error="once"), make_message(publish_count=4)
    published = [Published(message.id, 1, 2, 7), Published(other.id, 5, None, None)]
    changed = changes(OutboxMessage, lambda: dialect.mark_published(published))
    written = {"status", "publish_count", "published_at", "updated_at", "next_retry_at"}
    assert changed == {message.id: {*written, "partition", "offset", "last_error"}, other.id: written}
    assert OutboxMessage.objects.filter(partition=2, offset=7, publish_count=1).get().id == message.id


def test_what_was_published_meanwhile_stays(dialect: Dialect) -> None:
    message, sent = make_message(publish_count=1), make_sent()
    published = [Published(message.id, 1, 2, 7), Published(sent.id, 4, 2, 7)]
    assert changes(OutboxMessage, lambda: dialect.mark_published(published)) == {}


def find_earlier(dialect: Dialect, *messages: OutboxMessage) -> dict[int, Any]:
    with transaction.atomic():
        locked = dialect.lock([message.id for message in messages])
        return dialect.unhandled_before(locked, ["order.created"], dead=False)


def test_each_message_waits_for_the_first_of_its_own_key(dialect: Dialect) -> None:
    make_sent(message_key="other")
    blocker = make_sent(message_key="k", offset=1)
    first_of_its_key = make_sent(message_key="l", offset=2)
    message = make_sent(message_key="k", offset=3)
    make_message(message_key="k", next_retry_at=LATER)
    found = find_earlier(dialect, first_of_its_key, message)
    assert {id: earlier.id for id, earlier in found.items()} == {message.id: blocker.id}


@pytest.mark.parametrize(("offset", "is_coming"), [(2, False), (9, True)])
def test_an_earlier_message_is_coming_if_its_record_is_behind_that_of_the_message(
    dialect: Dialect, offset: int, is_coming: bool
) -> None:
    now = timezone.now()
    make_sent(message_key="other", offset=1, published_at=now - timedelta(minutes=1))
    make_sent(message_key="k", offset=offset, published_at=now)
    message = make_sent(message_key="k", offset=5, published_at=now)
    make_sent(message_key="other", offset=1, published_at=now - timedelta(minutes=1))
    (earlier,) = find_earlier(dialect, message).values()
    assert earlier.is_coming is is_coming
