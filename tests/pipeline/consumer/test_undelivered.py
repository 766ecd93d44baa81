"""What Debezium carries and will not deliver any more is sent by the relay, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.consumer import reconciler, undelivered
from django_outbox.consumer.undelivered import MISSING_SECONDS
from django_outbox.models import OutboxMessage
from django_outbox.state import undelivered as state
from django_outbox.state.dialects.results import LogPosition
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message, memory_broker, row, statuses

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)
OUTBOX = TopicPartition("outbox", 0)


class Log:
    """PostgreSQL's log, and a connector that reads it."""

    def __init__(self) -> None:
        self.written = 1000
        self.sent: int | None = 1000
        self.is_active = True

    def position(self, slot: str, *, using: str) -> LogPosition:
        assert slot == "outbox_tests"
        return LogPosition(self.written, None, self.sent, self.is_active)  # type: ignore[arg-type]  # for any database


@pytest.fixture(autouse=True)
def debezium(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium"}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(state, "log_position", log.position)
    return log


@pytest.fixture
def pipeline(clock: Clock) -> Pipeline:
    """The group has read the whole log, two records."""
    pipeline = Pipeline(memory_broker(), steady=True, clock=clock)
    pipeline.on("order.created")
    for _ in range(2):
        make_message()
    pipeline.run()
    OutboxMessage.objects.all().delete()
    pipeline.handled.clear()
    return pipeline


def inserted(**fields: Any) -> OutboxMessage:
    return make_message(Status.PUBLISHED, **{"message_key": "a", "published_at": timezone.now() - AN_HOUR, **fields})


@pytest.fixture
def look(pipeline: Pipeline, clock: Clock) -> Callable[..., None]:
    """Let time pass, as a consumer does."""

    def look(seconds: float = 30) -> None:
        for _ in range(round(seconds / 30)):
            clock.now += 30
            pipeline.consumer.run_once()

    return look


def test_without_a_slot_it_is_sent_after_a_while_and_handled_once(
    pipeline: Pipeline, log: Log, look: Callable[..., None]
) -> None:
    """Debezium was started later than ``publish()``, or its slot was dropped."""
    log.sent = None
    message = inserted(retry_count=3)
    look(MISSING_SECONDS)
    assert row(message).status == Status.PUBLISHED
    look(60)
    now = row(message)
    assert (now.status, now.retry_count, now.publish_count) == (Status.PENDING, 3, 1)

    pipeline.run()
    pipeline.deliver(message, publish_count=0)  # after all
    pipeline.run()
    assert [event.attempt for event in pipeline.handled] == [2]
    assert row(message).status == Status.CONSUMED


def test_with_a_slot_it_waits_for_the_connector_however_long(log: Log, look: Callable[..., None]) -> None:
    log.is_active = False  # the connector is down
    log.written += 1
    message = inserted()
    look(20 * MISSING_SECONDS)
    assert row(message).status == Status.PUBLISHED

    log.sent = log.written
    look(60)
    assert row(message).status == Status.PENDING


def test_a_connector_that_is_behind_holds_back_only_what_was_inserted_before(
    log: Log, look: Callable[..., None]
) -> None:
    """Its position when the search began counts, not the end of a log that grows."""
    message = inserted()
    look()
    log.written += 1_000_000
    look()
    assert row(message).status == Status.PENDING


def test_a_slot_that_was_dropped_is_waited_for_no_longer(log: Log, look: Callable[..., None]) -> None:
    log.written += 1
    message = inserted()
    look(2 * MISSING_SECONDS)
    log.sent = None
    look(MISSING_SECONDS)
    assert row(message).status == Status.PUBLISHED  # what the connector has read may still be on its way
    look(60)
    assert row(message).status == Status.PENDING


def test_a_slot_that_is_left_without_a_connector_is_not_waited_for_with_the_relay(
    settings: Any, log: Log, look: Callable[..., None]
) -> None:
    """The project has switched back, and forgotten to drop it."""
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "relay"}
    log.written, log.is_active = log.written + 1, False
    message = inserted()
    look(MISSING_SECONDS + 60)
    assert row(message).status == Status.PENDING


def test_what_a_connector_still_sends_after_the_switch_to_the_relay_is_waited_for(
    settings: Any, log: Log, look: Callable[..., None]
) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "relay"}
    log.written += 1
    message = inserted()
    look(20 * MISSING_SECONDS)
    assert row(message).status == Status.PUBLISHED


def test_what_was_delivered_meanwhile_is_handled_and_not_sent_again(
    pipeline: Pipeline, log: Log, look: Callable[..., None]
) -> None:
    log.written += 1
    message = inserted()
    look()
    pipeline.deliver(message, publish_count=0)
    log.sent = log.written
    look(120)
    assert [event.attempt for event in pipeline.handled] == [1]
    assert row(message).publish_count == 1


