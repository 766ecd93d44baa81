"""Fresh records of the inbox, without a consumer around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import DataError, OperationalError
from django.utils import timezone

from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.stored import UNREAD_DELAY, Stored
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import REQUEUE_DELAY
from django_outbox.events.event import Event
from django_outbox.exceptions import RegistryUnavailable, Reject, Retry
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage, Pause
from django_outbox.state import inbox as state
from django_outbox.state.ordering import CLAIM_SECONDS
from tests.support.clock import Clock
from tests.support.inbox import make_received, plain, received
from tests.support.inbox_sources import FAULT, Sources, about, waits
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

beside_a_duplicate = pytest.mark.databases("sqlite", "postgresql", "mariadb")
"""MySQL's inserts return nothing: several records with a duplicate are handled one by one; see ``test_inbox.py``."""


@pytest.fixture
def sources() -> Sources:
    return Sources()


def test_a_fresh_record_is_named_by_its_place(sources: Sources) -> None:
    name, extra = sources.arrivals.describe(received(topic="elsewhere", partition=2, offset=7))
    assert name == "elsewhere/2/7"
    assert extra == {"event_id": "elsewhere/2/7", "topic": "elsewhere", "group": "tests"}


def test_records_share_the_calls_of_batch_handlers() -> None:
    assert Sources().arrivals.cost(received(type="order.listed")) == 1.0
    arrivals = Sources(lists=True).arrivals
    costs = {"order.listed": 0.1, "order.created": 1.0, "order.unknown": 1.0}
    assert {event_type: arrivals.cost(received(type=event_type)) for event_type in costs} == costs
    assert arrivals.cost(plain(b"not an event")) == 1.0


def test_each_outcome_is_stored(sources: Sources) -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    handled = received(type="order.paid")
    registry_error = received(value=b"{")
    claims = sources.receive(received(key="k", id="paused"), received(key="k", id="behind"), registry_error, handled)
    assert [claim.outcome for claim in claims] == ["requeued", "requeued", "dead", "dead"]
    rows = InboxMessage.objects.order_by("id").values_list("event_id", "status")
    assert [*rows][:2] == [("paused", "pending"), ("behind", "pending")]
    assert [status for _, status in rows][2:] == ["dead", "dead"]
    assert "No handler is registered for 'order.paid'" in claims[3].reason
    assert claims[2].reason.startswith("It cannot be read:")


