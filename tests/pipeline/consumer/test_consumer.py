"""The consumer: what makes a handler run, once, and what becomes of each record."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import uuid
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_outbox import publish
from django_outbox.brokers.base import Record, Subscription, TopicForbidden
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.events.event import Event
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, Reject, Retry, TopicNotReadable
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from django_outbox.state.retry import retry
from django_outbox.worker.stop import Stop
from tests.support.app.models import Effect
from tests.support.mute import Mute, MuteReject, MuteRetry
from tests.support.outbox import (
    Pipeline,
    Status,
    in_thread,
    is_waiting_for_a_lock,
    make_due,
    make_message,
    memory_broker,
    publish_again,
    row,
    statuses,
)
from tests.support.overrides import outbox_settings
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db


def effect(event: Event) -> None:
    Effect.objects.create(name=event.type, event_id=event.id)


def effects() -> list[str]:
    return list(Effect.objects.order_by("id").values_list("name", flat=True))


def send(broker: MemoryBroker, *, value: bytes = b"{}", headers: Any = (), topic: str = "outbox") -> None:
    """Put any record into the log."""
    broker.missing_topics([topic])
    broker.producer(1).send([Record(topic, None, value, tuple(headers))], 1)


@pytest.fixture(params=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """With a consumer that has just started, or one that has been at work for a while."""
    return Pipeline(steady=request.param == "steady")


# The whole way


def test_a_published_event_reaches_its_handler_complete(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    with transaction.atomic():
        message = publish("order.created", {"order": [1, "Zoë"]}, key="k", headers={"h": "v"}, version="v2")

    pipeline.run()

    (event,) = pipeline.handled
    assert event == Event(
        type="order.created",
        payload={"order": [1, "Zoë"]},
        key="k",
        headers={"h": "v"},
        topic="outbox",
        version="v2",
        id=str(message.event_id),
        source="tests",
        time=message.created_at,
        attempt=1,
        partition=0,
        offset=0,
    )
    assert row(message).status == Status.CONSUMED


def test_effects_and_state_are_committed_together(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message()

    pipeline.run()

    assert Effect.objects.get().event_id == str(message.event_id)
    assert row(message).status == Status.CONSUMED


def test_handlers_run_in_order_in_one_transaction(pipeline: Pipeline) -> None:
    order: list[str] = []
    pipeline.on("order.created", effect)
    pipeline.on("order.created", lambda event: order.append("second"))

    def third(event: Event) -> None:
        order.append("third")
        raise ArithmeticError("boom")

    pipeline.on("order.created", third)
    message = make_message()

    pipeline.turn()

    assert order == ["second", "third"]
    assert not effects()
    assert row(message).status == Status.PENDING


def test_a_handler_may_publish_in_its_own_transaction(pipeline: Pipeline) -> None:
    pipeline.on("order.created", lambda event: publish("order.shipped", None))
    pipeline.on("order.shipped", effect)
    make_message()

    pipeline.run()

    assert effects() == ["order.shipped"]
    assert statuses() == ["consumed", "consumed"]


def test_a_coroutine_handler_is_awaited(pipeline: Pipeline) -> None:
    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        await Effect.objects.acreate(name="async", event_id=event.id)

    pipeline.on("order.created", handle)
    make_message()

    pipeline.run()

    assert effects() == ["async"]
    assert statuses() == ["consumed"]


@pytest.mark.parametrize("size", [1, 100])
def test_a_whole_life_costs_at_most_eight_queries(pipeline: Pipeline, size: int) -> None:
    """Batches of one, with a key, in counted mode: the most expensive way that there is."""
    pipeline = Pipeline(batch_size=size)
    pipeline.on("order.created")
    pipeline.turn()  # connected, joined

    with CaptureQueriesContext(connection) as queries:
        with transaction.atomic():
            publish("order.created", {"order": 1}, key="k")
        pipeline.relay.is_idle = False
        pipeline.turn()

    assert statuses() == ["consumed"]
    markers = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    asked = [q["sql"] for q in queries if not q["sql"].startswith(markers)]
    assert len(asked) <= 8, "\n".join(asked)


def test_an_idle_consumer_asks_the_database_nothing(pipeline: Pipeline, django_assert_num_queries: Any) -> None:
    pipeline.on("order.created")
    pipeline.consumer.run_once()

    with django_assert_num_queries(0):
        pipeline.consumer.run_once()


# Failing


@pytest.mark.django_db(transaction=True)
def test_what_raises_on_commit_does_so_after_the_message_is_consumed(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.on("order.created", lambda event: transaction.on_commit(lambda: 1 / event.payload))
    make_message(payload=0)

    assert pipeline.turn().consumed == 1
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("kind", [Mute, MuteReject, MuteRetry])
def test_an_error_that_cannot_say_what_it_is_is_a_failure_like_any_other(
    pipeline: Pipeline, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def handle(event: Event) -> None:
        raise kind

    pipeline.on("order.created", handle)
    pipeline.on("order.paid", effect)
    with outbox_settings(DEAD_LETTER_TOPIC="outbox.dead"):
        message, other = make_message(max_retry=1), make_message(event_type="order.paid")
        pipeline.turn()

    assert (row(message).status, row(other).status) == ("dead", "consumed")
    assert "<exception str() failed>" in row(message).last_error
    assert "<exception str() failed>" in caplog.text
    copy = OutboxMessage.objects.get(topic="outbox.dead")
    assert copy.headers["kafka_dlt-exception-message"] == "<exception str() failed>"


@pytest.mark.parametrize("steady", [True, False])
def test_a_handler_that_awaits_what_was_cancelled_has_failed(steady: bool) -> None:
    async def handle(event: Event) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", handle)
    pipeline.on("order.paid", effect)
    message, other = make_message(), make_message(event_type="order.paid")

    pipeline.turn()

    assert (row(message).status, row(message).retry_count, row(other).status) == ("pending", 1, "consumed")
    assert "The handler awaited a cancelled task." in row(message).last_error
    assert row(message).fingerprint.startswith(
        "django_outbox.exceptions.HandlerCancelled in tests.pipeline.consumer.test_consumer."
    )


def test_a_failed_message_is_retried_until_it_works(pipeline: Pipeline) -> None:
    failures = [ArithmeticError("one"), KeyError("two")]

    def handle(event: Event) -> None:
        if failures:
            raise failures.pop(0)
        effect(event)

    pipeline.on("order.created", handle)
    message = make_message()

    for expected in ("ArithmeticError: one", "KeyError: 'two'"):
        pipeline.turn()
        assert row(message).last_error.startswith(expected)
        assert row(message).status == Status.PENDING
        make_due(message)
    pipeline.run()

    now = row(message)
    assert (now.status, now.retry_count, now.publish_count, now.last_error) == ("consumed", 2, 3, "")
    assert effects() == ["order.created"]


def test_the_last_failure_ends_dead_with_its_reason_and_a_retry_revives(pipeline: Pipeline) -> None:
    broken = [True]

    def handle(event: Event) -> None:
        if broken:
            raise LookupError("no price for 'tent'")

    pipeline.on("order.created", handle)
    message = make_message(max_retry=2)
    for _ in range(2):
        pipeline.run()
        make_due(message)
    assert row(message).status == Status.DEAD
    assert row(message).last_error.startswith("LookupError: no price for 'tent'")

    broken.clear()
    retry(OutboxMessage.objects.dead(), using="default")
    pipeline.run()

    assert row(message).status == Status.CONSUMED


def test_a_failed_message_never_blocks_its_partition(pipeline: Pipeline) -> None:
    pipeline.on("bad", lambda event: 1 / 0)
    pipeline.on("order.created", effect)
    make_message(event_type="bad")
    for _ in range(3):
        make_message()

    batch = pipeline.turn()

    assert (batch.failed, batch.consumed) == (1, 3)
    assert statuses() == ["pending", "consumed", "consumed", "consumed"]


def test_reject_is_dead_at_once(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        effect(event)
        raise Reject("the customer is gone")

    pipeline.on("order.created", handle)
    message = make_message()

    assert pipeline.turn().dead == 1

    now = row(message)
    assert (now.status, now.last_error, now.retry_count) == (Status.DEAD, "the customer is gone", 0)
    assert not effects()


def test_retry_waits_as_long_as_it_says_and_counts(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise Retry(timedelta(hours=2), "the bank is closed")

    pipeline.on("order.created", handle)
    message = make_message()

    pipeline.turn()

    now = row(message)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 1, "the bank is closed")
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at > timedelta(hours=1.9)


@pytest.mark.parametrize("delay", [1.8e12, timedelta.max, timedelta.min, "5"])  # the first: milliseconds since 1970
def test_retry_at_no_time_that_could_be_meant_is_a_failure_and_harms_no_other(pipeline: Pipeline, delay: Any) -> None:
    def handle(event: Event) -> None:
        raise Retry(delay, "not now")

    pipeline.on("order.created", handle)
    message, other = make_message(message_key="k"), make_message(event_type="other.kind")

    pipeline.turn()
    make_message(event_type="other.kind")
    pipeline.turn()

    now = row(message)
    assert (now.status, now.retry_count) == (Status.PENDING, 1)
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at < timedelta(seconds=2)
    assert statuses()[1:] == [Status.PUBLISHED] * 2
    assert row(other).publish_count == 1


def test_retry_without_delay_takes_the_usual_backoff(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise Retry

    pipeline.on("order.created", handle)
    message = make_message()

    pipeline.turn()

    wait = row(message).next_retry_at - row(message).updated_at  # type: ignore[operator]
    assert timedelta(seconds=1) <= wait < timedelta(seconds=1.2)


def test_a_handler_that_breaks_the_transaction_fails_alone(pipeline: Pipeline) -> None:
    """It catches a database error, so that nothing more can be done in its transaction."""

    def handle(event: Event) -> None:
        try:
            OutboxMessage.objects.create(event_id=event.id, event_type="copy", topic="t", payload=1)
        except IntegrityError:
            transaction.set_rollback(True)

    pipeline.on("order.created", handle)
    message = make_message()

    batch = pipeline.turn()

    assert batch.failed == 1
    assert row(message).status == Status.PENDING
    assert "TransactionManagementError" in row(message).last_error


def test_a_failure_is_logged_with_what_an_operator_asks(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.on("order.created", lambda event: 1 / 0)
    message = make_message(payload={"secret": "hunter2"})

    pipeline.turn()

    (record,) = (r for r in caplog.records if getattr(r, "action", "") == "failed")
    text, _, place = record.getMessage().partition(' ("')
    assert text == (
        f"Message {message.id} (order.created) failed (1 of 20) and is pending: ZeroDivisionError: division by zero"
    )
    assert re.fullmatch(r'tests/pipeline/consumer/test_consumer\.py", line \d+, in <lambda>\)', place)
    assert (record.message_id, record.attempt, record.topic) == (message.id, 1, "outbox")  # type: ignore[attr-defined]
    assert "hunter2" not in caplog.text


# Records that are not the one to handle


def test_a_record_that_comes_twice_is_handled_once(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message()
    pipeline.relay.run_once()
    pipeline.deliver(message, publish_count=0)  # a copy of what the relay has sent

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (1, 1)
    assert effects() == ["order.created"]


def test_a_record_that_is_read_again_after_a_kill_is_skipped(pipeline: Pipeline) -> None:
    """Killed between the database's commit and that of the offset."""
    pipeline.on("order.created", effect)
    pipeline.consumer.run_once()
    make_message()
    pipeline.relay.run_once()
    subscription = pipeline.consumer.subscription
    assert subscription is not None
    subscription.commit = lambda offsets: None  # type: ignore[method-assign]
    assert pipeline.consumer.run_once().consumed == 1

    pipeline.restart_consumer()

    assert pipeline.consumer.run_once().skipped == 1
    assert effects() == ["order.created"]


