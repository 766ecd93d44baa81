"""The fast path: many messages in one transaction, and what ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject
from django_outbox.models import OutboxMessage
from django_outbox.worker.stop import Stop
from tests.support.app.models import Effect
from tests.support.effects import effect_of_payload, effects
from tests.support.outbox import Pipeline, Status, in_thread, make_due, make_message, row, statuses

pytestmark = pytest.mark.django_db(transaction=True)

AN_HOUR = timedelta(hours=1)


class WarmPipeline(Pipeline):
    """At work for a while; ``handle`` is what each test wants done with the events of type order.paid."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(steady=True, clock=clock)
        self.handle: Callable[[Event], Any] = effect_of_payload
        self.on("order.created", effect_of_payload)
        self.on("order.paid", lambda event: self.handle(event))
        self.consumer.lanes.engines[0].transaction_size = 100  # it has learned how many fit into a second


@pytest.fixture
def pipeline() -> WarmPipeline:
    return WarmPipeline()


def test_a_message_that_took_its_process_down_too_often_is_dead_and_its_neighbours_are_handled(
    pipeline: WarmPipeline,
) -> None:
    make_message(payload="before")
    killer = make_message(payload="killer", delivery_count=6)
    make_message(payload="after")
    make_message(payload="later")
    pipeline.relay.run_once()

    pipeline.run()

    assert row(killer).status == Status.DEAD
    assert row(killer).last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")
    assert effects() == ["before", "after", "later"]


