"""Order by key, through failures, retries, several relays and several consumers."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.brokers import memory
from django_outbox.brokers.base import Failed, SendResult
from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.relay.claims import PostgresqlClaims
from django_outbox.relay.relay import Relay
from django_outbox.state.retry import retry
from tests.support.outbox import Pipeline, ScriptedBroker, Status, make_due, make_message, memory_broker, row, statuses

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On PostgreSQL, a relay that expects little looks for earlier messages in another way: order holds in both."""
    ways = [True, False] if metafunc.config.option.database == "postgresql" else [True]
    metafunc.parametrize("expects_full", ways, ids=lambda much: "much is due" if much else "little is due")


@pytest.fixture(autouse=True)
def expected(expects_full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresqlClaims, "expects_full", expects_full)


def fails_first(events: list[Event], *, times: int = 1) -> Any:
    """A handler that keeps what it gets, but for the first deliveries, which fail however often they are tried."""
    failing: set[tuple[str, int | None]] = set()

    def handle(event: Event) -> None:
        delivery = (event.id, event.attempt)
        if delivery in failing or len(failing) < times:
            failing.add(delivery)
            raise ArithmeticError("not yet")
        events.append(event)

    return handle


def handled_payloads(pipeline: Pipeline) -> list[Any]:
    return [event.payload for event in pipeline.handled]


# The relay


def test_an_earlier_message_that_waits_for_its_retry_holds_the_later_ones() -> None:
    broker = memory_broker()
    later = timezone.now() + AN_HOUR
    first = make_message(message_key="a", next_retry_at=later)
    second = make_message(message_key="a")
    other = make_message(message_key="b")

    done = Relay(broker, using="default").run_once()

    assert (done.claimed, done.published, done.blocked, done.postponed) == (2, 1, 1, 1)
    assert row(second).next_retry_at == row(first).next_retry_at
    assert row(second).retry_count == 0
    assert row(other).status == Status.PUBLISHED


def test_the_same_key_of_another_topic_is_another_order() -> None:
    make_message(message_key="a", topic="one", next_retry_at=timezone.now() + AN_HOUR)
    other = make_message(message_key="a", topic="two")

    Relay(memory_broker(), using="default").run_once()

    assert row(other).status == Status.PUBLISHED


def test_messages_without_key_have_no_order() -> None:
    make_message(next_retry_at=timezone.now() + AN_HOUR)
    second = make_message()

    Relay(memory_broker(), using="default").run_once()

    assert row(second).status == Status.PUBLISHED