def test_a_record_whose_relay_was_killed_before_its_commit_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message()
    pipeline.deliver(message)

    assert pipeline.consumer.run_once().skipped == 1
    assert row(message).status == Status.PENDING
    pipeline.run()

    assert effects() == ["order.created"]


def test_an_older_publication_of_a_message_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message(Status.PUBLISHED, publish_count=2)
    pipeline.deliver(message, publish_count=0)

    assert pipeline.consumer.run_once().skipped == 1
    assert row(message).status == Status.PUBLISHED


@pytest.mark.parametrize("status", [Status.CONSUMED, Status.DEAD])
def test_final_states_are_never_handled(pipeline: Pipeline, status: str) -> None:
    pipeline.on("order.created", effect)
    message = make_message(status, publish_count=1)
    pipeline.deliver(message, publish_count=0)

    assert pipeline.consumer.run_once().skipped == 1
    assert (row(message).status, effects()) == (status, [])


def test_a_forged_record_cannot_feed_a_handler(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED, payload={"amount": 5})
    pipeline.deliver(message, publish_count=0, payload_json='{"amount": 5000}', headers={"x": "y"})

    pipeline.consumer.run_once()

    (event,) = pipeline.handled
    assert (event.payload, event.headers) == ({"amount": 5}, {})


