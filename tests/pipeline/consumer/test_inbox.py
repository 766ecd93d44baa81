"""The inbox: each event is handled once, retried from its row, in order, and never lost."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.consumer.inbox.stored import Stored
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import inbox as inbox_state
from django_outbox.state.backoff import backoff
from django_outbox.state.retry import retry
from django_outbox.worker.transactions import MAX_ATTEMPTS
from tests.support.app.models import Effect
from tests.support.inbox import Receiver, Status, make_due, make_received, only, received, statuses
from tests.support.mute import Mute, MuteReject, MuteRetry
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

A_MINUTE, AN_HOUR = timedelta(minutes=1), timedelta(hours=1)


def effect(event: Event) -> None:
    Effect.objects.create(name=str(event.payload), event_id=event.id)


def effects() -> list[str]:
    return list(Effect.objects.order_by("id").values_list("name", flat=True))


def fails(event: Event) -> None:
    effect(event)
    raise ArithmeticError("boom")


def fails_on(*payloads: Any) -> Any:
    """A handler that fails once for each of these payloads."""
    left = list(payloads)

    def handle(event: Event) -> None:
        if event.payload in left:
            left.remove(event.payload)
            fails(event)
        effect(event)

    return handle


class Killed(BaseException):
    """Stands for the end of the process; tests with real ones are among the integration tests."""


def killed(event: Event) -> None:
    effect(event)
    raise Killed


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


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
    receiver.on("order.created", effect)
    receiver.receive(received(1, id="e1"), counted=counted)

    assert receiver.receive(received(2, id="e1"), counted=counted) == ["skipped"]
    assert receiver.receive(received(3, id="e1"), received(4, id="e1"), counted=counted) == ["skipped", "skipped"]
    assert effects() == ["1"]


def test_of_copies_in_one_batch_the_first_is_handled(receiver: Receiver) -> None:
    receiver.on("order.created", effect)

    done = receiver.receive(received(1, id="a"), received(2, id="b"), received(3, id="a"), received(4, id="c"))

    assert done == ["consumed", "consumed", "skipped", "consumed"]
    assert effects() == ["1", "2", "4"]


@pytest.mark.parametrize(
    "other", [{"id": "E1"}, {"id": "e1 "}, {"source": "Warehouse"}, {"source": "warehouse ", "id": "e1"}]
)
def test_identity_is_exact(receiver: Receiver, other: dict[str, str]) -> None:
    receiver.on("order.created", effect)

    done = receiver.receive(received(1, id="e1"), received(2, **{"id": "e1", **other}))

    assert done == ["consumed", "consumed"]


def test_each_group_handles_an_event_once() -> None:
    record = received(1)
    for group in ("one", "two"):
        receiver = Receiver(group)
        receiver.on("order.created", effect)
        assert receiver.receive(record) == ["consumed"]
    assert effects() == ["1", "1"]


def test_handlers_run_in_order_in_one_transaction_with_the_row(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
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
    receiver.on("order.created", effect)
    if not fast:
        receiver.receive(received(0, id="b"))

    done = receiver.receive(received(1, id="a"), received(2, id="b"), received(3, id="c"))

    assert done == ["consumed", "consumed" if fast else "skipped", "consumed"]
    assert effects() == (["1", "2", "3"] if fast else ["0", "1", "3"])
    assert receiver.receive(received(1, id="a"), received(2, id="b")) == ["skipped", "skipped"]


# Together


def test_a_batch_is_one_insert_and_one_transaction(receiver: Receiver) -> None:
    receiver.on("order.created")
    records = [received(n, key=str(n)) for n in range(50)]

    with CaptureQueriesContext(connection) as queries:
        assert receiver.receive(*records) == ["consumed"] * 50

    asked = [q["sql"] for q in queries if not q["sql"].startswith(("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"))]
    assert len(asked) == 3, "\n".join(sql[:200] for sql in asked)


def test_a_bad_event_costs_its_neighbours_nothing(receiver: Receiver) -> None:
    receiver.on("order.created", fails_on(1, 1))

    assert receiver.receive(*(received(n) for n in range(3))) == ["consumed", "failed", "consumed"]

    assert effects() == ["0", "2"]
    assert statuses() == ["consumed", "pending", "consumed"]


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
    receiver.on("order.paid", effect)

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
        effect(event)

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
        effect(event)
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


# Failing


def test_a_failed_event_is_stored_with_its_error_and_retried_from_its_row(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.state.backoff.backoff", lambda failures: backoff(failures) + A_MINUTE)
    receiver.on("order.created", fails_on({"n": 1}))
    record = received({"n": 1}, key="k", id="e1", time="2026-01-02T03:04:05Z", headers=[("h", b"v")])

    assert receiver.receive(record) == ["failed"]

    row = only()
    assert (row.status, row.retry_count, row.delivery_count, row.payload) == ("pending", 1, 0, {"n": 1})
    assert row.last_error.startswith("ArithmeticError: boom\n")
    assert row.next_retry_at is not None
    assert timedelta(seconds=1) <= row.next_retry_at - row.updated_at - A_MINUTE < timedelta(seconds=2)
    assert receiver.receive(record) == ["skipped"]
    assert receiver.inbox.run_due(10) == []

    assert receiver.retry() == ["consumed"]

    row = only()
    assert (row.status, row.retry_count, row.last_error, row.payload, row.headers) == ("consumed", 1, "", None, {})
    assert effects() == ["{'n': 1}"]


def test_a_retried_handler_gets_the_same_event(receiver: Receiver) -> None:
    def handle(event: Event) -> None:
        receiver.handled.append(event)
        if event.attempt == 1:
            raise ArithmeticError

    receiver.on("order.created", handle)
    receiver.receive(
        received({"n": [1, None]}, key="k", id="e1", time="2026-01-02T03:04:05.678901Z", headers=[("h", b"v")])
    )

    receiver.retry()

    first, second = receiver.handled
    assert first == Event(**{name: getattr(second, name) for name in Event.__slots__} | {"attempt": 1})
    assert second.attempt == 2


def test_the_last_failure_ends_dead_with_its_reason_and_a_retry_revives(receiver: Receiver) -> None:
    broken = [True]

    def handle(event: Event) -> None:
        if broken:
            raise LookupError("no price")
        effect(event)

    receiver.on("order.created", handle)
    with outbox_settings(MAX_RETRY=2):
        receiver.receive(received(1))
    assert receiver.retry() == ["failed"]
    row = only()
    assert (row.status, row.retry_count, row.payload) == ("dead", 2, 1)
    assert row.last_error.startswith("LookupError: no price")

    broken.clear()
    assert retry(InboxMessage.objects.dead(), using="default") == 1
    assert (only().status, only().retry_count) == ("pending", 0)

    assert receiver.inbox.run_due(10) == ["consumed"]


@pytest.mark.parametrize("counted", [True, False])
def test_one_failure_is_the_last_if_no_more_are_allowed(receiver: Receiver, counted: bool) -> None:
    receiver.on("order.created", fails)
    with outbox_settings(MAX_RETRY=1):
        assert receiver.receive(received(1), counted=counted) == ["failed"]
    row = only()
    assert (row.status, row.retry_count, row.payload) == ("dead", 1, 1)


@pytest.mark.parametrize("counted", [True, False])
def test_reject_is_dead_at_once(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        effect(event)
        raise Reject("the customer is gone")

    receiver.on("order.created", handle)

    assert receiver.receive(received(1), counted=counted) == ["dead"]

    row = only()
    assert (row.status, row.last_error, row.retry_count, row.payload) == ("dead", "the customer is gone", 0, 1)
    assert effects() == []


@pytest.mark.parametrize("counted", [True, False])
def test_retry_waits_as_long_as_it_says_and_counts(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        raise Retry(timedelta(hours=2), "the bank is closed")

    receiver.on("order.created", handle)

    receiver.receive(received(1), counted=counted)

    row = only()
    assert (row.status, row.retry_count, row.last_error) == ("pending", 1, "the bank is closed")
    assert row.next_retry_at is not None
    assert row.next_retry_at - row.updated_at > timedelta(hours=1.9)


@pytest.mark.parametrize("setting", ["ignore", "dead"])
def test_what_no_handler_wants(
    receiver: Receiver, setting: str, django_assert_num_queries: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.on("order.created")
    receiver.on("audit.written", topic="another")
    with outbox_settings(UNKNOWN_EVENT=setting):
        if setting == "ignore":
            with django_assert_num_queries(0):
                assert receiver.receive(received(1, type="audit.written", value=b"{")) == ["skipped"]
        else:
            assert receiver.receive(received(1, type="audit.written")) == ["dead"]
            assert only().last_error == "No handler is registered for 'audit.written' (UNKNOWN_EVENT is 'dead')."
            assert only().payload == 1
            assert "audit.written from warehouse) is dead" in caplog.text


def test_a_stored_event_whose_handler_is_gone_is_tried_again_and_dead_in_the_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_outbox.state.backoff.backoff", lambda failures: A_MINUTE)
    make_received(event_type="order.forgotten", max_retry=2)

    assert receiver.retry() == ["failed"]
    assert receiver.inbox.run_due(10) == []  # it waits
    assert only().status == "pending"
    assert receiver.retry() == ["failed"]
    assert only().status == "dead"
    assert only().last_error == "No handler is registered for 'order.forgotten' (removed, or not deployed yet)."


def test_a_new_release_handles_what_the_old_one_beside_it_does_not_know(receiver: Receiver) -> None:
    old = Receiver()
    receiver.on("order.split", fails_on(1))
    receiver.receive(received(1, type="order.split"))

    assert old.retry() == ["failed"]
    assert receiver.retry() == ["consumed"]
    assert (effects(), statuses()) == (["1"], ["consumed"])


def test_a_failure_is_logged_with_what_an_operator_asks(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.on("order.created", lambda event: 1 / 0)

    receiver.receive(received({"secret": "hunter2"}))

    (record,) = (r for r in caplog.records if getattr(r, "action", "") == "failed")
    text, _, place = record.getMessage().partition(' ("')
    assert text == (
        f"Inbox message {only().id} (order.created from warehouse) failed (1 of 20) and is pending: "
        f"ZeroDivisionError: division by zero"
    )
    assert re.fullmatch(r'tests/pipeline/consumer/test_inbox\.py", line \d+, in <lambda>\)', place)
    assert "hunter2" not in caplog.text


# Order


def test_what_is_behind_a_failed_event_of_its_key_waits_for_it(receiver: Receiver) -> None:
    receiver.on("order.created", fails_on(1, 1))

    done = receiver.receive(received(1, key="a"), received(2, key="a"), received(3, key="b"), received(4))

    assert done == ["failed", "requeued", "consumed", "consumed"]
    first, second = InboxMessage.objects.filter(message_key="a").order_by("id")
    assert (second.status, second.retry_count, second.payload) == ("pending", 0, 2)
    assert second.next_retry_at == first.next_retry_at
    assert effects() == ["3", "4"]

    assert receiver.retry() == ["consumed", "consumed"]
    assert effects() == ["3", "4", "1", "2"]


@pytest.mark.parametrize("counted", [True, False])
def test_a_fresh_event_behind_a_pending_one_is_stored_and_not_handled(receiver: Receiver, counted: bool) -> None:
    receiver.on("order.created", effect)
    first = make_received(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="a", topic="another", next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.receive(received({"n": 2}, key="a"), counted=counted) == ["requeued"]
    assert receiver.receive(received(3, key="b"), counted=counted) == ["consumed"]

    second = InboxMessage.objects.get(payload={"n": 2})
    assert (second.status, second.delivery_count, second.next_retry_at) == ("pending", 0, first.next_retry_at)
    assert effects() == ["3"]


def test_order_is_of_one_group_and_topic(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    make_received(message_key="a", group="another", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="A", next_retry_at=timezone.now() + AN_HOUR)
    make_received(message_key="a", topic="other", next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.receive(received(1, key="a")) == ["consumed"]


def test_without_ordering_nothing_waits(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    make_received(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    with outbox_settings(ORDERING="none"):
        assert receiver.receive(received(1, key="a")) == ["consumed"]


def test_dead_events_let_others_pass_or_hold_them(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    dead = make_received(Status.DEAD, message_key="a", payload="dead")

    assert receiver.receive(received(1, key="a")) == ["consumed"]
    with outbox_settings(ON_DEAD="hold"):
        assert receiver.receive(received(2, key="a")) == ["requeued"]
        assert receiver.retry() == ["requeued"]
        retry(InboxMessage.objects.filter(id=dead.id), using="default")
        assert receiver.inbox.run_due(10) == ["consumed", "consumed"]

    assert effects() == ["1", "dead", "2"]


def test_an_unreadable_record_holds_its_key_too(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    with outbox_settings(ON_DEAD="hold"):
        done = receiver.receive(received(1, key="a"), received(key="a", value=b"{"), received(2, key="a"))
    assert done == ["consumed", "dead", "requeued"]


def test_a_failing_head_takes_all_that_is_behind_it_along(receiver: Receiver) -> None:
    receiver.on("order.created", fails)
    receiver.receive(*(received(n, key="a") for n in range(4)))

    assert receiver.retry() == ["failed", "requeued"]

    first, *others = InboxMessage.objects.order_by("id")
    assert first.retry_count == 2
    assert {other.next_retry_at for other in others} == {first.next_retry_at}
    assert {other.retry_count for other in others} == {0}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_hundred_thousand_blocked_events_do_not_keep_a_free_one_back(receiver: Receiver) -> None:
    """They come first by their due time, and all wait for one that fails."""
    receiver.on("order.created", effect)
    head = make_received(message_key="failing", next_retry_at=timezone.now() + AN_HOUR)
    columns = (
        "source, event_type, event_version, topic, {partition}, {offset}, message_key, headers, status,"
        " delivery_count, retry_count, max_retry, last_error"
    )
    numbers = {
        "postgresql": "SELECT n FROM generate_series(1, 100000) AS numbers(n)",
        "mysql": "SELECT seq AS n FROM seq_1_to_100000",
    }[connection.vendor]
    quoted = {name: connection.ops.quote_name(name) for name in ("group", "partition", "offset")}
    columns = columns.format(**quoted)
    cast = "CAST(n AS CHAR)" if connection.vendor == "mysql" else "n::text"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO django_outbox_inboxmessage ({quoted['group']}, event_id, {columns})"  # noqa: S608
            f" SELECT head.{quoted['group']}, {cast}, {columns}"
            f" FROM django_outbox_inboxmessage AS head CROSS JOIN ({numbers}) AS numbered"
        )
    make_due(id__gt=head.id)
    make_received(message_key="free", payload="free")

    assert receiver.inbox.run_due(2) == ["requeued", "consumed"]

    assert effects() == ["free"]
    assert set(
        InboxMessage.objects.filter(message_key="failing").values_list("next_retry_at", flat=True).distinct()
    ) == {head.next_retry_at}


def test_what_waits_for_one_in_hand_goes_on_as_soon_as_that_ends(receiver: Receiver) -> None:
    """It was looked at while the other was handled elsewhere, and told to look again later."""
    receiver.on("order.created", effect)
    first = make_received(message_key="a", payload=1)
    second = make_received(message_key="a", payload=2, next_retry_at=timezone.now() + AN_HOUR)
    third = make_received(message_key="a", payload=3, retry_count=1, next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.inbox.run_due(10) == ["consumed", "consumed"]

    assert [InboxMessage.objects.get(id=row.id).status for row in (first, second, third)] == [
        "consumed",
        "consumed",
        "pending",  # it has failed, and waits for its own sake
    ]


# Processes that end


def test_careful_deliveries_are_counted_before_the_handler(receiver: Receiver) -> None:
    seen: list[tuple[str, int]] = []
    receiver.on("order.created", lambda event: seen.append((only().status, only().delivery_count)))

    assert receiver.receive(received(1), counted=True) == ["consumed"]

    assert seen == [("pending", 1)]
    assert (only().status, only().payload) == ("consumed", None)


def test_an_event_that_takes_its_process_down_is_dead_after_max_deliveries(receiver: Receiver) -> None:
    receiver.on("killer", killed)
    receiver.on("order.created", effect)
    record = received(1, type="killer")
    with pytest.raises(Killed):
        receiver.receive(record, counted=True)
    for _ in range(4):
        receiver.restart()
        assert receiver.receive(record, counted=True) == ["skipped"]
        with pytest.raises(Killed):
            receiver.retry()
    receiver.restart()

    assert receiver.retry() == ["dead"]

    assert only().last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")
    assert effects() == []


def test_an_event_that_only_fails_is_never_taken_for_a_killer(receiver: Receiver) -> None:
    receiver.on("order.created", fails)
    receiver.receive(received(1), counted=True)

    for _ in range(7):
        receiver.restart()
        receiver.retry()

    row = only()
    assert (row.status, row.retry_count, row.delivery_count) == ("pending", 8, 0)


def test_a_claimed_event_is_not_claimed_again_at_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the claim and the lock: another consumer must not count the same delivery."""
    monkeypatch.setitem(inbox_state.count_delivery.__kwdefaults__, "wait", A_MINUTE)
    receiver.on("order.created", killed)
    make_received()
    with pytest.raises(Killed):
        receiver.retry()

    assert receiver.inbox.run_due(10) == []
    assert only().delivery_count == 1


