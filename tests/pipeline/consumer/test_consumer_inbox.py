"""The consumer and its inbox: what goes where, and when what waits there is looked at."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from django_outbox.brokers.base import ReceivedRecord, Record
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.consumer.consumer import INBOX_SECONDS
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.events.event import Event
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.models import InboxMessage
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.effects import effect_of_payload, effects
from tests.support.inbox import make_due, make_received, only, plain, received
from tests.support.outbox import Pipeline, Status, make_message, row
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def send(broker: MemoryBroker, *records: ReceivedRecord) -> None:
    for record in records:
        broker.missing_topics(["outbox"])
        broker.producer(1).send([Record("outbox", record.key, record.value or b"", record.headers)], 1)


def inbox() -> list[tuple[str, Any]]:
    return list(InboxMessage.objects.order_by("id").values_list("status", "payload"))


@pytest.fixture
def pipeline(clock: Clock) -> Pipeline:
    return Pipeline(clock=clock)


def unguarded(pipeline: Pipeline) -> Pipeline:
    """A consumer whose first, counted records are behind it."""
    pipeline.consumer.lanes.guard.records = 0
    pipeline.consumer.run_once()
    return pipeline


@pytest.mark.parametrize("counted", [True, False])
def test_own_and_foreign_records_of_one_topic_each_go_their_way(pipeline: Pipeline, counted: bool) -> None:
    pipeline.on("order.created", effect_of_payload)
    if not counted:
        unguarded(pipeline)
    send(pipeline.broker, received("foreign 1"), received("foreign 2"), plain(b"?"))
    own = make_message(payload="own")
    pipeline.relay.run_once()
    send(pipeline.broker, received("foreign 3"))

    batch = pipeline.consumer.run_once()

    assert (batch.received, batch.consumed, batch.dead) == (5, 4, 1)
    assert batch.progress == {"consumed": 1, "inbox_received": 4, "inbox_consumed": 3}
    assert effects() == ["foreign 1", "foreign 2", "own", "foreign 3"]
    assert row(own).status == Status.CONSUMED
    assert [status for status, _ in inbox()] == ["consumed", "consumed", "dead", "consumed"]


def test_foreign_records_are_handled_together_once_the_first_are_past(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_payload)
    send(pipeline.broker, *(received(n) for n in range(pipeline.consumer.batch_size)))
    assert pipeline.consumer.run_once().consumed == pipeline.consumer.batch_size
    assert not pipeline.consumer.lanes.guard
    send(pipeline.broker, *(received(n) for n in range(5)))

    with CaptureQueriesContext(connection) as queries:
        assert pipeline.consumer.run_once().consumed == 5

    inserts = [
        query["sql"] for query in queries if query["sql"].startswith("INSERT") and "inboxmessage" in query["sql"]
    ]
    assert len(inserts) < 5
    assert effects()[-5:] == ["0", "1", "2", "3", "4"]


def test_copies_count_as_received_once_and_retries_as_consumed(pipeline: Pipeline, clock: Clock) -> None:
    pipeline.on("order.created", effect_of_payload)
    record = received("foreign", id="the-only")
    send(pipeline.broker, record, record)
    assert pipeline.consumer.run_once().progress == {"consumed": 0, "inbox_received": 1, "inbox_consumed": 1}
    make_received(group=pipeline.consumer.group)
    make_due()
    clock.now += INBOX_SECONDS
    assert pipeline.consumer.run_once().progress == {"consumed": 0, "inbox_received": 0, "inbox_consumed": 1}


def test_a_record_of_this_service_without_row_is_skipped_as_before(pipeline: Pipeline) -> None:
    """After a purge a topic may hold many of these."""
    pipeline.on("order.created", effect_of_payload)
    send(pipeline.broker, received(1, source="tests", outboxid="7"))

    assert pipeline.consumer.run_once().skipped == 1
    assert inbox() == []


@pytest.mark.parametrize("attributes", [{}, {"outboxid": "-1"}, {"outboxid": "9" * 30}, {"outboxid": "x"}])
def test_a_record_that_only_says_that_it_is_of_this_service_is_dead(
    pipeline: Pipeline, attributes: dict[str, str]
) -> None:
    pipeline.on("order.created", effect_of_payload)
    send(pipeline.broker, received(1, source="tests", **attributes))

    assert pipeline.consumer.run_once().dead == 1
    assert "this very service ('tests'), but it does not name a message of its outbox" in (
        InboxMessage.objects.get().last_error
    )


def test_a_group_of_its_own_takes_all_records_through_the_inbox() -> None:
    pipeline = Pipeline(group="reports")
    pipeline.handlers.register("order.created", effect_of_payload, group="reports")
    pipeline.on("order.created", lambda event: 1 / 0)
    own = make_message(payload="own")
    pipeline.relay.run_once()
    send(pipeline.broker, received("foreign"))

    assert pipeline.consumer.run_once().consumed == 2

    assert effects() == ["own", "foreign"]
    assert row(own).status == Status.PUBLISHED
    assert set(InboxMessage.objects.values_list("group", "source", "event_id")) >= {
        ("reports", "tests", str(own.event_id))
    }


def test_an_own_event_that_is_sent_again_is_handled_once_by_another_group() -> None:
    pipeline = Pipeline(group="reports")
    pipeline.handlers.register("order.created", effect_of_payload, group="reports")
    message = make_message()
    pipeline.relay.run_once()
    pipeline.deliver(message)

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (1, 1)


def test_a_group_that_no_handler_names_takes_the_place_of_the_main_one() -> None:
    pipeline = Pipeline(group="blue")
    pipeline.on("order.created", effect_of_payload)
    own = make_message()
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 1
    assert (row(own).status, inbox()) == (Status.CONSUMED, [])


# What waits


def test_what_waits_is_looked_at_once_a_second(
    pipeline: Pipeline, clock: Clock, django_assert_num_queries: Any
) -> None:
    pipeline.on("order.created", effect_of_payload)
    make_received(payload=1)
    pipeline.consumer.run_once()
    assert effects() == []

    clock.now += INBOX_SECONDS
    batch = pipeline.consumer.run_once()

    assert (batch.retried, batch.received, batch.consumed) == (1, 0, 1)
    assert pipeline.consumer.run_once().retried == 0
    with django_assert_num_queries(0):
        pipeline.consumer.run_once()


def test_what_waits_is_handled_while_the_broker_is_away(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.on("order.created", effect_of_payload)
    make_received(payload=1)
    pipeline.consumer.close()  # made, before the clock goes on
    monkeypatch.setattr(pipeline.broker, "missing_topics", lambda topics: set(topics))
    clock.now += INBOX_SECONDS

    assert pipeline.consumer.run_once().consumed == 1


def test_a_failed_foreign_event_is_retried_from_its_row(pipeline: Pipeline, clock: Clock) -> None:
    def handle(event: Event) -> None:
        if event.attempt == 1:
            raise ArithmeticError
        effect_of_payload(event)

    pipeline.on("order.created", handle)
    send(pipeline.broker, received(1, key="a"), received(2, key="b"))
    assert pipeline.consumer.run_once().failed == 2
    assert inbox() == [("pending", 1), ("pending", 2)]

    make_due()
    clock.now += INBOX_SECONDS

    assert pipeline.consumer.run_once().consumed == 2


def test_a_record_that_is_read_again_after_a_kill_is_skipped(pipeline: Pipeline) -> None:
    """Killed between the database's commit and that of the offset."""
    pipeline.on("order.created", effect_of_payload)
    pipeline.consumer.run_once()
    send(pipeline.broker, received(1))
    subscription = pipeline.consumer.subscription
    assert subscription is not None
    subscription.commit = lambda offsets: None  # type: ignore[method-assign]
    assert pipeline.consumer.run_once().consumed == 1

    pipeline.restart_consumer()

    assert pipeline.consumer.run_once().skipped == 1
    assert effects() == ["1"]