def test_a_forged_event_type_does_not_choose_the_handler(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    pipeline.on("refund", effect)
    message = make_message(Status.PUBLISHED)
    pipeline.deliver(message, publish_count=0, event_type="refund")

    pipeline.consumer.run_once()

    assert [event.type for event in pipeline.handled] == ["order.created"]
    assert not effects()


def test_a_record_with_another_events_id_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED)
    pipeline.deliver(message, publish_count=0, event_id=uuid.uuid4())

    assert pipeline.consumer.run_once().skipped == 1


def test_a_record_without_row_is_not_a_success(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.on("order.created")
    message = make_message()
    pipeline.relay.run_once()
    message.delete()

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (0, 1)
    assert "there is no outbox message" in caplog.text


def test_records_of_other_services_are_for_the_inbox(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message(Status.PUBLISHED)
    record = pipeline.deliver(message, publish_count=0)
    foreign = [(n, b"other" if n == "ce_source" else v) for n, v in record.headers]
    pipeline.restart_consumer()
    broker = pipeline.broker = memory_broker()
    send(broker, headers=foreign)

    assert pipeline.consumer.run_once().consumed == 1
    assert row(message).status == Status.PUBLISHED
    assert InboxMessage.objects.get().source == "other"


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"", []),
        (b"not json", []),
        (b"[1]", []),
        (b'{"outbox_id": "1"}', []),
        (b"\xff\xfe", []),
        (b"{}", [("ce_specversion", b"1.0")]),
        (b"{}", [("ce_specversion", b"9.9")]),
        (b"{}", [("ce_specversion", b"1.0"), ("ce_outboxid", b"-1")]),
    ],
)
def test_unreadable_records_are_dead_in_the_inbox(pipeline: Pipeline, value: bytes, headers: Any) -> None:
    pipeline.on("order.created", effect)
    send(pipeline.broker, value=value, headers=headers)
    make_message()

    pipeline.relay.run_once()
    batch = pipeline.consumer.run_once()

    assert (batch.dead, batch.consumed) == (1, 1)
    assert InboxMessage.objects.get().last_error.startswith("It cannot be read: ")