def test_a_hundred_messages_cost_one_transaction_and_three_statements_more(pipeline: WarmPipeline) -> None:
    for number in range(100):
        make_message(payload=number, message_key=f"k{number % 10}")
    pipeline.relay.run_once()

    with CaptureQueriesContext(connection) as queries:
        batch = pipeline.consumer.run_once()

    assert batch.consumed == 100
    assert effects() == [str(number) for number in range(100)]
    elsewhere = ("tests_effect", "INSERT", "inboxmessage", "django_outbox_pause")
    statements = [q["sql"] for q in queries if not any(name in q["sql"] for name in elsewhere)]
    begins = [sql for sql in statements if sql.startswith("BEGIN")]
    assert len(begins) == 1, begins
    assert (
        len([sql for sql in statements if not sql.startswith(("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "DISCARD"))])
        == 3
    ), statements


def test_one_that_fails_costs_its_neighbours_nothing(pipeline: WarmPipeline) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 5:
            raise ArithmeticError("boom")

    pipeline.handle = handle
    messages = [make_message(event_type="order.paid", payload=number) for number in range(10)]
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.failed) == (9, 1)
    assert effects() == [str(number) for number in range(10) if number != 5]
    assert [(m.status, m.retry_count) for m in map(row, messages)] == [
        (Status.PENDING, 1) if number == 5 else (Status.CONSUMED, 0) for number in range(10)
    ]


class Failing(Exception):
    """What a handler raises that fails."""


def fails(pipeline: WarmPipeline, *payloads: int) -> list[int]:
    """Let the handler fail with events of these payloads. Returns the payloads it was called with, in a list that grows."""
    calls: list[int] = []

    def handle(event: Event) -> None:
        calls.append(event.payload)
        effect_of_payload(event)
        if event.payload in payloads:
            raise Failing

    pipeline.handle = handle
    return calls


def publish(pipeline: WarmPipeline, number: int) -> list[OutboxMessage]:
    """Events with the payloads from 0 on."""
    messages = [make_message(event_type="order.paid", payload=payload) for payload in range(number)]
    pipeline.relay.run_once()
    return messages


@pytest.mark.parametrize(
    ("bad", "calls"),
    [
        pytest.param({50}, [*range(51), *range(50), 50, *range(51, 100)], id="in the middle"),
        pytest.param({0}, [0, 0, *range(1, 100)], id="first"),
        pytest.param({99}, [*range(100), *range(99), 99], id="last"),
        pytest.param(
            {30, 60}, [*range(31), *range(30), 30, *range(31, 61), *range(32, 60), 60, *range(61, 100)], id="two"
        ),
        pytest.param({49, 50}, [*range(50), *range(100)], id="neighbours"),
        pytest.param({1}, [0, 1, 0, 1, *range(2, 100)], id="second"),
        pytest.param({*range(100)}, [0, *range(100)], id="all"),
    ],
)
def test_only_one_that_fails_is_handled_alone(pipeline: WarmPipeline, bad: set[int], calls: list[int]) -> None:
    called = fails(pipeline, *bad)
    messages = publish(pipeline, 100)

    with CaptureQueriesContext(connection) as queries:
        batch = pipeline.consumer.run_once()

    assert called == calls
    assert (batch.consumed, batch.failed) == (100 - len(bad), len(bad))
    assert [number for number, message in enumerate(messages) if row(message).status == Status.PENDING] == [
        *sorted(bad)
    ]
    consumed = [query["sql"] for query in queries if "'consumed'" in query["sql"] and "UPDATE" in query["sql"]]
    assert len(consumed) < 10  # others share their transactions, but for those next to a failure


def test_one_that_fails_beside_others_only_has_not_failed(pipeline: WarmPipeline) -> None:
    """What an earlier one did in the same transaction may be to blame."""
    together: list[int] = []

    def handle(event: Event) -> None:
        together.append(event.payload)
        transaction.on_commit(together.clear)
        if event.payload == 7 and 3 in together:
            together.clear()
            raise Failing
        effect_of_payload(event)

    pipeline.handle = handle
    messages = publish(pipeline, 10)

    assert pipeline.consumer.run_once().consumed == 10
    assert effects() == [str(number) for number in range(10)]
    assert {row(message).retry_count for message in messages} == {0}


def test_a_handler_that_fails_earlier_each_time_gets_them_one_by_one_in_the_end(pipeline: WarmPipeline) -> None:
    calls: list[int] = []
    ends = [*range(100)]

    def handle(event: Event) -> None:
        calls.append(event.payload)
        if ends and event.payload == ends[-1]:
            ends.pop()
            raise Failing

    pipeline.handle = handle
    publish(pipeline, 100)
    for _ in range(100):
        pipeline.consumer.run_once()
    assert len(calls) < 6 * 100


def test_what_is_before_a_failure_is_handled_together_for_about_a_second_too() -> None:
    now, calls = [0.0], []
    pipeline = WarmPipeline(clock=lambda: now[0])

    def handle(event: Event) -> None:
        if event.payload in calls:  # the first time they were fast
            now[0] += 0.3
        calls.append(event.payload)
        if event.payload == 8:
            raise Failing
        effect_of_payload(event)

    pipeline.handle = handle
    publish(pipeline, 10)

    batch = pipeline.consumer.run_once()

    assert calls == [*range(9), *range(10)]
    assert (batch.consumed, batch.failed) == (9, 1)
    assert effects() == [str(number) for number in range(10) if number != 8]


def test_one_that_waits_and_one_that_fails_do_not_take_each_others_outcome(pipeline: WarmPipeline) -> None:
    fails(pipeline, 3)
    for number in range(2):
        make_message(event_type="order.paid", payload=number)
    held = make_message(event_type="order.paid", payload=2, message_key="h")
    bad = make_message(event_type="order.paid", payload=3)
    make_message(event_type="order.paid", payload=4)
    pipeline.relay.run_once()
    make_message(id=1, message_key="h", next_retry_at=timezone.now() + AN_HOUR)

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.requeued, batch.failed) == (3, 1, 1)
    assert (row(held).status, row(held).retry_count) == ("pending", 0)
    assert (row(bad).status, row(bad).retry_count) == ("pending", 1)
    assert effects() == ["0", "1", "4"]


def test_an_error_after_the_handlers_blames_none_and_each_is_handled_alone(pipeline: WarmPipeline) -> None:
    calls = fails(pipeline)
    messages = publish(pipeline, 5)
    inner, bad = pipeline.handle, messages[3].id

    def handle(event: Event) -> None:
        inner(event)
        if event.payload == 3:
            OutboxMessage.objects.filter(id=bad).update(publish_count=7)  # its state cannot be stored any more

    pipeline.handle = handle
    batch = pipeline.consumer.run_once()
    assert (batch.consumed, batch.failed) == (4, 1)
    assert calls == [*range(5), *range(5)]
    assert effects() == ["0", "1", "2", "4"]


def test_one_that_is_rejected_or_breaks_the_transaction_costs_its_neighbours_nothing(pipeline: WarmPipeline) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 2:
            raise Reject("never")
        if event.payload == 3:
            with suppress(IntegrityError):  # without a savepoint, so the transaction is broken
                Effect.objects.create(id=Effect.objects.latest("id").id, name="again", event_id="x")

    pipeline.handle = handle
    messages = [make_message(event_type="order.paid", payload=number) for number in range(6)]
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert effects() == ["0", "1", "4", "5"]
    assert (batch.consumed, batch.failed, batch.dead) == (4, 1, 1)
    assert (row(messages[2]).status, row(messages[3]).status) == (Status.DEAD, Status.PENDING)


def test_it_ends_after_about_a_second_and_goes_on_in_the_next_transaction() -> None:
    now = [0.0]
    pipeline = Pipeline(steady=True, clock=lambda: now[0])
    pipeline.on("order.created", lambda event: now.__setitem__(0, now[0] + 0.3))
    for number in range(12):
        make_message(payload=number)
    pipeline.relay.run_once()

    with CaptureQueriesContext(connection) as queries:
        pipeline.consumer.run_once()

    commits = [q["sql"] for q in queries].count("COMMIT")
    assert statuses() == ["consumed"] * 12
    # Two to begin with, then four at a time: the fourth begins before the second is over.
    assert commits == 4


def test_a_stop_ends_the_transaction_after_the_message_in_hand(stop: Stop, pipeline: WarmPipeline) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 2:
            stop.request()

    pipeline.handle = handle
    for number in range(6):
        make_message(event_type="order.paid", payload=number)
    pipeline.relay.run_once()

    pipeline.consumer.run(stop)

    assert effects() == ["0", "1", "2"]
    assert statuses() == ["consumed"] * 3 + ["published"] * 3


def test_messages_of_one_key_are_handled_in_the_order_of_their_ids(pipeline: WarmPipeline) -> None:
    """The records come in another order, as after a retry of the first."""
    first, second, third = (
        make_message(payload=n, message_key="k", next_retry_at=timezone.now() + AN_HOUR, publish_count=count)
        for n, count in [("1", 1), ("2", 0), ("3", 0)]
    )
    other = make_message(payload="other", message_key="o")
    for message in (second, first):
        make_due(message)
        OutboxMessage.objects.exclude(id=message.id).filter(message_key="k").update(topic="elsewhere")
        pipeline.relay.run_once()
        OutboxMessage.objects.filter(topic="elsewhere").update(topic="outbox")
    make_due(third)
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert batch.requeued == 0
    pipeline.run()
    assert [name for name in effects() if name != "other"] == ["1", "2", "3"]
    assert row(other).status == Status.CONSUMED


def test_what_waits_behind_an_unsent_message_is_requeued_and_the_rest_goes_on(pipeline: WarmPipeline) -> None:
    until = timezone.now() + AN_HOUR
    before = [make_message(payload=number, message_key=f"k{number}") for number in range(4)]
    held = make_message(payload="held", message_key="h")
    after = [make_message(payload=number, message_key=f"k{number}") for number in range(4, 8)]
    pipeline.relay.run_once()
    make_message(id=1, payload="first", message_key="h", next_retry_at=until)

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.requeued) == (8, 1)
    assert {row(m).status for m in before + after} == {"consumed"}
    assert (row(held).status, row(held).retry_count, row(held).next_retry_at) == ("pending", 0, row(1).next_retry_at)


def test_many_that_wait_are_requeued_one_after_the_other(pipeline: WarmPipeline) -> None:
    first = make_message(message_key="h", topic="elsewhere", next_retry_at=timezone.now() + AN_HOUR)
    for number in range(50):
        make_message(payload=number, message_key="h")
    pipeline.relay.run_once()
    OutboxMessage.objects.filter(id=first.id).update(topic="outbox")

    with CaptureQueriesContext(connection) as queries:
        batch = pipeline.consumer.run_once()

    assert batch.requeued == 50
    begins = [query["sql"] for query in queries if query["sql"].startswith("BEGIN")]
    assert len(begins) <= 51 + 1


def test_a_message_that_comes_twice_in_a_batch_is_handled_once(pipeline: WarmPipeline) -> None:
    message, other = make_message(payload=1), make_message(payload=2)
    pipeline.relay.run_once()
    OutboxMessage.objects.filter(id=message.id).update(partition=None, offset=None)  # a broker that does not tell
    pipeline.deliver(message, publish_count=0)

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (2, 1)
    assert sorted(effects()) == ["1", "2"]
    assert row(other).status == "consumed"


def test_what_is_done_on_commit_is_lost_for_no_neighbour(
    pipeline: WarmPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    committed: list[Any] = []

    def on_commit(payload: Any) -> None:
        if payload == 1:
            raise ArithmeticError("mail server")
        committed.append(payload)

    pipeline.handle = lambda event: transaction.on_commit(lambda: on_commit(event.payload))
    for number in range(4):
        make_message(event_type="order.paid", payload=number)
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 4
    assert committed == [0, 2, 3]
    assert "mail server" in caplog.text


def test_a_handler_that_changes_a_later_message_has_it_handled_by_itself(pipeline: WarmPipeline) -> None:
    messages = []

    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 0:
            OutboxMessage.objects.filter(id=messages[2].id).delete()

    pipeline.handle = handle
    messages += [make_message(event_type="order.paid", payload=number) for number in range(4)]
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (3, 1)
    assert effects() == ["0", "1", "3"]


def test_a_passing_fault_is_tried_again_and_counted_on_none(pipeline: WarmPipeline) -> None:
    class Deadlock(OperationalError):
        sqlstate = "40P01"

    faults = [Deadlock("deadlock detected")]

    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 3 and faults:
            raise faults.pop()

    pipeline.handle = handle
    for number in range(6):
        make_message(event_type="order.paid", payload=number)
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 6
    assert effects() == [str(number) for number in range(6)]
    assert set(OutboxMessage.objects.values_list("retry_count", flat=True)) == {0}


@pytest.mark.databases("mariadb")
def test_a_deadlock_that_a_handler_swallows_loses_no_effect(pipeline: WarmPipeline) -> None:
    """InnoDB rolls the whole transaction back, and would run what follows in another one."""
    rows = [Effect.objects.create(name=f"seed {n}", event_id="x") for n in range(300)]
    theirs, mine = threading.Event(), threading.Event()
    swallowed = []

    def handle(event: Event) -> None:
        effect_of_payload(event)
        Effect.objects.filter(id=rows[0].id).update(name="mine")
        mine.set()
        try:
            list(Effect.objects.select_for_update().filter(id=rows[1].id))
        except OperationalError as error:
            swallowed.append(error)

    def other() -> None:
        with transaction.atomic():  # heavier than the other, which so is the victim
            Effect.objects.filter(id__in=[each.id for each in rows[1:]]).update(name="theirs")
            theirs.set()
            assert mine.wait(30)
            Effect.objects.filter(id=rows[0].id).update(name="theirs")

    pipeline.handle = handle
    for number in range(3):
        make_message(payload=number)
    make_message(event_type="order.paid", payload=3)
    pipeline.relay.run_once()

    with in_thread(other):
        assert theirs.wait(30)
        pipeline.consumer.run_once()

    assert swallowed
    assert statuses() == ["consumed"] * 4
    assert effects()[300:] == ["0", "1", "2", "3"]


@pytest.mark.databases("postgresql")
def test_a_connection_that_is_lost_in_the_middle_loses_and_doubles_nothing(pipeline: WarmPipeline) -> None:
    lose = [True]

    def handle(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 3 and lose:
            lose.clear()
            pid = connection.connection.info.backend_pid
            other = connections["default"].copy()
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
            other.close()

    pipeline.handle = handle
    for number in range(6):
        make_message(event_type="order.paid", payload=number)
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 6
    assert effects() == [str(number) for number in range(6)]
    assert set(OutboxMessage.objects.values_list("retry_count", flat=True)) == {0}


def test_foreign_and_unknown_records_between_are_passed_over(pipeline: WarmPipeline) -> None:
    for number in range(3):
        make_message(payload=number)
        make_message(event_type="nobody.wants.it")
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert (batch.received, batch.consumed, batch.skipped) == (6, 3, 3)
    assert statuses() == ["consumed", "published"] * 3


def test_the_only_message_with_a_handler_among_others_is_handled_once_when_it_fails(pipeline: WarmPipeline) -> None:
    calls: list[str] = []

    def handle(event: Event) -> None:
        calls.append(event.payload)
        raise ZeroDivisionError

    pipeline.handle = handle
    for payload in ("before", "wanted", "after"):
        make_message(event_type="order.paid" if payload == "wanted" else "nobody.wants.it", payload=payload)
    pipeline.relay.run_once()
    pipeline.consumer.run_once()
    assert calls == ["wanted"]
    assert statuses() == [Status.PUBLISHED, Status.PENDING, Status.PUBLISHED]


def test_events_without_a_handler_may_be_dead(pipeline: WarmPipeline, settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "UNKNOWN_EVENT": "dead"}
    for event_type in ("order.created", "nobody.wants.it", "order.created"):
        make_message(event_type=event_type)
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.dead) == (2, 1)
    assert statuses() == ["consumed", "dead", "consumed"]
