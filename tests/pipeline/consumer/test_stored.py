"""Stored messages of the inbox, without a consumer around them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.consumer.inbox.stored import Stored
from django_outbox.consumer.source import REQUEUE_DELAY, Outcome
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import InboxMessage, Pause
from django_outbox.state.inbox_rows import unread_row
from django_outbox.state.ordering import CLAIM_SECONDS
from django_outbox.state.pauses import AFTER_OTHERS
from tests.support.inbox import make_received, plain, received
from tests.support.inbox_sources import FAULT, Sources, about, waits
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def sources() -> Sources:
    return Sources()


def test_a_stored_message_is_named_by_its_number(sources: Sources) -> None:
    name, extra = sources.stored.describe(Stored(7))
    assert (name, extra) == ("inbox message 7", {"message_id": 7, "group": "tests"})


def test_a_stored_message_that_meets_faults_without_end_waits_uncounted(
    sources: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    row, other = make_received(delivery_count=1), make_received(delivery_count=1)
    assert sources.stored.requeue(Stored(row.id), FAULT) == "requeued"
    (line,) = caplog.records
    text = f"Inbox message {row.id} waits 32 s, because the database failed 5 times: deadlock"
    assert line.getMessage() == text
    assert (line.__dict__["action"], line.__dict__["message_id"], line.__dict__["group"]) == (
        "put_back",
        row.id,
        "tests",
    )
    before = other.next_retry_at
    row.refresh_from_db()
    other.refresh_from_db()
    assert about(waits(row), REQUEUE_DELAY)
    assert (row.retry_count, other.next_retry_at) == (0, before)


@pytest.mark.parametrize(("of_row", "of_item", "dead"), [(5, 5, False), (6, 1, True), (1, 6, True)])
@pytest.mark.parametrize(("source", "what"), [("warehouse", "handler"), ("", "mapper")])
def test_a_stored_message_may_take_the_process_down_five_times(
    sources: Sources, of_row: int, of_item: int, dead: bool, source: str, what: str
) -> None:
    row = make_received(delivery_count=of_row, source=source)
    record = received() if not source else None
    if dead:
        with pytest.raises(Reject, match=f"while the {what} ran"):
            sources.claim_stored(Stored(row.id, of_item, record))
    elif source:
        assert sources.claim_stored(Stored(row.id, of_item)).outcome is Outcome.CONSUMED


def test_a_message_without_a_handler_is_retried_as_another_release_may_have_it(sources: Sources) -> None:
    row = make_received(event_type="order.unknown", delivery_count=1)
    with pytest.raises(Retry, match=r"No handler is registered for 'order.unknown' \(removed, or not deployed yet\)"):
        sources.claim_stored(Stored(row.id))


def make_unread(**fields: Any) -> InboxMessage:
    """A stored record that a mapper is to read."""
    row = unread_row(plain(b"legacy", topic="elsewhere"), "tests", timedelta(0))
    for name, value in fields.items():
        setattr(row, name, value)
    row.save(force_insert=True)
    return row


@pytest.mark.parametrize("deliveries", [1, 5])
@pytest.mark.parametrize(
    ("event_type", "outcome", "left"), [("order.created", "requeued", True), (None, "skipped", False)]
)
def test_what_a_mapper_has_read_becomes_an_event_or_leaves_nothing(
    event_type: str | None, outcome: str, left: bool, deliveries: int
) -> None:
    def mapper(record: Any) -> Event | None:
        return event_type and Event(type=event_type, payload={"order": 1}, id="1", source="legacy")  # type: ignore[return-value]

    with outbox_settings(INBOX={"elsewhere": mapper}):
        sources, row = Sources(), make_unread()
        assert sources.claim_stored(Stored(row.id, deliveries, plain(b"legacy", topic="elsewhere"))).outcome == outcome
    assert InboxMessage.objects.due().exists() is left
    rows = [*InboxMessage.objects.values_list("source", "event_id", "payload", "status")]
    assert rows == ([("legacy", "1", {"order": 1}, "pending")] if left else [])


@pytest.mark.parametrize(
    ("event_type", "fields", "reason"),
    [
        ("order.unknown", {}, "No handler is registered for 'order.unknown'"),
        (None, {"last_error": "once"}, "It can be read now, but no handler is registered for it"),
        ("order.created", {"last_error": "once", "raw_value": None, "headers": {}}, "Its bytes were not stored"),
        ("fails", {}, "It cannot be read: the mapper of INBOX for elsewhere failed"),
    ],
)
def test_what_a_mapper_has_read_in_vain_is_dead(event_type: str | None, fields: dict[str, Any], reason: str) -> None:
    def mapper(record: Any) -> Event | None:
        if event_type == "fails":
            raise KeyError("no")
        return event_type and Event(type=event_type, payload=1)  # type: ignore[return-value]

    with outbox_settings(INBOX={"elsewhere": mapper}):
        sources, row = Sources(), make_unread(**fields)
        with pytest.raises(Reject, match=reason):
            sources.claim_stored(Stored(row.id, 1, plain(b"legacy", topic="elsewhere")))
    assert InboxMessage.objects.get().source == ""


def test_a_message_that_is_gone_is_skipped(sources: Sources) -> None:
    row = make_received("dead")
    assert sources.claim_stored(Stored(row.id)).outcome is Outcome.SKIPPED
    assert sources.stored.claim_due(row.id) is None


def test_a_due_message_that_is_paused_waits_with_those_of_its_type(sources: Sources) -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    row = make_received()
    assert sources.stored.claim_due(row.id) == "requeued"
    row.refresh_from_db()
    assert waits(row) > timedelta(0)


def test_a_due_message_is_counted_before_it_is_handled(sources: Sources) -> None:
    row = make_received(delivery_count=2)
    assert sources.stored.claim_due(row.id) == Stored(row.id, 3, None)


@pytest.mark.parametrize(("retries", "later"), [(0, timedelta(0)), (1, AFTER_OTHERS), (2, AFTER_OTHERS)])
def test_after_a_pause_messages_that_have_failed_come_last(sources: Sources, retries: int, later: timedelta) -> None:
    until = timezone.now() + timedelta(days=1)
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim", until=until)
    row = make_received(retry_count=retries)
    assert sources.stored.claim_due(row.id) == "requeued"
    row.refresh_from_db()
    assert row.next_retry_at == until + later


@pytest.mark.parametrize(("seconds", "wait"), [(1.0, CLAIM_SECONDS), (90.0, 90.0)])
def test_a_stored_record_waits_for_a_registry_uncounted(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, seconds: float, wait: float
) -> None:
    monkeypatch.setattr(sources.reader, "take_wait", lambda record: seconds)
    row, other = make_received(delivery_count=1), make_received(delivery_count=1)
    for item in (Stored(row.id, 1, received()), Stored(other.id)):
        sources.stored.prepare([Stored(item.id)])
        assert item.id in sources.stored.survived
        assert sources.stored.postpone(item) == "requeued"
        assert item.id not in sources.stored.survived
    for each, expected in ((row, wait), (other, CLAIM_SECONDS)):
        each.refresh_from_db()
        assert about(waits(each), timedelta(seconds=expected))
        assert each.retry_count == 0
