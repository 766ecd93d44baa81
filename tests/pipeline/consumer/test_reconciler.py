"""The reconciler: what is published but will never be read is sent again, and nothing else is."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.brokers.base import Progress, Subscription, TopicPartition
from django_outbox.consumer.lanes import Lanes
from django_outbox.consumer.reconciler import LOST_AFTER
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import outbox as state
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, in_thread, make_message, memory_broker, row, send, statuses
from tests.support.reconciliation import look, published_ago

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)
OUTBOX = TopicPartition("outbox", 0)


@pytest.fixture
def pipeline(clock: Clock) -> Pipeline:
    """The log holds two records, and the group has read both."""
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    make_message()
    make_message()
    pipeline.run()
    OutboxMessage.objects.all().delete()
    pipeline.handled.clear()
    return pipeline


published_long_ago = partial(published_ago, AN_HOUR)


def lose_the_log(pipeline: Pipeline) -> None:
    """As a broker that comes back empty, or a topic that is made anew: members begin again."""
    pipeline.broker.cluster.logs[OUTBOX].clear()
    pipeline.consumer.subscription.assign({OUTBOX}, {})  # type: ignore[union-attr]


def test_a_message_whose_record_was_passed_is_sent_again_uncounted(pipeline: Pipeline, clock: Clock) -> None:
    message = published_long_ago(retry_count=3, last_error="of the last time", delivery_count=1)

    look(pipeline, clock)

    now = row(message)
    assert (now.status, now.retry_count, now.delivery_count) == (Status.PENDING, 3, 1)
    assert now.last_error == "of the last time"
    pipeline.run()
    assert [event.id for event in pipeline.handled] == [str(message.event_id)]
    assert row(message).status == Status.CONSUMED


def test_what_a_broker_lost_is_sent_again(pipeline: Pipeline, clock: Clock) -> None:
    messages = [published_long_ago(offset=offset) for offset in (7, 8)]
    lose_the_log(pipeline)

    look(pipeline, clock)
    pipeline.run()

    assert [event.id for event in pipeline.handled] == [str(message.event_id) for message in messages]


def test_what_was_published_to_a_topic_that_was_made_anew_is_read_and_not_sent_again(
    pipeline: Pipeline, clock: Clock
) -> None:
    """What the group committed is of the former topic, and larger than the new topic's offsets."""
    lose_the_log(pipeline)
    assert pipeline.consumer.subscription is not None
    make_message()
    pipeline.relay.run_once()
    OutboxMessage.objects.update(published_at=timezone.now() - AN_HOUR)
    pipeline.consumer.subscription.commit({OUTBOX: 99})

    look(pipeline, clock)

    assert [event.attempt for event in pipeline.handled] == [1]


def test_what_a_member_will_not_read_as_the_new_log_is_as_long_as_the_lost_one_is_sent_again(
    pipeline: Pipeline, clock: Clock
) -> None:
    """It waits at the end of the log, where it was, and the broker has lost what the group committed, too."""
    assert pipeline.consumer.subscription is not None
    for group in pipeline.broker.cluster.groups.values():
        group.committed.clear()
    message = published_long_ago(offset=1)

    look(pipeline, clock)

    assert row(message).status == Status.PENDING