def test_both_wire_formats_are_read(pipeline: Pipeline, settings: Any) -> None:
    pipeline.on("order.created", effect)
    for wire_format in ("cloudevents", "envelope"):
        settings.OUTBOX = {**settings.OUTBOX, "WIRE_FORMAT": wire_format}
        make_message()
        pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 2


def test_an_envelope_of_the_former_system_without_headers_is_read(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect)
    message = make_message(Status.PUBLISHED)
    value = f'{{"outbox_id": {message.id}, "event_id": "{message.event_id}", "event_type": "order.created"}}'
    send(pipeline.broker, value=value.encode())

    assert pipeline.consumer.run_once().consumed == 1


# Unknown events


def test_unknown_events_are_left_to_others_by_default(pipeline: Pipeline, django_assert_num_queries: Any) -> None:
    pipeline.on("order.created")
    message = make_message(event_type="audit.written")
    pipeline.relay.run_once()

    with django_assert_num_queries(0):
        assert pipeline.consumer.run_once().skipped == 1

    assert row(message).status == Status.PUBLISHED


def test_unknown_events_may_be_dead(pipeline: Pipeline, settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "UNKNOWN_EVENT": "dead"}
    message = make_message(event_type="audit.written")

    assert pipeline.turn().dead == 1

    assert row(message).status == Status.DEAD
    assert row(message).last_error.startswith("No handler is registered for 'audit.written'")