def test_a_delivery_that_another_consumer_has_ended_is_not_gone_on_with(receiver: Receiver) -> None:
    """It failed there, so the event waits for its next try."""
    receiver.on("order.created", effect)
    row = make_received(delivery_count=0, retry_count=1, next_retry_at=timezone.now() + AN_HOUR)

    assert receiver.inbox.handle(Stored(row.id)) == "skipped"

    assert (only().status, effects()) == ("pending", [])


# Faults that pass


class PassingFault(OperationalError):
    """A deadlock, as PostgreSQL tells it."""

    sqlstate = "40P01"


@pytest.mark.parametrize("counted", [True, False])
def test_a_deadlock_is_tried_again_and_not_counted(receiver: Receiver, counted: bool) -> None:
    faults = [PassingFault("deadlock detected"), PassingFault("deadlock detected")]

    def handle(event: Event) -> None:
        if faults:
            raise faults.pop()
        effect(event)

    receiver.on("order.created", handle)

    assert receiver.receive(received(1), counted=counted) == ["consumed"]
    assert (only().retry_count, effects()) == (0, ["1"])


@pytest.mark.parametrize("counted", [True, False])
def test_an_event_that_deadlocks_again_and_again_lets_others_pass(receiver: Receiver, counted: bool) -> None:
    def handle(event: Event) -> None:
        raise PassingFault("deadlock detected")

    receiver.on("unlucky", handle)
    receiver.on("order.created", effect)

    done = receiver.receive(received(1, type="unlucky"), received(2), counted=counted)

    assert done == ["requeued", "consumed"]
    row = InboxMessage.objects.get(status="pending")
    assert (row.retry_count, row.delivery_count, row.last_error, row.payload) == (0, 0, "", 1)
    assert row.next_retry_at is not None
    assert row.next_retry_at - row.updated_at > timedelta(seconds=30)
    assert receiver.retry() == ["requeued"]