def test_what_the_group_has_not_read_yet_is_not_sent_again(
    pipeline: Pipeline, log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may be in a partition that another member reads."""
    other = TopicPartition("outbox", 1)
    progress = {OUTBOX: Progress(0, 2, 2), other: Progress(0, 5, 4)}
    monkeypatch.setattr(pipeline.broker, "progress", lambda topics, group: dict(progress))
    message = inserted()
    look(120)
    assert row(message).status == Status.PUBLISHED
    progress[other] = Progress(0, 9, 5)  # what came later does not count
    look()
    assert row(message).status == Status.PENDING


@pytest.mark.parametrize("progress", [Progress(0, 0, None), Progress(7, 7, None), Progress(7, 7, 3)])
def test_a_partition_that_holds_nothing_has_been_read(
    pipeline: Pipeline, log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    found = {OUTBOX: Progress(0, 2, 2), TopicPartition("outbox", 1): progress}
    monkeypatch.setattr(pipeline.broker, "progress", lambda topics, group: found)
    message = inserted()
    look(60)
    assert row(message).status == Status.PENDING


def test_a_topic_that_was_made_anew_meanwhile_ends_the_search(
    pipeline: Pipeline, log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will never be as long as the former one was."""
    other = TopicPartition("outbox", 1)
    found = {OUTBOX: Progress(0, 2, 2), other: Progress(0, 9, 4)}
    monkeypatch.setattr(pipeline.broker, "progress", lambda topics, group: dict(found))
    message = inserted()
    look(90)
    assert row(message).status == Status.PUBLISHED
    found[other] = Progress(0, 1, 1)
    look()
    assert row(message).status == Status.PENDING


@pytest.mark.parametrize(
    "fields",
    [
        {"event_type": "nobody.wants.it"},
        {"topic": "not.read.here"},
        {"source": "billing"},
        {"partition": 0, "offset": 9},
    ],
    ids=["without handler", "topic not read", "another service", "sent by the relay"],
)
def test_nothing_else_is_sent_again(
    pipeline: Pipeline, log: Log, look: Callable[..., None], fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.consumer.run_once()
    ends = count(10)  # it grows, and the member may be about to read
    monkeypatch.setattr(pipeline.consumer.subscription, "progress", lambda: {OUTBOX: Progress(0, next(ends), 2, 2)})
    message = inserted(**fields)
    look()
    look()
    assert row(message).status == Status.PUBLISHED


@pytest.mark.parametrize("status", [Status.PENDING, Status.CONSUMED, Status.DEAD])
def test_only_what_is_published_is_sent_again(log: Log, look: Callable[..., None], status: str) -> None:
    due = timezone.now() + AN_HOUR if status == Status.PENDING else None
    make_message(status, published_at=timezone.now() - AN_HOUR, next_retry_at=due)
    look(90)
    assert statuses() == [status]


def test_what_comes_after_the_search_began_is_left_to_the_next_one(
    log: Log, look: Callable[..., None], clock: Clock
) -> None:
    inserted(published_at=timezone.now() - 3 * AN_HOUR)
    look()
    inserted()
    clock.now += 2 * 3600
    look()
    assert statuses() == ["pending", "published"]


def test_what_was_published_a_moment_ago_begins_no_search(
    log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "LOST_AFTER", 2 * AN_HOUR)
    message = inserted()
    look(90)
    assert row(message).status == Status.PUBLISHED


def test_a_log_that_went_back_begins_a_new_search(log: Log, look: Callable[..., None]) -> None:
    """Another server took over, or a backup was restored: the log may never come where it was."""
    log.written += 1_000_000
    message = inserted()
    look()
    log.written, log.sent = 10, 9
    look(60)
    assert row(message).status == Status.PUBLISHED
    log.sent = 10
    look()
    assert row(message).status == Status.PENDING


def test_many_are_requeued_in_several_checks(
    log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(undelivered, "MOST_REQUEUED", 2)
    messages = [inserted() for _ in range(3)]
    look(60)
    assert sorted(statuses()) == ["pending", "pending", "published"]
    log.written += 1  # a search that began now would wait
    look()
    assert statuses() == ["pending"] * len(messages)
    assert "2 published messages of outbox were requeued: Debezium did not deliver them, or" in caplog.text


def test_a_broker_that_does_not_answer_ends_no_search(
    pipeline: Pipeline, log: Log, look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = inserted()
    monkeypatch.setattr(pipeline.broker, "progress", lambda topics, group: {})
    look(90)
    assert row(message).status == Status.PUBLISHED
    monkeypatch.undo()


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_on_a_database_without_a_log_it_is_sent_after_a_while(look: Callable[..., None]) -> None:
    message = inserted()
    look(MISSING_SECONDS + 60)
    assert row(message).status == Status.PENDING
