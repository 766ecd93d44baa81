"""Several services in one table: each sends, handles, counts and deletes its own messages alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone

from django_outbox import publish, publish_many
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.consumer.consumer import DRAIN_PATIENCE_SECONDS
from django_outbox.consumer.reconciler import LOST_AFTER
from django_outbox.events.event import Event
from django_outbox.handlers.registry import registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.counts import unfinished
from django_outbox.operations.doctor import workers
from django_outbox.operations.doctor.base import Installation, Level
from django_outbox.operations.status import full_status
from django_outbox.relay.background_purge import BackgroundPurge
from django_outbox.relay.relay import Relay
from django_outbox.state.retry import retry
from django_outbox.state.unhandled import longest_unhandled
from django_outbox.worker.heartbeat import Heartbeat
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message, memory_broker, row

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)
FOREIGN = "billing"  # that of the tests is "tests"


@contextmanager
def service(source: str, **settings: Any) -> Iterator[None]:
    """The settings of another service for the block."""
    with override_settings(OUTBOX={**django_settings.OUTBOX, "SOURCE": source, "CONSUMER_GROUP": source, **settings}):
        yield


def publish_as(source: str, payload: Any = 1, **options: Any) -> OutboxMessage:
    with service(source), transaction.atomic():
        message = publish("order.created", payload, **options)
    return row(message)


def sources(broker: MemoryBroker) -> list[bytes]:
    return [dict(record.headers)["ce_source"] for record in broker.records("outbox")]


# Writing


def test_a_message_has_the_source_of_the_service_that_wrote_it() -> None:
    with service(FOREIGN), transaction.atomic():
        messages = [
            publish("order.created", 1),
            *publish_many([Event(type="order.created", payload=n) for n in (2, 3)]),
        ]
    assert [row(message).source for message in messages] == [FOREIGN] * 3


def test_a_row_that_a_program_of_an_older_release_writes_has_the_source_of_the_migration() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (event_id, event_type, event_version, topic, message_key, payload,"
            " headers, status, publish_count, delivery_count, retry_count, max_retry, last_error)"
            " VALUES ('0198c0de00007000800000000000abcd', 'e', 'v1', 'outbox', '', '1', '{}', 'pending', 0, 0, 0, 20, '')"
        )
    assert OutboxMessage.objects.get().source == "tests"


# Sending


@pytest.mark.parametrize("wire_format", ["cloudevents", "envelope"])
def test_a_relay_sends_the_messages_of_its_own_service_alone(wire_format: str) -> None:
    """Under the name of the other, its consumer would not know them as its own, and have them sent again for ever."""
    own, foreign = publish_as("tests"), publish_as(FOREIGN)
    broker = memory_broker()

    with service("tests", WIRE_FORMAT=wire_format):
        Relay(broker, using="default").run_once()
    assert (row(own).status, row(foreign).status) == (Status.PUBLISHED, Status.PENDING)
    with service(FOREIGN, WIRE_FORMAT=wire_format):
        Relay(broker, using="default").run_once()

    assert row(foreign).status == Status.PUBLISHED
    assert sources(broker) == [b"tests", FOREIGN.encode()]


def test_nothing_is_due_where_only_another_service_has_something_to_send(stop: Stop) -> None:
    foreign = publish_as(FOREIGN)
    relay = Relay(memory_broker(), using="default")
    relay.run(stop, drain=True)
    assert relay.run_once().claimed == 0
    assert row(foreign).status == Status.PENDING


@pytest.mark.parametrize("status", [Status.PENDING, Status.DEAD])
def test_a_message_waits_for_no_earlier_one_of_its_key_that_is_of_another_service(settings: Any, status: str) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    due = timezone.now() + AN_HOUR if status == Status.PENDING else None
    foreign = make_message(status, source=FOREIGN, message_key="a", next_retry_at=due)
    pipeline = Pipeline()
    pipeline.on("order.created")
    own = publish_as("tests", key="a")

    pipeline.run()

    assert (row(own).status, row(own).publish_count) == (Status.CONSUMED, 1)
    assert row(foreign).next_retry_at == due


def test_a_message_waits_for_the_earlier_ones_of_its_own_service() -> None:
    """Also where those of another one lie between."""
    later = timezone.now() + AN_HOUR
    make_message(source=FOREIGN, message_key="a", next_retry_at=later)
    make_message(message_key="a", next_retry_at=later)
    held, free = make_message(message_key="a"), make_message(source=FOREIGN, message_key="b")

    Relay(memory_broker(), using="default").run_once()

    assert (row(held).status, row(held).next_retry_at) == (Status.PENDING, later)
    assert row(free).next_retry_at == free.next_retry_at


def test_what_waits_behind_a_failed_message_is_of_its_own_service() -> None:
    make_message(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    foreign = make_message(source=FOREIGN, message_key="a")
    make_message(message_key="a")

    assert Relay(memory_broker(), using="default").run_once().postponed == 1

    assert row(foreign).next_retry_at == foreign.next_retry_at


# Handling


def test_two_services_in_one_table_handle_each_message_once(clock: Clock) -> None:
    """Each by its own relay and consumer, although both use one topic."""
    broker = memory_broker()
    found: dict[str, Pipeline] = {}
    for source in ("tests", FOREIGN):
        with service(source, INBOX={"outbox": None}):
            found[source] = Pipeline(broker, clock=clock)
            found[source].on("invoice.sent" if source == FOREIGN else "order.created")
            _ = found[source].consumer
    own = publish_as("tests")
    with service(FOREIGN), transaction.atomic():
        foreign = publish("invoice.sent", 1)

    for _ in range(4):
        for source in (FOREIGN, "tests"):
            with service(source, INBOX={"outbox": None}):
                found[source].turn()
        clock.now += LOST_AFTER.total_seconds() + 1

    for message, pipeline in ((own, found["tests"]), (foreign, found[FOREIGN])):
        assert [event.id for event in pipeline.handled] == [str(message.event_id)]
        assert (row(message).status, row(message).publish_count) == (Status.CONSUMED, 1)


@pytest.mark.parametrize("steady", [False, True])
def test_a_record_that_names_a_message_of_another_service_is_skipped(steady: bool) -> None:
    """As one that a relay of an older release sent under its own name."""
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created")
    foreign = [make_message(Status.PUBLISHED, source=FOREIGN, publish_count=0) for _ in range(2)]
    for message in foreign:
        pipeline.deliver(message, source="tests")
    OutboxMessage.objects.update(publish_count=1)

    batch = pipeline.consumer.run_once()

    assert (batch.received, batch.skipped, pipeline.handled) == (2, 2, [])
    assert [(row(message).status, row(message).delivery_count) for message in foreign] == [(Status.PUBLISHED, 0)] * 2


def test_the_event_that_a_handler_gets_names_the_source_of_the_row() -> None:
    with service(FOREIGN):
        pipeline = Pipeline()
        pipeline.on("order.created")
        publish_as(FOREIGN)
        pipeline.run()
    assert [event.source for event in pipeline.handled] == [FOREIGN]


def test_the_reconciler_leaves_messages_of_another_service_alone(clock: Clock) -> None:
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    make_message()
    pipeline.run()
    lost = {"partition": 0, "offset": 0, "published_at": timezone.now() - AN_HOUR}
    beyond = {**lost, "partition": 7}
    foreign = [make_message(Status.PUBLISHED, source=FOREIGN, **place) for place in (lost, beyond)]
    own = [make_message(Status.PUBLISHED, **place) for place in (lost, beyond)]

    clock.now += 30
    pipeline.consumer.run_once()

    assert [row(message).status for message in foreign] == [Status.PUBLISHED] * 2
    assert [row(message).status for message in own] == [Status.PENDING] * 2


def test_a_drain_does_not_wait_for_messages_of_another_service(stop: Stop) -> None:
    clock = Clock()
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    foreign = make_message(Status.PUBLISHED, source=FOREIGN)
    with transaction.atomic():
        publish("order.created", 1)
    pipeline.relay.run_once()

    pipeline.consumer.run(stop, drain=True)

    assert clock.now < DRAIN_PATIENCE_SECONDS + Clock().now
    assert len(pipeline.handled) == 1
    assert row(foreign).status == Status.PUBLISHED


# Looking, retrying, deleting


def test_each_service_counts_its_own_messages() -> None:
    late = DatabaseNow() - AN_HOUR
    for status in Status.values:
        for source, times in (("tests", 1), (FOREIGN, 2)):
            for _ in range(times):
                due = {"next_retry_at": late} if status == Status.PENDING and source == FOREIGN else {}
                make_message(status, source=source, event_type="test.effect", published_at=late, created_at=late, **due)
    found = full_status("default", broker=False)["outbox"]
    assert [found[status] for status in Status.values] == [1] * 4
    assert found["due"] == 1
    assert found["longest_due_seconds"] < 3000
    gauges = unfinished("default")["outbox"]
    assert gauges.counts == {"pending": 1, "published": 1, "dead": 1}
    assert gauges.overdue < 3000


def test_what_another_service_has_published_is_not_awaited_here() -> None:
    make_message(Status.PUBLISHED, source=FOREIGN, event_type="test.effect", published_at=DatabaseNow() - AN_HOUR)
    assert longest_unhandled("default") is None
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - AN_HOUR)
    assert longest_unhandled("default") is not None


def test_each_service_deletes_its_own_messages() -> None:
    old = timezone.now() - timedelta(days=900)
    ended = (Status.PUBLISHED, Status.CONSUMED, Status.DEAD)
    messages = {
        source: [make_message(status, source=source, event_type="for.others", created_at=old) for status in ended]
        for source in ("tests", FOREIGN)
    }
    OutboxMessage.objects.update(updated_at=old)

    call_command("outbox_purge", dead=timedelta(days=30), stdout=StringIO())

    assert set(OutboxMessage.objects.values_list("id", flat=True)) == {message.id for message in messages[FOREIGN]}


def test_a_relay_deletes_what_has_expired_whatever_relays_other_services_run() -> None:
    """Of several relays one does it, but of those of its own service."""
    old = timezone.now() - timedelta(days=900)
    own = make_message(Status.CONSUMED)
    foreign = make_message(Status.CONSUMED, source=FOREIGN)
    OutboxMessage.objects.update(created_at=old, updated_at=old)
    with service(FOREIGN):
        Heartbeat(WorkerState("relay", Clock()), using="default").beat()
    worker_state, clock = WorkerState("relay", Clock()), Clock()
    Heartbeat(worker_state, using="default").beat()

    BackgroundPurge(worker_state, using="default", handlers=registry, clock=clock).run_if_due(False, False)

    assert list(OutboxMessage.objects.values_list("id", flat=True)) == [foreign.id]
    assert own.id != foreign.id


def test_each_service_sees_its_own_workers() -> None:
    with service(FOREIGN):
        Heartbeat(WorkerState("relay", Clock()), using="default").beat()
    (finding,) = workers.relays(Installation("default"))
    assert finding.summary == "No relay is running."
    with service(FOREIGN):
        assert list(workers.relays(Installation("default"))) == []


def test_each_service_retries_its_own_dead_letters() -> None:
    own, foreign = make_message(Status.DEAD), make_message(Status.DEAD, source=FOREIGN)
    call_command("outbox_retry", all=True, stdout=StringIO())
    assert (row(own).status, row(foreign).status) == (Status.PENDING, Status.DEAD)
    with pytest.raises(CommandError, match=f"Message {foreign.id} has the source 'billing': retry it with that SOURCE"):
        call_command("outbox_retry", id=[foreign.id])
    with service(FOREIGN):
        call_command("outbox_retry", id=[foreign.id], stdout=StringIO())
    assert row(foreign).status == Status.PENDING


def test_a_retry_leaves_a_message_with_its_service() -> None:
    """Also one by the admin, which shows the messages of all services."""
    foreign = make_message(Status.DEAD, source=FOREIGN)
    retry(OutboxMessage.objects.all(), using="default")
    assert (row(foreign).status, row(foreign).source) == (Status.PENDING, FOREIGN)
    assert Relay(memory_broker(), using="default").run_once().claimed == 0


# The doctor


def test_the_doctor_reports_unfinished_messages_of_another_source() -> None:
    installation = Installation("default")
    make_message()
    make_message(Status.CONSUMED, source="long gone")
    assert list(workers.sources(installation)) == []

    make_message(source=FOREIGN)
    make_message(source=FOREIGN)
    make_message(Status.PUBLISHED, source=FOREIGN)
    make_message(Status.PUBLISHED, source="crm")

    found = list(workers.sources(installation))
    assert [(each.level, each.summary) for each in found] == [
        (
            Level.NOTE,
            "2 pending messages and 1 published message have the source 'billing'; SOURCE is 'tests'.",
        ),
        (Level.NOTE, "0 pending messages and 1 published message have the source 'crm'; SOURCE is 'tests'."),
    ]
    assert "run both with the SOURCE 'billing' until these messages are finished" in found[0].remedy


def test_the_doctor_warns_of_messages_of_another_source_that_nobody_sends() -> None:
    make_message(source=FOREIGN, next_retry_at=DatabaseNow() - AN_HOUR)
    (finding,) = workers.sources(Installation("default"))
    assert finding.level == Level.WARNING
    assert "One has been due for 1:00:0" in finding.why


# Changing SOURCE


def test_after_a_change_of_source_what_was_on_its_way_is_finished_under_the_old_one() -> None:
    broker = memory_broker()
    pending = publish_as("tests", "pending")
    published = publish_as("tests", "published")
    OutboxMessage.objects.filter(id=pending.id).update(next_retry_at=timezone.now() + AN_HOUR)
    with service("tests", CONSUMER_GROUP="workers"):
        Relay(broker, using="default").run_once()
    OutboxMessage.objects.filter(id=pending.id).update(next_retry_at=DatabaseNow())

    with service("shop", CONSUMER_GROUP="workers"):
        new = publish_as("shop", "new")
        Relay(broker, using="default").run_once()
    assert (row(pending).status, row(published).status) == (Status.PENDING, Status.PUBLISHED)

    for source in ("tests", "shop"):
        with service(source, CONSUMER_GROUP=source):
            pipeline = Pipeline(broker)
            pipeline.on("order.created")
            pipeline.run()
            expected = {"tests": {pending, published}, "shop": {new}}[source]
            of_outbox = {event.id for event in pipeline.handled if event.source == source}
            assert of_outbox == {str(message.event_id) for message in expected}
    assert {row(message).status for message in (pending, published, new)} == {Status.CONSUMED}


# Plans


@pytest.mark.databases("mariadb")
# ANALYZE TABLE commits, which a rollback would not undo.
@pytest.mark.django_db(transaction=True)
def test_on_mariadb_a_claim_does_not_walk_over_messages_of_another_service() -> None:
    OutboxMessage.objects.bulk_create(
        OutboxMessage(event_type="e", topic="outbox", payload=1, source=FOREIGN, next_retry_at=timezone.now() - AN_HOUR)
        for _ in range(5000)
    )
    for _ in range(10):
        make_message(message_key="a")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE django_outbox_outboxmessage")
        cursor.fetchall()

        def reads() -> int:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(count) for _, count in cursor.fetchall())

        relay = Relay(memory_broker(), using="default", batch_size=5)
        before = reads()
        assert relay.run_once().published == 5
        assert reads() - before < 1000
