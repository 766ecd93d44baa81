"""The two sources of the inbox by themselves: fresh records, and stored messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import UNREAD_DELAY, Stored, StoredSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import REQUEUE_DELAY, Claim, Outcome
from django_outbox.events.event import Event
from django_outbox.exceptions import RegistryUnavailable, Reject, Retry
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage, Pause
from django_outbox.state.inbox_rows import unread_row
from django_outbox.state.ordering import CLAIM_SECONDS
from django_outbox.state.pauses import AFTER_OTHERS
from tests.support.clock import Clock
from tests.support.inbox import make_received, plain, received
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

FAULT = OperationalError("deadlock")


class Scene:
    """Both sources, with handlers of ``order.created``: one, and one that takes lists of ten of ``order.listed``."""

    def __init__(self, *, lists: bool = False) -> None:
        registry = Registry()
        registry.register("order.created", lambda event: None)
        if lists:
            registry.register("order.listed", lambda events: None, batch=10)
        handlers = GroupHandlers(registry, "tests")
        self.reader = reader = Reader(using="default", accepts=lambda event_type, topic: True, accepts_own=False)
        pauses = Pauses("default", handlers, Clock())
        self.stored = StoredSource("default", handlers, reader, pauses)
        self.arrivals = ArrivalSource("default", handlers, reader, self.stored, pauses)

    def receive(self, *records: Any, left: int = 0) -> list[Claim]:
        """Claim and settle fresh records, without running handlers."""
        prepared = self.arrivals.prepare(records)
        with transaction.atomic():
            claims = self.arrivals.claim(records, prepared)
            done = len(claims) - left
            self.arrivals.settle(claims[:done], claims[done:])
        return claims

    def claim_stored(self, item: Stored) -> Claim:
        with transaction.atomic():
            (claim,) = self.stored.claim([item], self.stored.prepare([item]))
            self.stored.settle([claim], [])
            return claim


@pytest.fixture
def scene() -> Scene:
    return Scene()


def waits(row: InboxMessage) -> timedelta:
    """How long it waits, from the time of the write that said so."""
    assert row.next_retry_at is not None
    return row.next_retry_at - row.updated_at


def about(found: timedelta, expected: timedelta) -> bool:
    return abs(found - expected) < timedelta(seconds=1)


# Fresh records


def test_a_fresh_record_is_named_by_its_place(scene: Scene) -> None:
    name, extra = scene.arrivals.describe(received(topic="elsewhere", partition=2, offset=7))
    assert name == "elsewhere/2/7"
    assert extra == {"event_id": "elsewhere/2/7", "topic": "elsewhere", "group": "tests"}


def test_records_share_the_calls_of_batch_handlers() -> None:
    assert Scene().arrivals.cost(received(type="order.listed")) == 1.0
    arrivals = Scene(lists=True).arrivals
    costs = {"order.listed": 0.1, "order.created": 1.0, "order.unknown": 1.0}
    assert {event_type: arrivals.cost(received(type=event_type)) for event_type in costs} == costs
    assert arrivals.cost(plain(b"not an event")) == 1.0


def test_each_outcome_is_stored(scene: Scene) -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    handled = received(type="order.paid")
    registry_error = received(value=b"{")
    claims = scene.receive(received(key="k", id="paused"), received(key="k", id="behind"), registry_error, handled)
    assert [claim.outcome for claim in claims] == ["requeued", "requeued", "dead", "dead"]
    rows = InboxMessage.objects.order_by("id").values_list("event_id", "status")
    assert [*rows][:2] == [("paused", "pending"), ("behind", "pending")]
    assert [status for _, status in rows][2:] == ["dead", "dead"]
    assert "No handler is registered for 'order.paid'" in claims[3].reason
    assert claims[2].reason.startswith("It cannot be read:")


def test_what_has_no_time_is_not_stored_and_another_may_be_tried(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[str, str]] = []
    monkeypatch.setattr(Pauses, "leave", lambda self, event_type, topic: left.append((event_type, topic)))
    scene.receive(received(id="known"))
    unread = received(value=b"{")
    scene.receive(received(id="known"), received(id="first"), received(id="second"), unread, left=2)
    assert [*InboxMessage.objects.order_by("id").values_list("event_id", "status")] == [
        ("known", "consumed"),
        ("first", "consumed"),
    ]
    assert left == [("order.created", "elsewhere")]


def test_handlers_of_a_topic_are_found(scene: Scene) -> None:
    registry = Registry()
    registry.register("order.paid", lambda event: None, topic="elsewhere")
    handlers, pauses = GroupHandlers(registry, "tests"), Pauses("default", GroupHandlers(registry, "tests"), Clock())
    scene.arrivals = ArrivalSource("default", handlers, scene.reader, scene.stored, pauses)
    claims = scene.receive(received(type="order.paid"), received(type="order.paid", topic="another"))
    assert [claim.outcome for claim in claims] == ["consumed", "dead"]


@pytest.mark.parametrize("mapped", [False, True])
def test_behind_a_record_that_waits_for_its_schema_none_of_its_key_is_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    read: list[int] = []

    def read_loading(record: Any) -> Event | None:
        read.append(record.offset)
        if record.offset in (0, 4):
            raise RegistryUnavailable("away")
        return None

    monkeypatch.setattr(scene.reader, "read_loading", read_loading)
    monkeypatch.setattr(scene.reader, "uses_mapper", lambda record: mapped)
    keys = ["k", "k", "l", None, None, None]
    claims = scene.arrivals.prepare([received(key=key, offset=offset) for offset, key in enumerate(keys)])
    last = "waiting" if mapped else "skipped"
    assert [claim.outcome for claim in claims] == ["waiting", "waiting", "skipped", "skipped", "waiting", last]
    assert read == ([0, 2, 3, 4] if mapped else [0, 2, 3, 4, 5])


def test_duplicates_are_skipped(scene: Scene) -> None:
    assert [claim.outcome for claim in scene.receive(received(id="first"))] == ["consumed"]
    assert [claim.outcome for claim in scene.receive(received(id="first"), received(id="second"))] == [
        "skipped",
        "consumed",
    ]


def test_records_behind_one_that_waits_for_its_turn_wait_as_long(scene: Scene) -> None:
    until = timezone.now() + timedelta(minutes=5)
    make_received(topic="elsewhere", message_key="k", next_retry_at=until)
    claims = scene.receive(received(key="k", id="behind"), received(key="l", id="other"))
    assert [claim.outcome for claim in claims] == ["requeued", "consumed"]
    row = InboxMessage.objects.get(event_id="behind")
    assert (row.status, row.next_retry_at, row.payload) == ("pending", until, None)


def test_a_record_that_cannot_be_read_is_dead_whatever_comes_before_it(scene: Scene) -> None:
    make_received(topic="elsewhere", message_key="k")
    assert [claim.outcome for claim in scene.receive(received(value=b"{", key="k"))] == ["dead"]


def test_faults_without_end_store_an_event_as_pending(scene: Scene) -> None:
    assert scene.arrivals.requeue(received({"order": 1}, id="first"), FAULT) == "requeued"
    row = InboxMessage.objects.get()
    assert (row.status, row.retry_count, row.payload) == ("pending", 0, {"order": 1})
    assert about(waits(row), REQUEUE_DELAY)
    assert scene.arrivals.requeue(received({"order": 1}, id="first"), FAULT) == "skipped"


def test_faults_without_end_of_what_is_no_event_are_raised(scene: Scene) -> None:
    with pytest.raises(OperationalError):
        scene.arrivals.requeue(received(value=b"{"), FAULT)


@pytest.mark.parametrize(
    ("error", "most", "outcome", "status", "retries"),
    [
        (ValueError("no"), 3, "failed", "pending", 1),
        (ValueError("no"), 1, "failed", "dead", 1),
        (Reject("no"), 3, "dead", "dead", 0),
    ],
)
def test_a_failure_stores_an_event(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    most: int,
    outcome: str,
    status: str,
    retries: int,
) -> None:
    with outbox_settings(MAX_RETRY=most):
        assert scene.arrivals.fail(received({"order": 1}), None, error) == outcome
    row = InboxMessage.objects.get()
    assert (row.status, row.retry_count, row.payload) == (status, retries, {"order": 1})
    assert [record.__dict__["action"] for record in caplog.records] == [outcome]
    assert caplog.records[0].__dict__["message_id"] == row.id


def test_a_retry_at_another_time_is_kept(scene: Scene) -> None:
    scene.arrivals.fail(received(), None, Retry(timedelta(minutes=10)))
    assert about(waits(InboxMessage.objects.get()), timedelta(minutes=10))


@pytest.mark.parametrize(
    ("record", "outcome"), [(received(id="first"), "skipped"), (received(value=b"{", id="other"), None)]
)
def test_what_is_stored_already_or_carries_no_event_is_not_counted(
    scene: Scene, record: Any, outcome: str | None
) -> None:
    scene.receive(received(id="first"))
    assert scene.arrivals.store_counted(record) == outcome


def test_a_counted_event_is_pending_while_its_handler_runs(scene: Scene) -> None:
    stored = scene.arrivals.store_counted(received())
    row = InboxMessage.objects.get()
    assert stored == Stored(row.id, 1, None)
    assert (row.status, row.delivery_count) == ("pending", 1)
    assert about(waits(row), timedelta(seconds=CLAIM_SECONDS))


def test_a_record_for_a_mapper_is_stored_before_it_is_read() -> None:
    with outbox_settings(INBOX={"elsewhere": lambda record: None}):
        scene = Scene()
        record = plain(b"legacy", topic="elsewhere")
        stored = scene.arrivals.store_counted(record)
        row = InboxMessage.objects.get()
        assert stored == Stored(row.id, 1, record)
        assert about(waits(row), UNREAD_DELAY)
        assert scene.arrivals.store_counted(record) == Stored(row.id, 2, record)
        row.refresh_from_db()
        assert about(waits(row), UNREAD_DELAY)


# Stored messages


def test_a_stored_message_is_named_by_its_number(scene: Scene) -> None:
    name, extra = scene.stored.describe(Stored(7))
    assert (name, extra) == ("inbox message 7", {"message_id": 7, "group": "tests"})


def test_a_stored_message_that_meets_faults_without_end_waits_uncounted(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    row, other = make_received(delivery_count=1), make_received(delivery_count=1)
    assert scene.stored.requeue(Stored(row.id), FAULT) == "requeued"
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
    scene: Scene, of_row: int, of_item: int, dead: bool, source: str, what: str
) -> None:
    row = make_received(delivery_count=of_row, source=source)
    record = received() if not source else None
    if dead:
        with pytest.raises(Reject, match=f"while the {what} ran"):
            scene.claim_stored(Stored(row.id, of_item, record))
    elif source:
        assert scene.claim_stored(Stored(row.id, of_item)).outcome is Outcome.CONSUMED


def test_a_message_without_a_handler_is_retried_as_another_release_may_have_it(scene: Scene) -> None:
    row = make_received(event_type="order.unknown", delivery_count=1)
    with pytest.raises(Retry, match=r"No handler is registered for 'order.unknown' \(removed, or not deployed yet\)"):
        scene.claim_stored(Stored(row.id))


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
        scene, row = Scene(), make_unread()
        assert scene.claim_stored(Stored(row.id, deliveries, plain(b"legacy", topic="elsewhere"))).outcome == outcome
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
        scene, row = Scene(), make_unread(**fields)
        with pytest.raises(Reject, match=reason):
            scene.claim_stored(Stored(row.id, 1, plain(b"legacy", topic="elsewhere")))
    assert InboxMessage.objects.get().source == ""


def test_a_message_that_is_gone_is_skipped(scene: Scene) -> None:
    row = make_received("dead")
    assert scene.claim_stored(Stored(row.id)).outcome is Outcome.SKIPPED
    assert scene.stored.claim_due(row.id) is None


def test_a_due_message_that_is_paused_waits_with_those_of_its_type(scene: Scene) -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    row = make_received()
    assert scene.stored.claim_due(row.id) == "requeued"
    row.refresh_from_db()
    assert waits(row) > timedelta(0)


def test_a_due_message_is_counted_before_it_is_handled(scene: Scene) -> None:
    row = make_received(delivery_count=2)
    assert scene.stored.claim_due(row.id) == Stored(row.id, 3, None)


@pytest.mark.parametrize(("retries", "later"), [(0, timedelta(0)), (1, AFTER_OTHERS), (2, AFTER_OTHERS)])
def test_after_a_pause_messages_that_have_failed_come_last(scene: Scene, retries: int, later: timedelta) -> None:
    until = timezone.now() + timedelta(days=1)
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim", until=until)
    row = make_received(retry_count=retries)
    assert scene.stored.claim_due(row.id) == "requeued"
    row.refresh_from_db()
    assert row.next_retry_at == until + later


@pytest.mark.parametrize(("seconds", "wait"), [(1.0, CLAIM_SECONDS), (90.0, 90.0)])
def test_a_stored_record_waits_for_a_registry_uncounted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, seconds: float, wait: float
) -> None:
    monkeypatch.setattr(scene.reader, "take_wait", lambda record: seconds)
    row, other = make_received(delivery_count=1), make_received(delivery_count=1)
    for item in (Stored(row.id, 1, received()), Stored(other.id)):
        scene.stored.prepare([Stored(item.id)])
        assert item.id in scene.stored.survived
        assert scene.stored.postpone(item) == "requeued"
        assert item.id not in scene.stored.survived
    for each, expected in ((row, wait), (other, CLAIM_SECONDS)):
        each.refresh_from_db()
        assert about(waits(each), timedelta(seconds=expected))
        assert each.retry_count == 0
