"""Purging: in small steps from the oldest on, by the primary key; what is gone breaks neither order nor deduplication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models, transaction
from django.db.models import Q
from django.test.utils import CaptureQueriesContext

from django_outbox.brokers.base import ReceivedRecord, Record
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import purging
from django_outbox.state.purging import Walk, delete_batch
from django_outbox.state.retention import expiries
from django_outbox.state.retry import retry
from tests.support.inbox import Receiver, received
from tests.support.outbox import Pipeline, Status, in_thread, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
WEEK = 7 * DAY
AGES = {"consumed": WEEK, "published": WEEK, "dead": None, "inbox": WEEK}


def age(messages: Any, by: timedelta = 30 * DAY) -> None:
    messages.update(created_at=DatabaseNow() - by, updated_at=DatabaseNow() - by)


def make_old(status: str, **fields: Any) -> OutboxMessage:
    message = make_message(status, **fields)
    age(OutboxMessage.objects.filter(id=message.id))
    return message


def walk(ages: Any = AGES, handlers: Registry | None = None) -> Walk:
    return Walk(expiries(ages, handlers or Registry())[0], using="default")


def purge(size: int = 100, **options: Any) -> Counter[str]:
    """All of it, outbox and inbox."""
    found: Counter[str] = Counter()
    for expiry in expiries({**AGES, **options}, Registry()):
        for step in Walk(expiry, using="default").steps(lambda: size):
            found += step.counts
    return found


@contextmanager
def notes(**options: Any) -> Iterator[Any]:
    """A model of the project's own with a foreign key to messages, for as long as a test takes."""

    class Note(models.Model):
        message = models.ForeignKey(OutboxMessage, **options)

        class Meta:
            app_label = "tests_app"

        def __str__(self) -> str:
            return f"about {self.message_id}"

    with connection.schema_editor() as editor:
        editor.create_model(Note)
    try:
        yield Note
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Note)
        del apps.all_models["tests_app"]["note"]
        apps.clear_cache()


# Steps


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("related_name", [None, "+"])
def test_what_a_project_has_of_its_own_about_a_message_goes_with_it(related_name: str | None) -> None:
    with notes(on_delete=models.CASCADE, related_name=related_name) as note:
        note.objects.create(message=make_old(Status.CONSUMED))
        kept = note.objects.create(message=make_message())
        assert purge() == {"consumed": 1}
        assert list(note.objects.all()) == [kept]


def test_each_step_looks_at_so_many_rows_and_says_how_far_it_is() -> None:
    for status in (Status.CONSUMED, Status.PENDING, Status.CONSUMED, Status.PUBLISHED, Status.CONSUMED):
        make_old(status)
    steps = list(walk().steps(lambda: 2))
    assert [dict(step.counts) for step in steps] == [{"consumed": 1}, {"consumed": 1, "published": 1}, {"consumed": 1}]
    assert [step.share for step in steps] == [0.4, 0.8, 1.0]
    assert statuses() == ["pending"]


def test_a_walk_that_ends_early_leaves_the_rest_to_the_next() -> None:
    for _ in range(5):
        make_old(Status.CONSUMED)
    next(walk().steps(lambda: 2))
    assert len(statuses()) == 3
    assert purge() == {"consumed": 3}


def test_an_empty_table_is_no_step() -> None:
    assert list(walk().steps(lambda: 2)) == []


def test_a_step_takes_as_many_statements_however_many_rows_it_deletes() -> None:
    for _ in range(20):
        make_old(Status.CONSUMED)
    steps = walk().steps(lambda: 10)
    with CaptureQueriesContext(connection) as queries:
        next(steps)
    reads = [query["sql"] for query in queries if query["sql"].startswith("SELECT")]
    assert (len(reads), len(statuses())) == (3, 10)
    deletes = [query["sql"] for query in queries if query["sql"].startswith("DELETE")]
    assert len(deletes) == 3  # failures, task runs, messages


