"""The inbox: each event is handled once by each group, and a batch in one transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_outbox.events.event import Event
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.effects import effect_of_payload, effects, fails, fails_on
from tests.support.inbox import Receiver, make_due, make_received, only, received, statuses
from tests.support.mute import Mute, MuteReject, MuteRetry
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

A_MINUTE, AN_HOUR = timedelta(minutes=1), timedelta(hours=1)


# Once


def test_a_fresh_event_is_handled_complete(receiver: Receiver) -> None:
    receiver.on("order.created")
    record = received(
        {"order": [1, "Zoë"]}, key="k", id="e1", time="2026-01-02T03:04:05Z", eventversion="v2", headers=[("h", b"v")]
    )

    assert receiver.receive(record) == ["consumed"]

    assert receiver.handled == [
        Event(
            type="order.created",
            payload={"order": [1, "Zoë"]},
            key="k",
            headers={"h": "v"},
            topic="elsewhere",
            version="v2",
            id="e1",
            source="warehouse",
            time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            attempt=1,
            partition=0,
            offset=record.offset,
        )
    ]


def test_success_keeps_only_what_deduplication_needs(receiver: Receiver) -> None:
    receiver.on("order.created")

    receiver.receive(received({"secret": 1}, key="k", id="e1", headers=[("h", b"v")]))

    row = only()
    assert (row.group, row.source, row.event_id, row.status) == ("tests", "warehouse", "e1", "consumed")
    assert (row.payload, row.headers, row.raw_value, row.raw_key) == (None, {}, None, None)
    assert row.consumed_at is not None


@pytest.mark.parametrize("counted", [True, False])
def test_a_copy_is_skipped_wherever_it_comes_from(receiver: Receiver, counted: bool) -> None:
    receiver.on("order.created", effect_of_payload)
    receiver.receive(received(1, id="e1"), counted=counted)

    assert receiver.receive(received(2, id="e1"), counted=counted) == ["skipped"]
    assert receiver.receive(received(3, id="e1"), received(4, id="e1"), counted=counted) == ["skipped", "skipped"]
    assert effects() == ["1"]


def test_of_copies_in_one_batch_the_first_is_handled(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)

    done = receiver.receive(received(1, id="a"), received(2, id="b"), received(3, id="a"), received(4, id="c"))

    assert done == ["consumed", "consumed", "skipped", "consumed"]
    assert effects() == ["1", "2", "4"]


@pytest.mark.parametrize(
    "other", [{"id": "E1"}, {"id": "e1 "}, {"source": "Warehouse"}, {"source": "warehouse ", "id": "e1"}]
)
def test_identity_is_exact(receiver: Receiver, other: dict[str, str]) -> None:
    receiver.on("order.created", effect_of_payload)

    done = receiver.receive(received(1, id="e1"), received(2, **{"id": "e1", **other}))

    assert done == ["consumed", "consumed"]


def test_each_group_handles_an_event_once() -> None:
    record = received(1)
    for group in ("one", "two"):
        receiver = Receiver(group)
        receiver.on("order.created", effect_of_payload)
        assert receiver.receive(record) == ["consumed"]
    assert effects() == ["1", "1"]


def test_handlers_run_in_order_in_one_transaction_with_the_row(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    receiver.on("order.created", fails)

    assert receiver.receive(received(1)) == ["failed"]

    assert effects() == []
    assert statuses() == ["pending"]


@pytest.mark.parametrize("fast", [True, False])
def test_a_database_that_does_not_return_what_it_inserted_finds_copies_too(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """As MySQL, which has no RETURNING."""
    monkeypatch.setattr(type(connection.features), "can_return_rows_from_bulk_insert", False)
    receiver.on("order.created", effect_of_payload)
    if not fast:
        receiver.receive(received(0, id="b"))

    done = receiver.receive(received(1, id="a"), received(2, id="b"), received(3, id="c"))

    assert done == ["consumed", "consumed" if fast else "skipped", "consumed"]
    assert effects() == (["1", "2", "3"] if fast else ["0", "1", "3"])
    assert receiver.receive(received(1, id="a"), received(2, id="b")) == ["skipped", "skipped"]


# Together


@pytest.mark.databases("sqlite", "postgresql", "mariadb")  # MySQL's inserts return nothing: the rows are counted
def test_a_batch_is_one_insert_and_one_transaction(receiver: Receiver) -> None:
    receiver.on("order.created")
    records = [received(n, key=str(n)) for n in range(50)]

    with CaptureQueriesContext(connection) as queries:
        assert receiver.receive(*records) == ["consumed"] * 50

    asked = [q["sql"] for q in queries if not q["sql"].startswith(("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"))]
    asked = [sql for sql in asked if "django_outbox_pause" not in sql]  # read every two seconds
    assert len(asked) == 3, "\n".join(sql[:200] for sql in asked)


def test_a_bad_event_costs_its_neighbours_nothing(receiver: Receiver) -> None:
    receiver.on("order.created", fails_on(1, 1))

    assert receiver.receive(*(received(n) for n in range(3))) == ["consumed", "failed", "consumed"]

    assert effects() == ["0", "2"]
    assert statuses() == ["consumed", "pending", "consumed"]


def test_what_is_before_a_bad_event_is_handled_together_and_what_is_behind_it_in_its_key_waits(
    receiver: Receiver,
) -> None:
    calls: list[int] = []

    def handle(event: Event) -> None:
        calls.append(event.payload)
        effect_of_payload(event)
        if event.payload == 5:
            raise ArithmeticError

    receiver.on("order.created", handle)
    records = [received(n, key="k" if n in (3, 5, 7) else str(n)) for n in range(10)]

    outcomes = receiver.receive(*records)

    assert outcomes == [*["consumed"] * 5, "failed", "consumed", "requeued", "consumed", "consumed"]
    assert calls == [*range(6), *range(7), 8, 9]
    assert effects() == [str(n) for n in (0, 1, 2, 3, 4, 6, 8, 9)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("payloads", "counted"), [([0, 1, 2, 3], False), ([1], False), ([1], True)])
def test_what_is_done_on_commit_is_lost_for_no_neighbour(
    receiver: Receiver, payloads: list[int], counted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    committed: list[int] = []

    def on_commit(payload: int) -> None:
        if payload == 1:
            raise ArithmeticError("mail server")
        committed.append(payload)

    receiver.on("order.created", lambda event: transaction.on_commit(lambda: on_commit(event.payload)))

    done = receiver.receive(*map(received, payloads), counted=counted)

    assert done == ["consumed"] * len(payloads)
    assert committed == [payload for payload in payloads if payload != 1]
    assert "mail server" in caplog.text


@pytest.mark.parametrize("kind", [Mute, MuteReject, MuteRetry])
@pytest.mark.parametrize("counted", [True, False])
def test_an_error_that_cannot_say_what_it_is_is_a_failure_like_any_other(
    receiver: Receiver, kind: type[Exception], counted: bool
) -> None:
    def fail(event: Event) -> None:
        raise kind

    receiver.on("order.created", fail)
    receiver.on("order.paid", effect_of_payload)

    done = receiver.receive(received(1), received(2, type="order.paid"), counted=counted)

    assert done == ["dead" if kind is MuteReject else "failed", "consumed"]
    assert "<exception str() failed>" in InboxMessage.objects.earliest("id").last_error


def test_a_handler_that_changes_its_payload_and_fails_gets_it_unchanged(receiver: Receiver) -> None:
    def handle(event: Event) -> None:
        receiver.handled.append(dict(event.payload))  # type: ignore[arg-type]
        event.payload.clear()
        raise ArithmeticError

    receiver.on("order.created", handle)

    receiver.receive(received({"a": 1}), received({"a": 1}))
    receiver.retry()

    assert receiver.handled == [{"a": 1}] * 5


def test_a_batch_ends_after_about_a_second_and_leaves_no_trace_of_the_rest() -> None:
    now = [0.0]

    def handle(event: Event) -> None:
        now[0] += 0.4
        effect_of_payload(event)

    receiver = Receiver(clock=lambda: now[0])
    receiver.on("order.created", handle)
    records = [received(n) for n in range(5)]

    assert receiver.inbox.receive(records) == ["consumed"] * 3
    assert statuses() == ["consumed"] * 3
    assert receiver.inbox.receive(records[3:]) == ["consumed"] * 2

    assert effects() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("together", [True, False])
def test_a_handler_that_breaks_the_transaction_fails_alone(receiver: Receiver, together: bool) -> None:
    """It hides a database error; nothing of that transaction can be committed, and nothing is lost."""

    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == "bad":
            try:
                with transaction.atomic(savepoint=False):
                    make_received(event_id=None)
            except IntegrityError:
                pass

    receiver.on("order.created", handle)
    records = [received("bad"), received("good")][: 1 + together]

    assert receiver.receive(*records) == ["failed", "consumed"][: 1 + together]

    assert effects() == ["good"][:together]
    assert "TransactionManagementError" in InboxMessage.objects.get(status="pending").last_error


def test_a_handler_that_removes_the_row_fails(receiver: Receiver) -> None:
    receiver.on("order.created", lambda event: InboxMessage.objects.all().delete())

    assert receiver.receive(received(1)) == ["failed"]
    assert statuses() == ["pending"]


# Groups


def test_a_group_that_handlers_name_runs_those_alone() -> None:
    receiver = Receiver("reports")
    receiver.on("order.created", effect_of_payload, group="reports")
    receiver.on("order.created", fails)

    assert receiver.inbox.takes_all
    assert receiver.receive(received(1, source="tests", outboxid="7")) == ["consumed"]
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert receiver.receive(received(1, type="order.paid")) == ["skipped"]


@pytest.mark.parametrize("group", ["tests", "another"])
def test_the_main_group_runs_handlers_without_a_group_and_those_that_name_it(group: str) -> None:
    receiver = Receiver(group)
    receiver.on("order.created", effect_of_payload)
    if group == "tests":
        receiver.on("order.created", effect_of_payload, group="tests")
    receiver.on("order.created", fails, group="reports")

    assert not receiver.inbox.takes_all
    assert receiver.receive(received(1)) == ["consumed"]
    assert effects() == ["1", "1"][: 2 if group == "tests" else 1]


def test_stored_events_are_retried_by_their_own_group_alone(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    make_received(group="another")

    assert receiver.retry() == []


def test_a_group_whose_name_is_too_long_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=f"group '{'g' * 20}'... has 250 characters; 249 are allowed"):
        _ = Receiver("g" * 250).inbox


def test_due_times_come_from_the_databases_clock(receiver: Receiver) -> None:
    receiver.on("order.created", effect_of_payload)
    make_received(next_retry_at=DatabaseNow() + timedelta(seconds=30))
    assert (receiver.inbox.has_due(), receiver.run_due(10)) == (False, [])

    make_due()

    assert (receiver.inbox.has_due(), receiver.run_due(10)) == (True, ["consumed"])
