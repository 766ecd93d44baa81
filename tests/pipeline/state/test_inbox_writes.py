"""Each write of the inbox changes its own rows: those that differ in one respect stay as they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.exceptions import MessageNotFound
from django_outbox.models import InboxMessage
from django_outbox.state import inbox
from django_outbox.state.ordering import Blocker
from tests.support.changes import changes
from tests.support.inbox import make_received

pytestmark = pytest.mark.django_db

OVERDUE = datetime(2021, 1, 1, tzinfo=UTC)
LATER = timezone.now() + timedelta(days=1)
MUCH_LATER = LATER + timedelta(days=1)


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


def test_a_message_is_known_in_its_group_only() -> None:
    row = make_received()
    like_it = InboxMessage(group="another", source=row.source, event_id=row.event_id)
    assert inbox.are_known([row], using="default")
    assert not inbox.are_known([like_it], using="default")
    assert not inbox.are_known(
        [row, InboxMessage(group=row.group, source="another", event_id=row.event_id)], using="default"
    )


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