def test_the_young_are_not_walked_but_for_a_few_behind_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SLACK", 3)
    old = [make_old(Status.CONSUMED) for _ in range(40)]
    for _ in range(60):
        make_message(Status.CONSUMED)
    looked_at = list(walk().count(1))
    assert 40 <= len(looked_at) <= 40 + 2 * 3
    assert sum(step.counts["consumed"] for step in looked_at) == len(old)


def test_a_gap_in_the_ids_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SLACK", 0)
    first = make_old(Status.CONSUMED)
    for far in (1_000, 1_001, 1_000_000):
        make_old(Status.CONSUMED, id=first.id + far)
    make_message(Status.CONSUMED, id=first.id + 2_000_000)
    assert purge() == {"consumed": 4}
    assert len(statuses()) == 1


def test_what_was_written_out_of_order_is_found_within_the_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SLACK", 2)
    for _ in range(10):
        make_old(Status.CONSUMED)
    make_message(Status.PENDING)
    make_old(Status.CONSUMED)  # a younger id, but the older message
    for _ in range(28):
        make_message(Status.PENDING)
    assert purge() == {"consumed": 11}


def test_counting_changes_nothing() -> None:
    make_old(Status.CONSUMED)
    assert [dict(step.counts) for step in walk().count(10)] == [{"consumed": 1}]
    assert statuses() == ["consumed"]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_a_row_that_another_session_has_in_hand_is_passed_over_and_goes_next_time() -> None:
    first, _ = make_old(Status.CONSUMED), make_old(Status.CONSUMED)
    found: list[Counter[str]] = []
    with transaction.atomic():
        OutboxMessage.objects.select_for_update().get(id=first.id)
        with in_thread(lambda: found.append(purge())):
            pass
    assert found == [{"consumed": 1}]
    assert purge() == {"consumed": 1}


def test_what_no_longer_fits_when_it_is_to_be_deleted_stays() -> None:
    message = make_old(Status.DEAD)
    expired = OutboxMessage.objects.filter(expiries({**AGES, "dead": WEEK}, Registry())[0].expired)
    assert list(expired) == [message]
    retry(OutboxMessage.objects.all(), using="default")
    assert delete_batch(expired, [message.id], using="default") == []
    assert statuses() == ["pending"]


@pytest.mark.databases("postgresql")
def test_the_primary_key_finds_what_has_expired() -> None:
    OutboxMessage.objects.bulk_create(
        (
            OutboxMessage(
                event_type="a", topic="t", payload={}, status="consumed", next_retry_at=None, consumed_at=DatabaseNow()
            )
            for _ in range(5000)
        ),
        batch_size=1000,
    )
    age(OutboxMessage.objects.all())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_outbox_outboxmessage")
    with CaptureQueriesContext(connection) as queries:
        next(walk().steps(lambda: 100))
    for query in queries:
        if query["sql"].startswith("SELECT") and "FOR UPDATE" not in query["sql"]:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {query['sql']}")
                plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "django_outbox_outboxmessage_pkey" in plan, plan
            assert "Seq Scan" not in plan


# What comes of records whose message is gone


def repeat(pipeline: Pipeline, record: ReceivedRecord) -> None:
    """Put a copy of a record into its topic, as a relay does that was killed before its commit."""
    copy = Record(record.topic, record.key, record.value, record.headers)
    pipeline.broker.producer(1).send([copy], 1)


def published_and_consumed(pipeline: Pipeline, **fields: Any) -> tuple[OutboxMessage, Any]:
    message = make_message(**fields)
    pipeline.relay.run_once()
    record = pipeline.broker.records("outbox")[-1]
    pipeline.consumer.run_once()
    assert row(message).status == "consumed"
    return message, record