def test_a_handler_of_another_topic_does_not_run(pipeline: Pipeline) -> None:
    pipeline.handlers.register("order.created", effect, topic="elsewhere")
    message = make_message()

    assert pipeline.turn().skipped == 1
    assert (row(message).status, effects()) == (Status.PUBLISHED, [])


# Processes that end


def test_the_first_deliveries_after_a_start_are_counted_before_the_handler() -> None:
    pipeline = Pipeline()
    seen: list[int] = []
    pipeline.on("order.created", lambda event: seen.append(OutboxMessage.objects.get().delivery_count))
    make_message()

    pipeline.turn()

    assert seen == [1]


def test_in_steady_state_deliveries_are_not_counted() -> None:
    pipeline = Pipeline(batch_size=2)
    pipeline.on("order.created")
    for _ in range(4):
        make_message()

    pipeline.run()

    counts = OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)
    assert list(counts) == [1, 1, 0, 0]


def test_the_first_deliveries_after_a_rebalance_are_counted_before_the_handler() -> None:
    pipeline = Pipeline(batch_size=2)
    seen: list[int] = []
    pipeline.on("order.created", lambda event: seen.append(OutboxMessage.objects.get(event_id=event.id).delivery_count))
    for _ in range(4):
        make_message()
    pipeline.run()
    pipeline.broker.subscribe(["outbox"], "tests").close()  # another member comes and goes
    for _ in range(4):
        make_message()

    pipeline.run()

    assert seen == [1, 1, 0, 0, 1, 1, 0, 0]