def test_a_database_that_is_gone_leaves_the_records_in_hand(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.on("order.created", effect_of_payload)
    unguarded(pipeline)
    send(pipeline.broker, *(received(n) for n in range(3)))

    def gone(*arguments: Any, **options: Any) -> list[str]:
        raise OperationalError("connection refused")

    with monkeypatch.context() as patches:
        patches.setattr(Inbox, "receive", gone)
        with pytest.raises(OperationalError):
            pipeline.consumer.run_once()

    assert pipeline.consumer.run_once().consumed == 3


# Running


@pytest.mark.parametrize("group", ["tests", "reports"])
def test_drain_ends_when_nothing_is_due(group: str, stop: Stop) -> None:
    pipeline = Pipeline(group=group)
    pipeline.handlers.register("order.created", effect_of_payload, group=group)
    for n in range(30):
        make_received(payload=n, group=group)
    make_received(payload="later", group=group)
    InboxMessage.objects.filter(payload="later").update(next_retry_at="2999-01-01T00:00:00Z")
    send(pipeline.broker, received("fresh"))

    pipeline.consumer.run(stop, drain=True)

    assert len(effects()) == 31
    assert inbox().count(("pending", "later")) == 1


def test_topics_with_a_mapper_are_read() -> None:
    with outbox_settings(INBOX={"legacy": len, "ignored": None}):
        pipeline = Pipeline()
        pipeline.handlers.register("a", effect_of_payload, topic="of.a.handler")
        pipeline.handlers.register("b", effect_of_payload, topic="of.another.group", group="other")
        assert pipeline.consumer.topics == {"outbox", "legacy", "of.a.handler"}


def test_what_the_inbox_did_counts_though_the_broker_is_away(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(topics: Any, group: str) -> Any:
        raise BrokerUnavailable("nobody is there")

    pipeline.on("order.created", effect_of_payload)
    make_received()
    pipeline.consumer.close()  # made, before the clock goes on
    monkeypatch.setattr(pipeline.broker, "subscribe", away)
    clock.now += INBOX_SECONDS
    with pytest.raises(BrokerUnavailable):
        pipeline.consumer.run_once()
    assert only().status == "consumed"
    assert pipeline.consumer.worker_state.take_counts()["inbox_consumed"] == 1


def test_records_and_due_messages_take_turns(pipeline: Pipeline, clock: Clock) -> None:
    """Many slow retries keep no record waiting for long."""
    done: list[Any] = []

    def slow(event: Event) -> None:
        done.append(event.payload)
        clock.now += 0.2

    pipeline.on("order.created", slow)
    unguarded(pipeline)
    for number in range(40):
        make_received(payload=number, group=pipeline.consumer.group)
    send(pipeline.broker, received("fresh"))
    clock.now += INBOX_SECONDS
    pipeline.consumer.run_once()
    assert done.index("fresh") < 10
    while pipeline.consumer.run_once().retried:
        pass
    assert len(done) == 41