def test_ordering_none_lets_everything_pass(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ORDERING": "none"}
    make_message(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    second = make_message(message_key="a")

    Relay(memory_broker(), using="default").run_once()

    assert row(second).status == Status.PUBLISHED


def test_a_key_goes_out_in_the_order_of_ids_whatever_their_due_times() -> None:
    broker = memory_broker()
    now = timezone.now()
    for minutes in (1, 3, 2):
        make_message(message_key="a", payload=minutes, next_retry_at=now - timedelta(minutes=minutes))

    Relay(broker, using="default").run_once()

    assert [record.value for record in broker.records("outbox")] == [b"1", b"3", b"2"]


def test_a_batch_that_cuts_a_key_in_two_keeps_its_order() -> None:
    broker = memory_broker()
    now = timezone.now()
    # The third is due before the first two, so it comes into a batch of one before them.
    for payload, minutes in ((1, 1), (2, 2), (3, 3)):
        make_message(message_key="a", payload=payload, next_retry_at=now - timedelta(minutes=minutes))
    relay = Relay(broker, using="default", batch_size=1)

    for _ in range(3):
        relay.run_once()

    records = [record.value for record in broker.records("outbox")]
    assert records == sorted(records)


def test_a_hot_key_goes_out_in_full_batches() -> None:
    OutboxMessage.objects.bulk_create(
        OutboxMessage(event_type="e", topic="outbox", message_key="hot", payload=n) for n in range(300)
    )
    # Each reading of the clock is a second later: a slow relay, whose batches do not grow.
    relay = Relay(memory_broker(), using="default", batch_size=100, clock=map(float, count()).__next__)

    assert [relay.run_once().published for _ in range(4)] == [100, 100, 100, 0]


def test_of_a_key_only_what_was_taken_before_a_failure_counts() -> None:
    def second_fails(records: Any, outcomes: list[SendResult]) -> list[SendResult]:
        return [outcomes[0], Failed("boom"), *outcomes[2:]]

    broker = ScriptedBroker(second_fails)
    first, second, third = (make_message(message_key="a") for _ in range(3))
    free = make_message(message_key="b")

    done = Relay(broker, using="default").run_once()

    assert (done.published, done.failed) == (2, 1)
    assert statuses() == ["published", "pending", "pending", "published"]
    assert (row(second).retry_count, row(third).retry_count) == (1, 0)
    assert (row(third).publish_count, row(free).publish_count) == (0, 1)
    assert row(first).offset == 0


@pytest.mark.databases("postgresql")
def test_a_hundred_thousand_blocked_messages_do_not_keep_a_free_one_back() -> None:
    """They come first by their due time, and all wait for one that fails."""
    make_message(message_key="failing", next_retry_at=timezone.now() + AN_HOUR)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (event_id, event_type, event_version, topic,"
            " message_key, payload, headers, status, publish_count, delivery_count, retry_count,"
            " max_retry, last_error) SELECT gen_random_uuid(), 'e', 'v1', 'outbox', 'failing', '1',"
            " '{}', 'pending', 0, 0, 0, 20, '' FROM generate_series(1, 100000)"
        )
    free = make_message(message_key="free")
    relay = Relay(memory_broker(), using="default")

    first, second = relay.run_once(), relay.run_once()

    assert (first.published, first.postponed) == (0, 100_000)
    assert (second.claimed, second.published) == (1, 1)
    assert row(free).status == Status.PUBLISHED


# The consumer


def test_messages_of_a_key_are_handled_in_order_through_failures() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fails_first(pipeline.handled))
    messages = [make_message(message_key="a", payload=n) for n in range(3)]

    pipeline.turn()
    assert handled_payloads(pipeline) == []
    assert statuses() == ["pending", "pending", "pending"]
    assert [row(m).retry_count for m in messages] == [1, 0, 0]
    assert len({row(m).next_retry_at for m in messages}) == 1

    make_due(*messages)
    pipeline.run()
    assert handled_payloads(pipeline) == [0, 1, 2]
    assert statuses() == ["consumed"] * 3


def test_a_failed_message_that_was_sent_again_still_comes_first() -> None:
    pipeline = Pipeline(batch_size=1)
    pipeline.on("order.created", fails_first(pipeline.handled))
    first, second = (make_message(message_key="a", payload=n) for n in range(2))
    pipeline.turn()  # both are published, the first fails
    make_due(first)
    pipeline.relay.run_once()  # the first is published again, behind the second

    assert pipeline.consumer.run_once().requeued == 1
    assert (row(second).status, row(second).retry_count) == (Status.PENDING, 0)

    pipeline.run()
    assert handled_payloads(pipeline) == [0, 1]


def test_other_keys_pass_a_failed_message() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", fails_first(pipeline.handled))
    for key in ("a", "b", ""):
        make_message(message_key=key, payload=key)

    pipeline.turn()

    assert handled_payloads(pipeline) == ["b", ""]


def test_later_messages_pass_a_dead_one_by_default() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    make_message(Status.DEAD, message_key="a")
    make_message(message_key="a", payload="later")

    pipeline.run()

    assert handled_payloads(pipeline) == ["later"]


def test_on_dead_hold_parks_a_key_until_an_operator_retries(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    pipeline = Pipeline()
    pipeline.on("order.created")
    dead = make_message(Status.DEAD, message_key="a", payload="first")
    later = make_message(message_key="a", payload="later")

    pipeline.run()
    assert handled_payloads(pipeline) == []
    assert (row(later).status, row(later).retry_count) == (Status.PENDING, 0)

    retry(OutboxMessage.objects.filter(id=dead.id), using="default")
    make_due(later)
    pipeline.run()
    assert handled_payloads(pipeline) == ["first", "later"]


def test_on_dead_hold_also_holds_what_was_published_already(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    pipeline = Pipeline()
    pipeline.on("order.created", fails_first(pipeline.handled, times=99))
    make_message(message_key="a", max_retry=1)
    later = make_message(message_key="a")

    pipeline.relay.run_once()
    batch = pipeline.consumer.run_once()

    assert (batch.failed, batch.requeued) == (1, 1)
    assert statuses() == ["dead", "pending"]
    wait = row(later).next_retry_at - row(later).updated_at  # type: ignore[operator]
    assert wait == pytest.approx(timedelta(seconds=32), abs=timedelta(seconds=1))


def test_an_event_that_nobody_handles_holds_nothing() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    make_message(message_key="a", event_type="audit.written")
    make_message(message_key="a", payload="mine")

    pipeline.run()

    assert handled_payloads(pipeline) == ["mine"]
    assert statuses() == ["published", "consumed"]


def test_one_that_was_lost_holds_its_key_until_it_is_sent_again() -> None:
    """Its offset has been passed: the reconciler brings it back, and it comes first."""
    now = [0.0]
    pipeline = Pipeline(clock=lambda: now[0])
    pipeline.on("order.created")
    lost = make_message(Status.PUBLISHED, message_key="a", payload="lost", partition=0, offset=0)
    OutboxMessage.objects.filter(id=lost.id).update(published_at=timezone.now() - AN_HOUR)
    pipeline.deliver(make_message(event_type="of.nobody"))  # takes the offset 0
    later = make_message(message_key="a", payload="later")

    pipeline.run()
    assert handled_payloads(pipeline) == []
    assert row(later).status == Status.PENDING

    now[0] += 30
    pipeline.consumer.run_once()
    make_due(later)
    pipeline.run()
    assert handled_payloads(pipeline) == ["lost", "later"]


def test_one_whose_log_began_anew_keeps_the_next_from_going_round_and_round() -> None:
    """The offset that it had is higher than any in the new log, and yet its record will never come."""
    pipeline = Pipeline()
    pipeline.on("order.created")
    make_message(
        Status.PUBLISHED, message_key="a", partition=0, offset=1000, published_at=timezone.now() - timedelta(seconds=1)
    )
    later = make_message(message_key="a", next_retry_at=timezone.now() - AN_HOUR)

    for _ in range(5):
        pipeline.turn()

    assert (row(later).status, row(later).publish_count) == (Status.PENDING, 1)
    wait = row(later).next_retry_at - row(later).updated_at  # type: ignore[operator]
    assert wait == pytest.approx(timedelta(seconds=32), abs=timedelta(seconds=1))


@pytest.mark.parametrize("on_dead", ["continue", "hold"])
def test_what_cannot_be_encoded_holds_its_key_at_once_if_the_dead_do(settings: Any, on_dead: str) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": on_dead}
    pipeline = Pipeline()
    pipeline.on("order.created")
    make_message(message_key="a", headers={"n": 5})
    later = make_message(message_key="a", payload="later")
    make_message(message_key="b", payload="other")
    make_message(payload="without key")

    done = pipeline.relay.run_once()

    goes_on = on_dead == "continue"
    assert (done.dead, done.published, done.blocked) == (1, 3 if goes_on else 2, 0 if goes_on else 1)
    assert row(later).status == (Status.PUBLISHED if goes_on else Status.PENDING)
    assert {record.key for record in pipeline.broker.records("outbox")} == {b"a", b"b", None} - (
        set() if goes_on else {b"a"}
    )


def test_what_the_broker_refuses_holds_its_key_until_an_operator_retries(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what was sent behind it, in the same batch, is in the log."""
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    pipeline = Pipeline()
    pipeline.on("order.created")
    too_large = make_message(message_key="a", payload="x" * 200)
    later = make_message(message_key="a", payload="later")
    with monkeypatch.context() as patch:
        patch.setattr(memory, "MAX_RECORD_BYTES", 100)
        pipeline.relay.run_once()
    assert (row(too_large).status, row(later).status) == (Status.DEAD, Status.PENDING)
    pipeline.run()
    assert handled_payloads(pipeline) == []

    retry(OutboxMessage.objects.filter(id=too_large.id), using="default")
    make_due(later)
    pipeline.run()
    assert handled_payloads(pipeline) == ["x" * 200, "later"]


def test_behind_a_dead_message_that_holds_its_key_only_what_is_due_is_put_off(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    make_message(Status.DEAD, message_key="a")
    relay = Relay(memory_broker(), using="default")
    for _ in range(10):
        make_message(message_key="a", next_retry_at=timezone.now() - AN_HOUR)
    assert relay.run_once().postponed == 10

    for _ in range(2):
        make_message(message_key="a", next_retry_at=timezone.now() - AN_HOUR)
        assert relay.run_once().postponed == 1


def fill(*, consumed: int = 0, pending: int = 0, published: int = 0, published_type: str = "") -> None:
    """Messages of ten keys, in this order."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (event_id, event_type, event_version, topic,"
            " message_key, payload, headers, status, publish_count, delivery_count, retry_count,"
            ' max_retry, last_error, next_retry_at, consumed_at, "partition", "offset")'
            " SELECT gen_random_uuid(), CASE WHEN status = 'published' THEN %s ELSE 'order.created' END,"
            " 'v1', 'outbox', mod(n, 10)::text, '1', '{}', status, CASE WHEN status = 'pending' THEN 0 ELSE 1 END,"
            " 0, 0, 20, '', CASE WHEN status = 'pending' THEN now() END, CASE WHEN status = 'consumed' THEN now() END,"
            " CASE WHEN status <> 'pending' THEN 0 END, CASE WHEN status <> 'pending' THEN n - 50000 END"
            " FROM generate_series(1, %s) AS n CROSS JOIN LATERAL (SELECT CASE WHEN n <= %s THEN 'consumed'"
            " WHEN n <= %s THEN 'pending' ELSE 'published' END AS status) AS given",
            [published_type, consumed + pending + published, consumed, consumed + pending],
        )
        cursor.execute("ANALYZE django_outbox_outboxmessage")


def plan_of(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + sql)
        return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("steady", [False, True], ids=["after a start", "later"])
def test_few_keys_and_much_that_is_finished_do_not_slow_the_look_at_earlier_messages(steady: bool) -> None:
    """PostgreSQL must not walk the primary key through all that is finished."""
    fill(consumed=20000, pending=20000)
    pipeline = Pipeline(batch_size=20, steady=steady, clock=lambda: 0.0)
    pipeline.on("order.created")

    with CaptureQueriesContext(connection) as queries:
        batch = pipeline.turn()

    looks = [query["sql"] for query in queries if "AS earlier" in query["sql"]]
    assert batch.consumed == 20
    assert len(looks) == 4  # at 2, 4, 8 and 6 messages
    for sql in looks[:2]:
        plan = plan_of(sql)
        assert "django_outbox_key" in plan, plan
        assert "Seq Scan" not in plan, plan


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("published_type", ["for.others", "order.created"])
def test_what_is_published_is_not_walked_at_each_message_of_its_key(published_type: str) -> None:
    """What is for others stays published for days, and what has not been read yet may be a lot."""
    if published_type == "for.others":
        fill(published=30000, published_type=published_type)
    for number in range(10):
        make_message(message_key=str(number))
    if published_type != "for.others":
        fill(published=30000, published_type=published_type)
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created")

    with CaptureQueriesContext(connection) as queries:
        batch = pipeline.turn()

    assert batch.consumed == 10
    looks = [query["sql"] for query in queries if "AS earlier" in query["sql"] and "mine" in query["sql"]]
    plan = plan_of(looks[0])
    removed = [int(rows) for rows in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
    assert sum(removed) < 20, plan
    assert "Seq Scan" not in plan, plan


def test_of_an_abandoned_batch_no_copy_is_handled_out_of_order() -> None:
    """A relay is killed after the second of two was taken; the next one sends both."""
    pipeline = Pipeline()
    pipeline.on("order.created")
    first, second = (make_message(message_key="a", payload=n) for n in range(2))
    pipeline.deliver(second)  # the copy: right attempt, wrong place
    assert isinstance(first.id, int)

    pipeline.run()

    assert handled_payloads(pipeline) == [0, 1]
    assert len(pipeline.broker.records("outbox")) == 3