def test_a_consumer_that_left_its_group_forgets_what_it_had_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another member has handled it meanwhile."""
    pipeline = Pipeline()
    pipeline.on("order.created", effect)
    make_message()
    pipeline.relay.run_once()

    def lock(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("connection refused")

    with monkeypatch.context() as patches:
        patches.setattr(state, "lock", lock)
        patches.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
        with pytest.raises(OperationalError):
            pipeline.consumer.run_once()
    pipeline.consumer.close()
    other = Pipeline(pipeline.broker)
    other.on("order.created", effect)
    assert other.consumer.run_once().consumed == 1
    other.consumer.close()

    assert pipeline.consumer.run_once().received == 0


def test_a_message_that_takes_its_process_down_is_dead_after_max_deliveries() -> None:
    pipeline = Pipeline()

    class Killed(BaseException):
        """Stands for the end of the process; tests with real ones are among the integration tests."""

    runs = 0

    def handle(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise Killed

    pipeline.on("killer", handle)
    pipeline.on("order.created", effect)
    killer = make_message(event_type="killer")
    make_message()
    pipeline.relay.run_once()

    for _ in range(5):
        with pytest.raises(Killed):
            pipeline.consumer.run_once()
        pipeline.restart_consumer()
    batch = pipeline.consumer.run_once()

    assert (runs, batch.dead, batch.consumed) == (5, 1, 1)
    now = row(killer)
    assert now.status == Status.DEAD
    assert now.last_error.startswith("It took its process down 5 times (MAX_DELIVERIES)")


def test_copies_that_are_skipped_are_no_deliveries() -> None:
    """A relay that was killed before its commit, six times; each copy carries the number of the seventh."""
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = make_message()
    for _ in range(6):
        pipeline.deliver(message, publish_count=0)

    pipeline.run()

    assert (row(message).status, row(message).delivery_count) == (Status.CONSUMED, 1)


def test_a_message_that_only_fails_is_never_taken_for_a_killer(pipeline: Pipeline) -> None:
    pipeline.on("order.created", lambda event: 1 / 0)
    message = make_message()

    for _ in range(8):
        pipeline.turn()
        pipeline.restart_consumer()
        make_due(message)

    now = row(message)
    assert (now.status, now.retry_count, now.delivery_count) == (Status.PENDING, 8, 0)


# Faults that pass


class PassingFault(OperationalError):
    """A deadlock, as PostgreSQL tells it."""

    sqlstate = "40P01"


def test_a_deadlock_is_tried_again_and_not_counted(pipeline: Pipeline) -> None:
    faults = [PassingFault("deadlock detected"), PassingFault("deadlock detected")]

    def handle(event: Event) -> None:
        if faults:
            raise faults.pop()
        effect(event)

    pipeline.on("order.created", handle)
    message = make_message()

    assert pipeline.turn().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


def test_a_message_that_deadlocks_again_and_again_lets_others_pass(pipeline: Pipeline) -> None:
    def handle(event: Event) -> None:
        raise PassingFault("deadlock detected")

    pipeline.on("unlucky", handle)
    pipeline.on("order.created", effect)
    unlucky = make_message(event_type="unlucky")
    make_message()

    batch = pipeline.turn()

    assert (batch.requeued, batch.consumed) == (1, 1)
    now = row(unlucky)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 0, "")
    assert now.next_retry_at is not None
    assert now.next_retry_at - now.updated_at > timedelta(seconds=30)


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_lost_connection_is_not_the_messages_fault(pipeline: Pipeline) -> None:
    lose = [True]

    def handle(event: Event) -> None:
        effect(event)
        if lose:
            lose.clear()
            pid = connection.connection.info.backend_pid
            other = connections["default"].copy()
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
            other.close()
        Effect.objects.count()

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 1

    assert not lose
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_server_that_just_goes_away_is_not_the_messages_fault(pipeline: Pipeline) -> None:
    """Without a word: the error has no code, and Django connects anew by itself."""
    lose = [True]

    def handle(event: Event) -> None:
        effect(event)
        if lose:
            lose.clear()
            with socket.socket(fileno=os.dup(connection.connection.fileno())) as peer:
                peer.shutdown(socket.SHUT_RDWR)
        Effect.objects.count()

    pipeline.on("order.created", handle)
    messages = [make_message(), make_message()]
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 2

    assert effects() == ["order.created"] * 2
    assert [row(message).retry_count for message in messages] == [0, 0]


def test_a_message_that_is_removed_while_it_fails_is_skipped(pipeline: Pipeline) -> None:
    removed = []

    def handle(event: Event) -> None:
        raise ArithmeticError("boom")

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()
    real_mark = transitions.mark_failed

    def mark_failed(*args: Any, **kwargs: Any) -> Any:
        removed.append(OutboxMessage.objects.all().delete())
        return real_mark(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "mark_failed", mark_failed)
        batch = pipeline.consumer.run_once()

    assert (batch.received, batch.skipped, batch.failed) == (1, 1, 0)
    assert not OutboxMessage.objects.filter(id=message.id).exists()


def test_a_database_that_is_gone_leaves_the_record_in_hand(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.on("order.created", effect)
    message = make_message()
    pipeline.relay.run_once()
    gone = True

    def lock(*args: Any, **kwargs: Any) -> Any:
        if gone:
            raise OperationalError("connection refused")
        return real_lock(*args, **kwargs)

    real_lock = state.lock
    monkeypatch.setattr(state, "lock", lock)
    monkeypatch.setattr("django_outbox.worker.database_errors.is_connected", lambda using: False)
    with pytest.raises(OperationalError):
        pipeline.consumer.run_once()
    gone = False

    assert pipeline.consumer.run_once().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


@pytest.mark.parametrize("locked", [0, 2])
def test_a_message_that_cannot_even_be_locked_stays_in_hand(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, locked: int
) -> None:
    """Such as with a short ``lock_timeout``: the record is not done with, so its offset is not committed.

    It may have been locked by earlier tries.
    """
    busy = True
    tries: list[int] = []

    def handle(event: Event) -> None:
        if busy:
            raise PassingFault("deadlock detected")
        effect(event)

    pipeline.on("order.created", handle)
    message = make_message()
    pipeline.relay.run_once()

    def lock(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        if busy and len(tries) > locked:
            raise PassingFault("canceling statement due to lock timeout")
        return real_lock(*args, **kwargs)

    real_lock = state.lock
    monkeypatch.setattr(state, "lock", lock)
    with pytest.raises(OperationalError, match="lock timeout"):
        pipeline.consumer.run_once()
    busy = False

    assert pipeline.consumer.run_once().consumed == 1
    assert (row(message).retry_count, effects()) == (0, ["order.created"])


# Between sessions


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_consumer_faster_than_the_relay_waits_for_its_commit(pipeline: Pipeline) -> None:
    """The record is in the log, the relay's transaction is still open."""
    pipeline.on("order.created", effect)
    message = make_message()

    with ExitStack() as beside, transaction.atomic():
        OutboxMessage.objects.select_for_update().get(id=message.id)
        pipeline.deliver(message)
        beside.enter_context(in_thread(pipeline.consumer.run_once))
        wait_until(is_waiting_for_a_lock)
        publish_again(message, partition=0, offset=0)

    assert row(message).status == Status.CONSUMED
    assert effects() == ["order.created"]


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.django_db(transaction=True)
def test_two_consumers_with_the_same_record_handle_it_once() -> None:
    """As in a rebalance: both have read it, neither has committed the offset."""
    message = make_message()
    start = threading.Barrier(2)

    def work(pipeline: Pipeline) -> None:
        start.wait(30)
        pipeline.consumer.run_once()

    broker = memory_broker()
    pipelines = [Pipeline(broker, group="one"), Pipeline(broker, group="two")]
    for pipeline in pipelines:
        pipeline.on("order.created", effect)
    pipelines[0].relay.run_once()

    with in_thread(lambda: work(pipelines[0])), in_thread(lambda: work(pipelines[1])):
        pass

    assert row(message).status == Status.CONSUMED
    assert effects() == ["order.created"]