def test_a_database_that_goes_away_leaves_what_is_not_done(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[int] = [3]

    def handle(event: Event) -> None:
        if event.payload in gone:
            raise OperationalError("the connection is lost")
        effect(event)

    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    receiver.on("order.created", handle)
    records = [received(n) for n in range(5)]

    with pytest.raises(OperationalError, match="lost"):
        receiver.inbox.receive(records)
    for record in records[:3]:
        assert receiver.inbox.receive([record]) == ["consumed"]
    with pytest.raises(OperationalError, match="lost"):
        receiver.inbox.receive(records[3:])
    gone.clear()

    assert receiver.receive(*records[3:]) == ["consumed"] * 2
    assert statuses() == ["consumed"] * 5


def test_a_delivery_that_the_process_outlives_is_counted_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(event: Event) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    receiver.on("order.created", handle)
    make_received()

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(OperationalError, match="lost"):
            receiver.retry()

    assert (only().status, only().delivery_count, only().retry_count) == ("pending", 1, 0)


# Groups


def test_a_group_that_handlers_name_runs_those_alone() -> None:
    receiver = Receiver("reports")
    receiver.on("order.created", effect, group="reports")
    receiver.on("order.created", fails)

    assert receiver.inbox.takes_all
    assert receiver.receive(received(1, source="tests", outboxid="7")) == ["consumed"]
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert receiver.receive(received(1, type="order.paid")) == ["skipped"]


@pytest.mark.parametrize("group", ["tests", "another"])
def test_the_main_group_runs_handlers_without_a_group_and_those_that_name_it(group: str) -> None:
    receiver = Receiver(group)
    receiver.on("order.created", effect)
    if group == "tests":
        receiver.on("order.created", effect, group="tests")
    receiver.on("order.created", fails, group="reports")

    assert not receiver.inbox.takes_all
    assert receiver.receive(received(1)) == ["consumed"]
    assert effects() == ["1", "1"][: 2 if group == "tests" else 1]


def test_stored_events_are_retried_by_their_own_group_alone(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    make_received(group="another")

    assert receiver.retry() == []


def test_a_group_whose_name_is_too_long_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="has 250 characters; 249 are allowed"):
        _ = Receiver("g" * 250).inbox


def test_due_times_come_from_the_databases_clock(receiver: Receiver) -> None:
    receiver.on("order.created", effect)
    make_received(next_retry_at=DatabaseNow() + timedelta(seconds=30))
    assert (receiver.inbox.has_due(), receiver.inbox.run_due(10)) == (False, [])

    make_due()

    assert (receiver.inbox.has_due(), receiver.inbox.run_due(10)) == (True, ["consumed"])
