"""The relay: what it sends, what it counts, what it leaves alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import TextField
from django.db.models.functions import Cast
from django.utils import timezone

from django_outbox.brokers.base import (
    Failed,
    Record,
    Refused,
    SendResult,
    TopicForbidden,
    TopicMissing,
    TopicTrouble,
)
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotCreated
from django_outbox.models import OutboxMessage
from django_outbox.relay.relay import Relay
from django_outbox.relay.topics import CHECK_SECONDS
from django_outbox.state import outbox as state
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, Status, in_thread, make_message, memory_broker, row, statuses
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)


def relay_to(broker: Any, **options: Any) -> Relay:
    return Relay(broker, using="default", **options)


def unavailable(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
    raise BrokerUnavailable("it is gone.")


def snapshot() -> list[dict[str, Any]]:
    return list(OutboxMessage.objects.order_by("id").values())


# Sending


def test_a_due_message_is_sent_and_marked_with_its_place() -> None:
    broker = memory_broker()
    message = make_message(payload={"name": "Zoë"}, message_key="k", headers={"h": "v"})

    done = relay_to(broker).run_once()

    assert (done.claimed, done.published) == (1, 1)
    (record,) = broker.records("outbox")
    now = row(message)
    assert (now.status, now.publish_count) == (Status.PUBLISHED, 1)
    assert (now.partition, now.offset) == (record.partition, record.offset)
    assert record.key == b"k"
    assert dict(record.headers)["ce_outboxattempt"] == b"1"
    assert dict(record.headers)["h"] == b"v"


def test_the_value_is_the_json_text_that_the_database_has() -> None:
    broker = memory_broker()
    message = make_message(payload={"b": [1, 2.50, None], "a": "Zoë", "big": 12345678901234567890})

    relay_to(broker).run_once()

    stored = OutboxMessage.objects.values_list(Cast("payload", TextField()), flat=True)
    assert broker.records("outbox")[0].value == stored.get(id=message.id).encode()


def test_what_is_not_due_or_not_pending_is_left_alone() -> None:
    make_message(next_retry_at=timezone.now() + AN_HOUR)
    for status in (Status.PUBLISHED, Status.CONSUMED, Status.DEAD):
        make_message(status)
    before = snapshot()

    assert relay_to(memory_broker()).run_once().claimed == 0

    assert snapshot() == before


def test_a_batch_of_a_slow_relay_is_at_most_as_large_as_told() -> None:
    for _ in range(5):
        make_message()
    relay = relay_to(memory_broker(), batch_size=2, clock=map(float, count()).__next__)

    assert [relay.run_once().published for _ in range(4)] == [2, 2, 1, 0]


def test_a_second_publication_says_so() -> None:
    broker = memory_broker()
    make_message(publish_count=3)

    relay_to(broker).run_once()

    assert dict(broker.records("outbox")[0].headers)["ce_outboxattempt"] == b"4"
    assert OutboxMessage.objects.get().publish_count == 4


def test_the_envelope_of_the_former_system_is_sent_on_demand(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "WIRE_FORMAT": "envelope"}
    broker = memory_broker()
    make_message()

    relay_to(broker).run_once()

    assert b'"aggregate_id": ""' in (broker.records("outbox")[0].value or b"")


def test_an_idle_look_costs_one_query(django_assert_num_queries: Any) -> None:
    relay = relay_to(memory_broker())
    relay.run_once()

    with django_assert_num_queries(1):
        relay.run_once()


# One message at fault


def test_what_can_never_be_sent_is_dead_at_once_and_its_neighbours_go_out() -> None:
    broker = memory_broker()
    make_message()
    large = make_message(payload="x" * 1_100_000)
    make_message()

    done = relay_to(broker).run_once()

    assert (done.published, done.dead) == (2, 1)
    assert statuses() == ["published", "dead", "published"]
    assert "bytes" in row(large).last_error
    assert len(broker.records("outbox")) == 2


def test_what_cannot_be_encoded_is_dead_at_once_and_its_neighbours_go_out() -> None:
    make_message()
    broken = make_message(headers={"number": 5})
    make_message()

    relay_to(memory_broker()).run_once()

    assert statuses() == ["published", "dead", "published"]
    assert row(broken).last_error == "It cannot be encoded: header 'number' is not text"


def test_a_message_that_fails_is_counted_and_its_neighbours_go_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = ScriptedBroker(lambda records, outcomes: [Failed("boom"), *outcomes[1:]])
    failed, _ = make_message(), make_message()

    done = relay_to(broker).run_once()

    assert (done.failed, done.published) == (1, 1)
    now = row(failed)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 1, "boom")
    assert now.next_retry_at is not None
    assert now.next_retry_at > now.updated_at
    assert f"Message {failed.id} (order.created) could not be sent and is pending: boom" in caplog.text


def test_the_last_failure_to_send_ends_dead(caplog: pytest.LogCaptureFixture) -> None:
    broker = ScriptedBroker(lambda records, outcomes: [Failed("boom")])
    make_message(max_retry=1)

    relay_to(broker).run_once()

    assert statuses() == ["dead"]
    assert [record.levelname for record in caplog.records if "is dead: boom" in record.message] == ["ERROR"]


def test_nothing_is_logged_of_a_transaction_that_was_rolled_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = ScriptedBroker(lambda records, outcomes: [Refused("no")])
    make_message()
    before = snapshot()

    def lost(*args: Any, **kwargs: Any) -> int:
        raise OperationalError("connection lost")

    monkeypatch.setattr("django_outbox.state.outbox.mark_published", lost)
    with pytest.raises(OperationalError):
        relay_to(broker).run_once()

    assert "dead" not in caplog.text
    assert snapshot() == before


# The broker at fault


def test_an_unavailable_broker_harms_no_message() -> None:
    broker = ScriptedBroker(unavailable)
    make_message(last_error="of the consumer")
    before = snapshot()
    relay = relay_to(broker)

    with pytest.raises(BrokerUnavailable):
        relay.run_once()

    assert snapshot() == before
    assert broker.producers[0].closed
    broker.answer = lambda records, outcomes: outcomes
    assert relay.run_once().published == 1
    assert len(broker.producers) == 2


def test_a_producer_that_missed_a_deadline_is_replaced() -> None:
    def half(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        broker.producers[-1].is_usable = False
        return [outcomes[0], TopicTrouble("no acknowledgement within 10 s")]

    broker = ScriptedBroker(half)
    make_message(topic="one")
    make_message(topic="two")
    relay = relay_to(broker)

    assert relay.run_once().published == 1

    assert broker.producers[0].closed
    assert statuses() == ["published", "pending"]


def test_a_producer_that_missed_a_deadline_is_closed_though_the_database_goes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        broker.producers[-1].is_usable = False
        return outcomes

    def gone(*arguments: Any, **options: Any) -> int:
        raise OperationalError("server closed the connection")

    broker = ScriptedBroker(late)
    make_message()
    monkeypatch.setattr(state, "mark_published", gone)
    with pytest.raises(OperationalError):
        relay_to(broker).run_once()
    assert broker.producers[0].closed


def test_no_transaction_is_open_while_the_broker_is_looked_for() -> None:
    open_while_connecting: list[bool] = []

    class Watched(ScriptedBroker):
        def producer(self, timeout: float) -> Any:
            open_while_connecting.append(connection.in_atomic_block)
            raise BrokerUnavailable("it is gone.")

    make_message()
    inside = connection.in_atomic_block  # the test's own

    with pytest.raises(BrokerUnavailable):
        relay_to(Watched(unavailable)).run_once()

    assert open_while_connecting == [inside]


# A topic at fault


def test_a_missing_topic_stops_only_its_own_messages(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)
    broker = memory_broker(create_topics=False)
    broker.create_topics(["there"], partitions=1, replication=None)
    relay = relay_to(broker, clock=clock)
    missing = make_message(topic="missing")
    make_message(topic="there")

    assert relay.run_once().published == 1
    make_message(topic="there")
    assert relay.run_once().published == 1

    now = row(missing)
    assert (now.status, now.retry_count, now.last_error) == (Status.PENDING, 0, "")
    assert "Topic missing: it does not exist. Create the topic, or start" in caplog.text


def test_a_topic_in_trouble_is_told_once_and_then_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock(1000.0)
    broker = memory_broker(create_topics=False)
    relay = relay_to(broker, clock=clock)
    make_message(topic="missing")

    for _ in range(100):
        relay.run_once()
        clock.now += 1.0

    told = [record for record in caplog.records if "Topic missing" in record.getMessage()]
    assert len(told) == 2

    broker.create_topics(["missing"], partitions=1, replication=None)
    clock.now += 60
    caplog.set_level(logging.INFO)
    assert relay.run_once().published == 1
    assert "Topic missing is available again after 1" in caplog.text


def test_missing_topics_are_created_on_demand(stop: Stop) -> None:
    broker = memory_broker(create_topics=False)
    created: list[str] = []

    def create(topics: Any) -> None:
        created.extend(topics)
        broker.create_topics(topics, partitions=2, replication=None)

    relay = relay_to(broker, create_topics=create)
    make_message(topic="outbox")
    make_message(topic="of.its.own")

    relay.run(stop, drain=True)

    assert statuses() == ["published", "published"]
    assert created == ["outbox", "of.its.own"]


def test_topics_of_the_settings_are_created_again_when_a_broker_lost_them() -> None:
    """Also while there is nothing to send, as a consumer waits for them."""
    clock = Clock(1000.0)
    broker = memory_broker(create_topics=False)

    def create(topics: Any) -> None:
        broker.create_topics(topics, partitions=2, replication=None)

    relay = relay_to(broker, create_topics=create, clock=clock)
    relay.run_once()
    assert not broker.missing_topics(["outbox"])
    broker.cluster.partitions.clear()
    broker.cluster.logs.clear()

    clock.now += CHECK_SECONDS
    relay.run_once()

    assert not broker.missing_topics(["outbox"])


def test_a_relay_without_work_does_not_mind_a_broker_that_is_away() -> None:
    clock = Clock(1000.0)
    broker = memory_broker(create_topics=False)

    def create(topics: Any) -> None:
        broker.create_topics(topics, partitions=2, replication=None)

    def away(topics: Any) -> set[str]:
        raise BrokerUnavailable("it is gone.")

    relay = relay_to(broker, create_topics=create, clock=clock)
    relay.run_once()
    broker.missing_topics = away  # type: ignore[method-assign]
    clock.now += CHECK_SECONDS

    assert not relay.run_once().moved


def test_a_topic_that_the_broker_will_not_create_stops_only_its_own_messages(stop: Stop) -> None:
    broker = memory_broker(create_topics=False)

    def create(topics: Any) -> None:
        if list(topics) == ["forbidden"]:
            raise TopicNotCreated("The topic 'forbidden' cannot be created: not allowed.")
        broker.create_topics(topics, partitions=1, replication=None)

    make_message(topic="forbidden")
    make_message(topic="outbox")
    relay = relay_to(broker, create_topics=create)

    with pytest.raises(MessagesLeft, match="forbidden: The topic 'forbidden' cannot be created"):
        relay.run(stop, drain=True)

    assert statuses() == ["pending", "published"]


def test_a_topic_in_other_trouble_is_tried_again_and_then_its_messages_go_out() -> None:
    clock = Clock(1000.0)
    trouble = True

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [TopicTrouble("no leader")] if trouble else outcomes

    relay = relay_to(ScriptedBroker(answer), clock=clock)
    message = make_message()
    assert relay.run_once().published == 0
    assert relay.run_once().claimed == 0  # parked

    clock.now += 60
    assert relay.run_once().claimed == 1
    trouble = False
    clock.now += 60
    assert relay.run_once().published == 1
    assert row(message).retry_count == 0


def trouble_with(*topics: str) -> ScriptedBroker:
    return ScriptedBroker(
        lambda records, outcomes: [
            TopicTrouble("no leader") if record.topic in topics else outcome
            for record, outcome in zip(records, outcomes, strict=True)
        ]
    )


def test_a_topic_in_trouble_that_fills_a_batch_stops_no_other() -> None:
    relay = relay_to(trouble_with("bad"), batch_size=3, clock=Clock(1000.0))
    for _ in range(10):
        make_message(topic="bad")
    for _ in range(4):
        make_message(topic="good")

    published = [relay.run_once().published for _ in range(4)]

    assert published == [0, 3, 1, 0]


@pytest.mark.databases("postgresql")  # others have one claim
@pytest.mark.parametrize("error", [BrokerUnavailable("it is gone."), OperationalError("gone away"), ValueError("odd")])
def test_batches_grow_from_one_claim_again_after_any_error(error: Exception) -> None:
    sizes: list[int] = []

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        sizes.append(len(records))
        if len(sizes) == 3:
            raise error
        return outcomes

    relay = relay_to(ScriptedBroker(answer), batch_size=1, clock=Clock())
    for _ in range(10):
        make_message()
    for _ in range(2):
        relay.run_once()
    with pytest.raises(type(error)):
        relay.run_once()
    relay.run_once()
    assert sizes == [1, 2, 4, 1]


def test_topics_that_take_long_to_show_their_trouble_leave_the_others_half_of_the_time() -> None:
    clock = Clock(1000.0)
    bad = [f"bad-{number}" for number in range(5)]
    lost = 0.0

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        nonlocal lost
        troubled = [record.topic in bad for record in records]
        clock.now += 10 if any(troubled) else 0.9
        lost += 10 if any(troubled) else 0
        return [TopicTrouble("no answer") if is_bad else o for is_bad, o in zip(troubled, outcomes, strict=True)]

    relay = relay_to(ScriptedBroker(answer), batch_size=1, clock=clock)
    for topic in bad:
        make_message(topic=topic)
    for _ in range(5):
        relay.run_once()
        make_message(topic="good")  # and there is always something to do
        relay.run_once()
    started, lost = clock.now, 0.0

    while clock.now < started + 300:
        make_message(topic="good")
        if not relay.run_once().claimed:
            clock.now += 1

    assert lost <= 160
    assert relay.run_once().published == 1


def test_a_topic_that_missed_its_deadline_is_tried_again_soon_if_nothing_else_is_due() -> None:
    clock = Clock(1000.0)
    slow = True

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        clock.now += 10 if slow else 0
        return [TopicTrouble("no acknowledgement within 10 s")] if slow else outcomes

    relay = relay_to(ScriptedBroker(answer), clock=clock)
    make_message()
    assert relay.run_once().published == 0
    failed_at, slow = clock.now, False

    while not relay.run_once().published:
        clock.now += 0.1
        assert clock.now < failed_at + 2


def test_a_topic_of_which_only_a_part_can_be_written_to_stays_parked() -> None:
    clock = Clock(1000.0)
    broken = True

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [TopicTrouble("no leader"), *outcomes[1:]] if broken else outcomes

    relay = relay_to(ScriptedBroker(answer), clock=clock)
    for _ in range(3):
        make_message()

    assert relay.run_once().published == 2
    assert relay.run_once().claimed == 0  # parked

    broken = False
    clock.now += 60
    assert relay.run_once().published == 1
    make_message()
    assert relay.run_once().published == 1  # and forgotten


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (TopicMissing(), "it does not exist. Create the topic, or start the relay with --create-topics; its"),
        (
            TopicForbidden("not allowed"),
            "not allowed. Let this client write to it, by an ACL for the operation Write; its",
        ),
        (TopicTrouble("no leader"), "no leader. Check its partitions and their replicas; its"),
    ],
)
def test_each_trouble_of_a_topic_has_its_own_advice(
    trouble: TopicTrouble, told: str, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    make_message(topic="orders")
    relay = relay_to(ScriptedBroker(lambda records, outcomes: [trouble]))

    with pytest.raises(MessagesLeft) as raised:
        relay.run(stop, drain=True)

    assert str(raised.value).endswith(f"orders: {told} messages wait meanwhile.")
    assert f"Topic orders: {told} messages wait meanwhile." in caplog.text


# Running


def test_drain_ends_when_nothing_is_due_and_leaves_what_waits(stop: Stop) -> None:
    later = make_message(next_retry_at=timezone.now() + AN_HOUR)
    for _ in range(5):
        make_message()

    relay_to(memory_broker(), batch_size=2).run(stop, drain=True)

    assert statuses() == ["pending"] + ["published"] * 5
    assert row(later).next_retry_at == later.next_retry_at


def test_drain_says_which_topics_keep_messages_back(stop: Stop) -> None:
    make_message(topic="missing")

    with pytest.raises(MessagesLeft, match=r"missing: it does not exist.*--create-topics"):
        relay_to(memory_broker(create_topics=False)).run(stop, drain=True)

    assert statuses() == ["pending"]


def test_drain_does_not_wait_for_a_broker_for_ever(settings: Any, stop: Stop) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISH_TIMEOUT": 0.3}
    make_message()

    with pytest.raises(BrokerUnavailable):
        relay_to(ScriptedBroker(unavailable)).run(stop, drain=True)

    assert statuses() == ["pending"]


def test_a_stopped_relay_ends_and_closes_its_producer(stop: Stop) -> None:
    broker = ScriptedBroker(lambda records, outcomes: outcomes)
    make_message()

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        stop.request()  # in the midst of a batch: it is finished
        return outcomes

    broker.answer = answer
    relay_to(broker).run(stop)

    assert statuses() == ["published"]
    assert broker.producers[0].closed


# Between sessions


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_regression_two_relays_never_send_the_same_row() -> None:
    broker = memory_broker()
    sending, go_on = threading.Event(), threading.Event()

    def slow(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        sending.set()
        assert go_on.wait(30)
        return outcomes

    slow_broker = ScriptedBroker(slow)
    for _ in range(4):
        make_message()

    with ExitStack() as beside:
        beside.callback(go_on.set)
        beside.enter_context(in_thread(lambda: relay_to(slow_broker, batch_size=3).run_once()))
        assert sending.wait(30)
        assert relay_to(broker).run_once().claimed == 1  # the only one that is free
        go_on.set()

    assert statuses() == ["published"] * 4
    assert len(broker.records("outbox")) + len(slow_broker.records("outbox")) == 4


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_key_that_another_relay_is_sending_is_not_overtaken() -> None:
    sending, go_on = threading.Event(), threading.Event()

    def slow(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        sending.set()
        assert go_on.wait(30)
        return outcomes

    make_message(message_key="a")
    with ExitStack() as beside:
        beside.callback(go_on.set)
        beside.enter_context(in_thread(lambda: relay_to(ScriptedBroker(slow)).run_once()))
        assert sending.wait(30)
        make_message(message_key="a")
        other = relay_to(memory_broker())
        done = other.run_once()
        assert (done.claimed, done.published, done.blocked) == (1, 0, 1)
        go_on.set()

    assert other.run_once().published == 1


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_relay_that_dies_frees_its_rows_at_once() -> None:
    message = make_message()
    claimed = threading.Event()

    def die() -> None:
        with transaction.atomic():
            assert OutboxMessage.objects.due().select_for_update(skip_locked=True).get() == message
            claimed.set()
            connection.connection.close()  # as the system does it for a killed process

    with pytest.raises(OperationalError), in_thread(die):
        pass

    assert claimed.is_set()
    relay = relay_to(memory_broker())
    # PostgreSQL notices at once that the connection is closed, but rolls back in a process of its own.
    assert wait_until(lambda: relay.run_once().published) == 1


@pytest.mark.databases("sqlite")
@pytest.mark.django_db(transaction=True)
def test_on_sqlite_two_relays_take_turns() -> None:
    brokers = [memory_broker(), memory_broker()]
    for _ in range(30):
        make_message()
    start = threading.Barrier(2)

    def work(broker: Any) -> None:
        relay = relay_to(broker, batch_size=2)
        start.wait(30)
        while relay.run_once().claimed:
            pass

    with in_thread(lambda: work(brokers[0])), in_thread(lambda: work(brokers[1])):
        pass

    assert set(statuses()) == {"published"}
    assert sum(len(broker.records("outbox")) for broker in brokers) == 30


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_the_relay_outlives_a_lost_database_connection(caplog: pytest.LogCaptureFixture, stop: Stop) -> None:
    caplog.set_level(logging.INFO)
    relay = relay_to(memory_broker(), poll_interval=0.02)

    def kill_sessions() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with in_thread(lambda: relay.run(stop)):
        try:
            first = make_message()
            wait_until(lambda: row(first).status == Status.PUBLISHED)
            kill_sessions()
            second = make_message()
            wait_until(lambda: row(second).status == Status.PUBLISHED)
        finally:
            stop.request()

    assert "The database is available again after" in caplog.text
    assert caplog.text.count("Trying again until it works") == 1