# The broker and its topics


class Unavailable(MemoryBroker):
    """Away until it is told otherwise."""

    away = True

    def subscribe(self, topics: Any, group: str) -> Subscription:
        if self.away:
            raise BrokerUnavailable("it is gone.")
        return super().subscribe(topics, group)


def test_a_broker_that_goes_away_is_joined_again() -> None:
    broker = memory_broker()
    broker.__class__ = Unavailable
    pipeline = Pipeline(broker)
    pipeline.on("order.created", effect)
    make_message()
    pipeline.relay.run_once()

    with pytest.raises(BrokerUnavailable):
        pipeline.consumer.run_once()
    broker.away = False  # type: ignore[attr-defined]

    assert pipeline.consumer.run_once().consumed == 1


def test_missing_topics_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    broker = memory_broker(create_topics=False)
    pipeline = Pipeline(broker, topics=["outbox", "late"], clock=lambda: now[0])
    pipeline.on("order.created", effect)
    assert pipeline.consumer.run_once().received == 0
    for topic in ("late", "outbox"):
        assert f"Topic {topic}: it does not exist. Create the topic, or start outbox_relay with" in caplog.text

    broker.create_topics(["outbox"], partitions=1, replication=None)
    now[0] += 10
    make_message(topic="outbox")
    assert pipeline.turn().consumed == 1

    broker.create_topics(["late"], partitions=1, replication=None)
    now[0] += 10
    make_message(topic="late")
    assert pipeline.turn().consumed == 1


def test_a_topic_that_is_refused_when_it_is_read_or_committed_is_left_out_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    pipeline = Pipeline(topics=["bad", "outbox"], clock=lambda: now[0])
    pipeline.on("order.created", effect)
    pipeline.consumer.run_once()
    subscription: Any = type(pipeline.consumer.subscription)
    poll, commit = subscription.poll, subscription.commit
    refusing = ["poll"]

    def refuse(self: Any) -> None:
        if "bad" in self.topics:
            raise TopicNotReadable({"bad"}, "memory refuses this client")

    def polled(self: Any, timeout: float, limit: int) -> Any:
        records = poll(self, timeout, limit)
        if "poll" in refusing:
            refuse(self)  # what was read with it is not given out
        return records

    def committed(self: Any, offsets: Any) -> None:
        if "commit" in refusing and any(place.topic == "bad" for place in offsets):
            refuse(self)
        commit(self, offsets)

    monkeypatch.setattr(subscription, "poll", polled)
    monkeypatch.setattr(subscription, "commit", committed)
    bad, good = make_message(topic="bad"), make_message(topic="outbox")
    pipeline.relay.run_once()
    pipeline.consumer.run_once()
    assert pipeline.consumer.run_once().consumed == 1
    assert (row(bad).status, row(good).status) == (Status.PUBLISHED, Status.CONSUMED)
    assert "bad: this client may not read it." in str(pipeline.consumer.readable_topics)

    refusing[:] = ["commit"]
    now[0] += 60
    pipeline.consumer.run_once()
    assert row(bad).status == Status.CONSUMED  # and its offset not committed
    assert pipeline.consumer.run_once().received == 0
    refusing.clear()
    now[0] += 60
    batch = pipeline.consumer.run_once()
    assert (batch.received, batch.skipped) == (1, 1)
    assert effects() == ["order.created"] * 2
    now[0] += 60
    pipeline.consumer.run_once()
    assert str(pipeline.consumer.readable_topics) == ""