@beside_a_duplicate
def test_what_has_no_time_is_not_stored_and_another_may_be_tried(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[tuple[str, str]] = []
    monkeypatch.setattr(Pauses, "leave", lambda self, event_type, topic: left.append((event_type, topic)))
    sources.receive(received(id="known"))
    unread = received(value=b"{", type="order.paid")
    sources.receive(received(id="known"), received(id="first"), received(id="second"), unread, left=2)
    assert [*InboxMessage.objects.order_by("id").values_list("event_id", "status")] == [
        ("known", "consumed"),
        ("first", "consumed"),
    ]
    assert left == [("order.created", "elsewhere")]


def test_handlers_of_a_topic_are_found(sources: Sources) -> None:
    registry = Registry()
    registry.register("order.paid", lambda event: None, topic="elsewhere")
    handlers, pauses = GroupHandlers(registry, "tests"), Pauses("default", GroupHandlers(registry, "tests"), Clock())
    sources.arrivals = ArrivalSource("default", handlers, sources.reader, sources.stored, pauses)
    claims = sources.receive(received(type="order.paid"), received(type="order.paid", topic="another"))
    assert [claim.outcome for claim in claims] == ["consumed", "dead"]


@pytest.mark.parametrize("mapped", [False, True])
def test_behind_a_record_that_waits_for_its_schema_none_of_its_key_is_read(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    read: list[int] = []

    def read_loading(record: Any) -> Event | None:
        read.append(record.offset)
        if record.offset in (0, 4):
            raise RegistryUnavailable("away")
        return None

    monkeypatch.setattr(sources.reader, "read_loading", read_loading)
    monkeypatch.setattr(sources.reader, "uses_mapper", lambda record: mapped)
    keys = ["k", "k", "l", None, None, None]
    claims = sources.arrivals.prepare([received(key=key, offset=offset) for offset, key in enumerate(keys)])
    last = "waiting" if mapped else "skipped"
    assert [claim.outcome for claim in claims] == ["waiting", "waiting", "skipped", "skipped", "waiting", last]
    assert read == ([0, 2, 3, 4] if mapped else [0, 2, 3, 4, 5])


@beside_a_duplicate
def test_duplicates_are_skipped(sources: Sources) -> None:
    assert [claim.outcome for claim in sources.receive(received(id="first"))] == ["consumed"]
    assert [claim.outcome for claim in sources.receive(received(id="first"), received(id="second"))] == [
        "skipped",
        "consumed",
    ]


def test_records_behind_one_that_waits_for_its_turn_wait_as_long(sources: Sources) -> None:
    until = timezone.now() + timedelta(minutes=5)
    make_received(topic="elsewhere", message_key="k", next_retry_at=until)
    claims = sources.receive(received(key="k", id="behind"), received(key="l", id="other"))
    assert [claim.outcome for claim in claims] == ["requeued", "consumed"]
    row = InboxMessage.objects.get(event_id="behind")
    assert (row.status, row.next_retry_at, row.payload) == ("pending", until, None)


@beside_a_duplicate
def test_a_paused_event_is_stored_whole_until_its_pause_ends_also_behind_a_duplicate(sources: Sources) -> None:
    until = timezone.now() + timedelta(days=1)
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim", until=until)
    make_received("consumed", event_id="known")
    claims = sources.receive(received(id="known"), received({"order": 1}, id="paused", headers=[("h", b"v")]))
    assert [claim.outcome for claim in claims] == ["skipped", "requeued"]
    row = InboxMessage.objects.get(event_id="paused")
    assert (row.status, row.next_retry_at, row.consumed_at) == ("pending", until, None)
    assert (row.payload, row.headers) == ({"order": 1}, {"h": "v"})


def test_a_record_that_cannot_be_read_is_dead_whatever_comes_before_it(sources: Sources) -> None:
    make_received(topic="elsewhere", message_key="k")
    assert [claim.outcome for claim in sources.receive(received(value=b"{", key="k"))] == ["dead"]


def test_faults_without_end_store_an_event_as_pending(sources: Sources) -> None:
    assert sources.arrivals.requeue(received({"order": 1}, id="first"), FAULT) == "requeued"
    row = InboxMessage.objects.get()
    assert (row.status, row.retry_count, row.payload) == ("pending", 0, {"order": 1})
    assert about(waits(row), REQUEUE_DELAY)
    assert sources.arrivals.requeue(received({"order": 1}, id="first"), FAULT) == "skipped"


def test_faults_without_end_of_what_is_no_event_are_raised(sources: Sources) -> None:
    with pytest.raises(OperationalError):
        sources.arrivals.requeue(received(value=b"{"), FAULT)


@pytest.mark.parametrize(
    ("error", "most", "outcome", "status", "retries"),
    [
        (ValueError("no"), 3, "failed", "pending", 1),
        (ValueError("no"), 1, "failed", "dead", 1),
        (Reject("no"), 3, "dead", "dead", 0),
    ],
)
def test_a_failure_stores_an_event(
    sources: Sources,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    most: int,
    outcome: str,
    status: str,
    retries: int,
) -> None:
    with outbox_settings(MAX_RETRY=most):
        assert sources.arrivals.fail(received({"order": 1}), None, error) == outcome
    row = InboxMessage.objects.get()
    assert (row.status, row.retry_count, row.payload) == (status, retries, {"order": 1})
    assert [record.__dict__["action"] for record in caplog.records] == [outcome]
    assert caplog.records[0].__dict__["message_id"] == row.id


def refuse(monkeypatch: pytest.MonkeyPatch, is_refused: Callable[[InboxMessage], object], *, silently: bool) -> None:
    """Let the database reject such rows; silently as MySQL does."""
    add = state.add

    def add_or_refuse(rows: Sequence[InboxMessage], *, using: str) -> int:
        if not any(map(is_refused, rows)):
            return add(rows, using=using)
        if silently:
            return 0
        raise DataError("no such bytes")

    monkeypatch.setattr(state, "add", add_or_refuse)


@pytest.mark.parametrize("silently", [False, True])
def test_an_event_that_the_database_rejects_is_dead_with_its_bytes_and_the_reason(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, silently: bool
) -> None:
    refuse(monkeypatch, lambda row: row.source, silently=silently)
    record = received({"order": 1}, key="k")
    assert sources.arrivals.fail(record, None, ValueError("no")) == "dead"
    row = InboxMessage.objects.get()
    reason = "the database rejects its content" if silently else "no such bytes"
    assert row.last_error == f"It cannot be stored: {reason}"
    assert (row.status, bytes(row.raw_value or b""), bytes(row.raw_key or b"")) == ("dead", record.value, b"k")


def test_a_record_whose_bytes_the_database_rejects_is_dead_without_them(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda row: row.raw_value is not None, silently=False)
    assert sources.arrivals.fail(received(value=b"{", key="k"), None, ValueError("no")) == "dead"
    row = InboxMessage.objects.get()
    assert (row.status, row.raw_value, row.raw_key, row.headers) == ("dead", None, None, {})
    assert row.last_error == "It cannot be stored: no such bytes"


def test_a_retry_at_another_time_is_kept(sources: Sources) -> None:
    sources.arrivals.fail(received(), None, Retry(timedelta(minutes=10)))
    assert about(waits(InboxMessage.objects.get()), timedelta(minutes=10))


@pytest.mark.parametrize(
    ("record", "outcome"), [(received(id="first"), "skipped"), (received(value=b"{", id="other"), None)]
)
def test_what_is_stored_already_or_carries_no_event_is_not_counted(
    sources: Sources, record: Any, outcome: str | None
) -> None:
    sources.receive(received(id="first"))
    assert sources.arrivals.store_counted(record) == outcome


def test_a_counted_event_is_pending_while_its_handler_runs(sources: Sources) -> None:
    stored = sources.arrivals.store_counted(received())
    row = InboxMessage.objects.get()
    assert stored == Stored(row.id, 1, None)
    assert (row.status, row.delivery_count) == ("pending", 1)
    assert about(waits(row), timedelta(seconds=CLAIM_SECONDS))


def test_a_record_for_a_mapper_is_stored_before_it_is_read() -> None:
    with outbox_settings(INBOX={"elsewhere": lambda record: None}):
        sources = Sources()
        record = plain(b"legacy", topic="elsewhere")
        stored = sources.arrivals.store_counted(record)
        row = InboxMessage.objects.get()
        assert stored == Stored(row.id, 1, record)
        assert about(waits(row), UNREAD_DELAY)
        assert sources.arrivals.store_counted(record) == Stored(row.id, 2, record)
        row.refresh_from_db()
        assert about(waits(row), UNREAD_DELAY)