def test_what_lies_before_the_end_of_a_log_that_is_gone_is_sent_again_as_the_member_stands_still(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client still says where the former log ended."""
    subscription = pipeline.consumer.subscription
    assert subscription is not None
    message = published_long_ago(offset=2)
    seen = {OUTBOX: Progress(0, 3, None, 2)}
    monkeypatch.setattr(subscription, "progress", lambda: seen)

    look(pipeline, clock)
    assert row(message).status == Status.PUBLISHED
    seen = {OUTBOX: Progress(0, 4, None, 2)}  # it may be about to read
    look(pipeline, clock)
    assert row(message).status == Status.PUBLISHED
    look(pipeline, clock)
    assert row(message).status == Status.PENDING


@pytest.mark.parametrize("busy", ["others come first", "paused", "something to handle"])
def test_what_a_busy_member_has_not_come_to_is_not_lost(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch, busy: str
) -> None:
    """Its position stands still, too: clients return what they have fetched of one partition before that of another."""
    subscription = pipeline.consumer.subscription
    assert subscription is not None
    message = published_long_ago(offset=2)
    with monkeypatch.context() as patch:
        patch.setattr(subscription, "progress", lambda: {OUTBOX: Progress(0, 3, None, 2)})
        if busy == "paused":
            patch.setattr(Lanes, "full", {OUTBOX})
        elif busy == "something to handle":
            patch.setattr(Lanes, "active", 1)
        for _ in range(3):
            if busy == "others come first":
                send(pipeline.broker)
            look(pipeline, clock)

    assert row(message).status == Status.PUBLISHED


def test_what_was_published_to_a_partition_that_is_gone_is_sent_again(pipeline: Pipeline, clock: Clock) -> None:
    message = published_long_ago(partition=5, offset=1)

    look(pipeline, clock)

    assert row(message).status == Status.PENDING


def test_what_was_published_to_an_offset_that_nobody_knows_is_sent_again_when_all_is_read(
    pipeline: Pipeline, clock: Clock
) -> None:
    message = published_long_ago(offset=None)

    look(pipeline, clock)

    assert row(message).status == Status.PENDING


def test_a_broker_that_does_not_know_the_topic_for_a_moment_has_nothing_sent_again(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = published_long_ago(partition=5)
    monkeypatch.setattr(pipeline.broker, "progress", lambda topics, group: {})

    look(pipeline, clock)

    assert row(message).status == Status.PUBLISHED


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 2},
        {"published_at": timezone.now() + timedelta(days=1)},
        {"event_type": "nobody.wants.it"},
        {"event_type": "elsewhere.only"},
        {"topic": "not.read.here"},
    ],
    ids=["not read yet", "just published", "without handler", "handler of another topic", "topic not read"],
)
def test_nothing_else_is_sent_again(pipeline: Pipeline, clock: Clock, fields: dict[str, Any]) -> None:
    pipeline.handlers.register("elsewhere.only", print, topic="elsewhere")
    message = published_long_ago(**fields)
    pipeline.broker.cluster.logs[OUTBOX].append(pipeline.broker.records("outbox")[0])  # to be read as the third

    clock.now += 30
    pipeline.consumer.reconciler.check_if_due(pipeline.consumer.subscription)  # type: ignore[arg-type]

    assert row(message).status == Status.PUBLISHED


@pytest.mark.parametrize("status", [Status.PENDING, Status.CONSUMED, Status.DEAD])
def test_only_what_is_published_is_sent_again(pipeline: Pipeline, clock: Clock, status: str) -> None:
    due = timezone.now() + AN_HOUR if status == Status.PENDING else None
    make_message(status, partition=0, offset=0, published_at=timezone.now() - AN_HOUR, next_retry_at=due)

    look(pipeline, clock)

    assert statuses() == [status]


def test_it_looks_every_thirty_seconds_and_asks_little(pipeline: Pipeline, clock: Clock) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            pipeline.consumer.run_once()
        return len([query for query in queries if "outboxmessage" in query["sql"] and "SELECT" in query["sql"]])

    first = asked()
    clock.now += 30
    assert (first, asked(), asked()) == (0, 4, 0)  # behind, beyond, in partitions that are gone, and of Debezium
    clock.now += 29
    assert asked() == 0


def test_what_is_sent_while_a_look_takes_long_is_not_taken_for_lost(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has told where its log ends before that."""
    pipeline = Pipeline(clock=clock, topics=["a", "outbox"])
    pipeline.on("order.created")
    make_message(topic="a")
    make_message()
    pipeline.run()
    progress = pipeline.broker.progress

    def slowly(topics: Any, group: str) -> Any:
        if list(topics) == ["a"]:
            make_message()
            pipeline.relay.run_once()
            clock.now += 40
            OutboxMessage.objects.published().update(published_at=DatabaseNow() - timedelta(seconds=39))
        return progress(topics, group)

    monkeypatch.setattr(pipeline.broker, "progress", slowly)
    clock.now += 30
    pipeline.consumer.reconciler.check_if_due(pipeline.consumer.subscription)  # type: ignore[arg-type]

    assert statuses() == ["consumed", "consumed", "published"]


def test_a_record_in_hand_is_never_taken_for_lost(clock: Clock) -> None:
    """The look waits until all that was read has been handled."""

    class Killed(BaseException):
        pass

    def kill(event: Any) -> None:
        clock.now += 30
        raise Killed

    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created", kill)
    make_message()
    make_message()
    pipeline.relay.run_once()
    OutboxMessage.objects.update(published_at=timezone.now() - AN_HOUR)

    for _ in range(2):
        with pytest.raises(Killed):
            pipeline.consumer.run_once()

    assert statuses() == ["published", "published"]


@pytest.mark.parametrize("offset", [0, 2], ids=["at that of the one in hand", "behind it"])
def test_what_a_message_in_hand_waits_for_is_sent_again_though_the_new_log_has_its_offset(
    offset: int, clock: Clock
) -> None:
    """The topic was made anew, and its log has grown past the lost record."""
    pipeline = Pipeline(clock=clock, hold=50)
    pipeline.on("order.created")
    lost = published_long_ago(offset=offset, message_key="a")
    waiting = make_message(message_key="a")
    for _ in range(3):
        make_message(message_key="b")
    pipeline.turn()
    OutboxMessage.objects.filter(id=waiting.id).update(published_at=timezone.now() - AN_HOUR / 2)

    look(pipeline, clock)

    assert (row(lost).status, row(waiting).status) == (Status.PENDING, Status.PUBLISHED)
    for _ in range(2):
        clock.now += 2
        pipeline.turn()
    assert [event.id for event in pipeline.handled[-2:]] == [str(lost.event_id), str(waiting.event_id)]
    assert row(waiting).publish_count == 1


def test_a_broker_that_does_not_tell_stops_nothing(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Subscription) -> Any:
        raise BrokerUnavailable("not authorized to ask")

    monkeypatch.setattr(type(pipeline.consumer.subscription), "progress", refuse)
    make_message()
    pipeline.relay.run_once()

    for _ in range(3):
        look(pipeline, clock)

    assert len(pipeline.handled) == 1
    told = [r for r in caplog.records if "not authorized to ask" in r.getMessage()]
    assert len(told) <= 2  # at its start, and a minute later


def test_a_topic_of_which_the_broker_tells_nothing_stops_no_other(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(clock=clock, topics=["a", "b"])
    pipeline.on("order.created")
    pipeline.consumer.run_once()
    lost = published_long_ago(topic="b", partition=5)
    told = pipeline.broker.progress

    def progress(topics: Any, group: str) -> Any:
        if "a" in topics:
            raise TopicNotReadable({"a"}, "memory tells nothing of a: no leader of partition 1.")
        return told(topics, group)

    monkeypatch.setattr(pipeline.broker, "progress", progress)
    look(pipeline, clock)

    assert row(lost).status == Status.PENDING
    assert "Comparing with the broker: memory tells nothing of a: no leader of partition 1." in caplog.text


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_what_another_session_works_on_is_left_alone(pipeline: Pipeline, clock: Clock) -> None:
    message = published_long_ago()

    with transaction.atomic():
        state.lock([message.id], using="default")
        with in_thread(lambda: look(pipeline, clock)):
            pass

    assert row(message).status == Status.PUBLISHED


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_it_walks_neither_what_is_in_flight_nor_what_is_for_others() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (event_id, event_type, event_version, topic,"
            " message_key, payload, headers, status, publish_count, delivery_count, retry_count,"
            ' max_retry, last_error, next_retry_at, published_at, "partition", "offset")'
            " SELECT gen_random_uuid(), CASE WHEN n <= 20000 THEN 'for.others' ELSE 'order.created' END, 'v1', 'outbox',"
            " n::text, '1', '{}', 'published', 1, 0, 0, 20, '', NULL, now() - interval '1 hour', 0, n"
            " FROM generate_series(1, 40000) AS n"
        )
        cursor.execute("ANALYZE django_outbox_outboxmessage")

    with CaptureQueriesContext(connection) as queries:
        assert (
            state.requeue_lost(OUTBOX, 20001, 40001, age=LOST_AFTER, event_types=["order.created"], using="default")
            == 0
        )
        assert (
            state.requeue_without_partition("outbox", 1, age=LOST_AFTER, event_types=["order.created"], using="default")
            == 0
        )

    looks: list[str] = [query["sql"] for query in queries if query["sql"].startswith("SELECT")]
    assert len(looks) == 3
    with connection.cursor() as cursor:
        for sql in looks:
            cursor.execute("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + sql)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "django_outbox_place" in plan, plan
            assert "Rows Removed" not in plan, plan


def test_a_consumer_of_unknown_events_that_are_dead_looks_for_these_too(settings: Any, clock: Clock) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "UNKNOWN_EVENT": "dead"}
    pipeline = Pipeline(memory_broker(), clock=clock)
    pipeline.on("order.created")
    pipeline.run()
    make_message()
    pipeline.run()
    lost = published_long_ago(event_type="nobody.wants.it")

    look(pipeline, clock)
    pipeline.run()

    assert row(lost).status == Status.DEAD