def test_what_was_read_together_with_a_refusal_comes_again_however_soon_the_topic_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    pipeline = Pipeline(topics=["bad", "outbox"], clock=lambda: now[0])
    pipeline.on("order.created", effect)
    pipeline.consumer.run_once()
    subscription: Any = type(pipeline.consumer.subscription)
    poll = subscription.poll
    refusals = [TopicNotReadable({"bad"}, "memory refuses this client")]

    def polled(self: Any, timeout: float, limit: int) -> Any:
        records = poll(self, timeout, limit)
        if refusals:
            raise refusals.pop()
        return records

    def take_long(topics: Any) -> dict[str, Any]:
        now[0] += 5
        return {}

    monkeypatch.setattr(subscription, "poll", polled)
    monkeypatch.setattr(pipeline.broker, "unreadable_topics", take_long)
    make_message(topic="bad"), make_message(topic="outbox")
    pipeline.relay.run_once()
    pipeline.consumer.run_once()
    assert statuses() == ["published", "published"]
    assert pipeline.consumer.run_once().consumed == 2


def test_a_drain_ends_with_an_error_if_a_topic_cannot_be_read(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
    pipeline = Pipeline(topics=["bad", "outbox"])
    pipeline.on("order.created", effect)
    trouble = {"bad": TopicForbidden("this client may not read it")}
    monkeypatch.setattr(pipeline.broker, "unreadable_topics", lambda topics: trouble)
    make_message(topic="outbox")
    pipeline.relay.run_once()
    with pytest.raises(MessagesLeft, match=r"cannot be read\. bad: this client may not read it\. Let"):
        pipeline.consumer.run(stop, drain=True)
    assert statuses() == ["consumed"]


def test_by_default_the_topics_of_settings_and_handlers_are_read(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ROUTES": {"audit.*": "audit"}}
    pipeline = Pipeline()
    pipeline.handlers.register("a", effect, topic="of.a.handler")
    pipeline.handlers.register("b", effect, topic="of.another.group", group="other")

    assert pipeline.consumer.topics == {"outbox", "audit", "of.a.handler"}


# Running


def test_drain_ends_when_all_that_could_be_handled_was(pipeline: Pipeline, stop: Stop) -> None:
    pipeline.on("order.created", effect)
    for _ in range(250):
        make_message()
    make_message(event_type="of.nobody")
    pipeline.relay.run(stop, drain=True)

    pipeline.consumer.run(stop, drain=True)

    assert len(effects()) == 250


def test_drain_does_not_wait_for_ever_for_a_record_that_was_lost(
    stop: Stop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    make_message(Status.PUBLISHED)

    pipeline.consumer.run(stop, drain=True)

    assert "1 published messages were not received" in caplog.text


def test_a_stopped_consumer_finishes_the_message_in_hand_and_commits(pipeline: Pipeline, stop: Stop) -> None:
    def handle(event: Event) -> None:
        effect(event)
        stop.request()

    pipeline.on("order.created", handle)
    make_message()
    make_message()
    pipeline.relay.run_once()

    pipeline.consumer.run(stop)

    assert statuses() == ["consumed", "published"]
    pipeline.restart_consumer()
    assert pipeline.consumer.run_once().received == 1  # the first one's offset is committed
