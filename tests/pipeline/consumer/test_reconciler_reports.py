"""When the reconciler looks, for which messages, and what it tells of them."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from django_outbox.brokers.base import Progress, Subscription, TopicPartition
from django_outbox.consumer import reconciler as module
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.models import OutboxMessage
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message, row
from tests.support.reconciliation import look, published_ago

pytestmark = pytest.mark.django_db

A_MINUTE = timedelta(minutes=1)
OUTBOX = TopicPartition("outbox", 0)


published = partial(published_ago, A_MINUTE)


@pytest.fixture
def pipeline(clock: Clock) -> Pipeline:
    pipeline = Pipeline(clock=clock, hold=50)
    pipeline.on("order.created")
    return pipeline


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The reasons and numbers of the metric."""
    found: list[tuple[str, int]] = []
    monkeypatch.setattr(module, "requeued", lambda reason, number=1: found.append((reason, number)))
    return found


def test_it_looks_for_the_first_time_half_a_minute_after_its_start(pipeline: Pipeline, clock: Clock) -> None:
    pipeline.broker.missing_topics(["outbox"])
    lost = published(partition=5)
    pipeline.consumer.run_once()
    clock.now += 29
    pipeline.consumer.run_once()
    assert row(lost).status == Status.PUBLISHED
    clock.now += 1
    pipeline.consumer.run_once()
    assert row(lost).status == Status.PENDING


def hold_one(pipeline: Pipeline) -> tuple[OutboxMessage, OutboxMessage]:
    """Let one message in hand wait for a lost one, at the first offset of a log that has grown to two records."""
    lost = published(offset=0, message_key="a")
    waiting = make_message(message_key="a")
    make_message(message_key="b")
    pipeline.turn()
    assert pipeline.consumer.lanes.first_unfinished(OUTBOX) == 0
    return lost, waiting


def test_all_that_is_lost_of_a_partition_is_told_and_counted_together(
    pipeline: Pipeline, clock: Clock, caplog: pytest.LogCaptureFixture, counted: list[tuple[str, int]]
) -> None:
    passed, waiting = hold_one(pipeline)
    beyond = [published(offset=offset) for offset in (8, 9)]
    look(pipeline, clock)
    assert [row(each).status for each in (passed, *beyond, waiting)] == ["pending"] * 3 + ["published"]
    (line,) = [record for record in caplog.records if record.__dict__["action"] == "reconciled"]
    text = "3 published messages of outbox[0] were requeued: their records were skipped or lost."
    assert (line.getMessage(), line.levelno) == (text, logging.WARNING)
    assert counted == [("lost", 3)]


@pytest.mark.parametrize("place", [{"partition": 0, "offset": 0}, {"partition": 0, "offset": 9}, {"partition": 5}])
def test_what_has_no_handler_is_not_sent_again_wherever_it_was(
    pipeline: Pipeline, clock: Clock, place: dict[str, int]
) -> None:
    lost, _ = hold_one(pipeline)
    message = published(event_type="nobody.wants.it", **place)
    look(pipeline, clock)
    assert (row(lost).status, row(message).status) == (Status.PENDING, Status.PUBLISHED)


def test_before_a_member_knows_its_position_nothing_was_passed(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, _ = hold_one(pipeline)
    positions: list[int | None] = [1, None]
    monkeypatch.setattr(
        pipeline.consumer.subscription, "progress", lambda: {OUTBOX: Progress(0, 2, None, positions.pop())}
    )
    look(pipeline, clock)
    assert row(lost).status == Status.PUBLISHED
    look(pipeline, clock)
    assert row(lost).status == Status.PENDING


def test_what_debezium_did_not_deliver_is_told_by_topic(
    pipeline: Pipeline,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    counted: list[tuple[str, int]],
) -> None:
    asked: list[Any] = []

    def requeue_lost(topic: str, *about: Any, event_types: Any, **others: Any) -> int:
        asked.append((topic, set(event_types)))
        return 2

    monkeypatch.setattr(pipeline.consumer.reconciler._undelivered, "requeue_lost", requeue_lost)
    pipeline.broker.missing_topics(["outbox"])
    pipeline.consumer.run_once()
    look(pipeline, clock)
    assert asked == [("outbox", {"order.created"})]
    assert counted == [("lost", 2)]
    text = "2 published messages of outbox were requeued: Debezium did not deliver them, or their records were skipped"
    assert text in caplog.text


def test_a_broker_that_does_not_tell_is_a_warning_once_a_minute(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.broker.missing_topics(["outbox"])
    pipeline.consumer.run_once()

    def refuse(self: Subscription) -> Any:
        raise BrokerUnavailable("not authorized to ask")

    monkeypatch.setattr(type(pipeline.consumer.subscription), "progress", refuse)
    told: list[int] = []
    for _ in range(5):
        caplog.clear()
        look(pipeline, clock)
        told.append(len(caplog.records))
        assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    assert told == [1, 0, 1, 0, 1]