@pytest.mark.parametrize("steady", [False, True], ids=["counted", "steady"])
def test_a_late_copy_of_a_purged_message_is_not_handled_again(steady: bool) -> None:
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created")
    _, record = published_and_consumed(pipeline)
    age(OutboxMessage.objects.filter(status="consumed"))
    purge()
    assert statuses() == []
    handled = len(pipeline.handled)

    repeat(pipeline, record)
    batch = pipeline.consumer.run_once()

    assert len(pipeline.handled) == handled
    assert (batch.consumed, batch.skipped) == (0, 1)


def test_a_copy_of_a_purged_message_does_not_hold_up_its_key() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    _, record = published_and_consumed(pipeline, message_key="k")
    age(OutboxMessage.objects.all())
    purge()
    later = make_message(message_key="k")

    repeat(pipeline, record)
    pipeline.relay.run_once()
    pipeline.consumer.run_once()

    assert row(later).status == "consumed"
    assert [event.id for event in pipeline.handled][1:] == [str(later.event_id)]


def test_ids_of_purged_messages_are_not_given_again() -> None:
    """Or a late copy could be taken for the record of another message."""
    last = make_old(Status.CONSUMED)
    purge()
    assert make_message().id > last.id


def test_what_waits_for_its_handler_is_kept_and_handled_however_late() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = make_message()
    pipeline.relay.run_once()
    age(OutboxMessage.objects.all(), 3650 * DAY)
    for expiry in expiries(AGES, pipeline.handlers):
        for step in Walk(expiry, using="default").steps(lambda: 100):
            assert not step.counts

    pipeline.consumer.run_once()

    assert row(message).status == "consumed"
    assert [event.id for event in pipeline.handled] == [str(message.event_id)]


def test_a_dead_message_that_held_its_key_holds_nothing_once_it_is_purged() -> None:
    with outbox_settings(ON_DEAD="hold"):
        pipeline = Pipeline()
        pipeline.on("order.created")
        make_old(Status.DEAD, message_key="k")
        later = make_message(message_key="k")
        pipeline.relay.run_once()
        assert row(later).status == "pending"
        purge(dead=WEEK)
        OutboxMessage.objects.filter(id=later.id).update(next_retry_at=DatabaseNow())
        pipeline.relay.run_once()
        assert row(later).status == "published"


def test_a_copy_within_the_retention_of_the_inbox_is_not_handled_again() -> None:
    receiver = Receiver()
    receiver.on("order.created")
    record = received({"order": 1})
    receiver.receive(record)
    age(InboxMessage.objects.all(), 6 * DAY)
    assert purge() == {}

    receiver.restart()
    receiver.receive(record)

    assert receiver.payloads == [{"order": 1}]


def test_dead_letters_of_the_inbox_go_with_those_of_the_outbox() -> None:
    make_old(Status.DEAD)
    receiver = Receiver()
    receiver.receive(received(value=b"{", type=None))
    assert InboxMessage.objects.get().status == "dead"
    age(InboxMessage.objects.all())
    assert purge() == {}
    assert purge(dead=WEEK) == {"dead": 1, "dead inbox": 1}


def test_deleting_counts_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "BATCH_SIZE", 2)
    for _ in range(4):
        make_message("published")
    assert purging.delete(OutboxMessage.objects.all(), using="default") == 4


def test_a_walk_says_how_far_it_is() -> None:
    for _ in range(3):
        make_old(Status.CONSUMED)
    OutboxMessage.objects.order_by("id").first().delete()  # type: ignore[union-attr]
    for _ in range(2):
        make_old(Status.CONSUMED)
    assert [step.share for step in walk().steps(lambda: 2)] == [0.5, 1.0]


def test_a_walk_counts_what_it_would_delete_or_what_is_asked_for() -> None:
    make_old(Status.CONSUMED, topic="a")
    make_old(Status.CONSUMED, topic="b")

    def count(*which: Q) -> Counter[str]:
        return sum((step.counts for step in walk().count(2, *which)), Counter())

    assert count() == {"consumed": 2}
    assert count(Q(topic="a")) == {"consumed": 1}
    assert OutboxMessage.objects.count() == 2
