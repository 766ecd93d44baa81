"""The reconciler at the bounds of a log: the first record that is lost, and the last that is not."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.models import OutboxMessage
from tests.support.clock import Clock
from tests.support.outbox import Pipeline, Status, make_message, row
from tests.support.reconciliation import look, published_ago

pytestmark = pytest.mark.django_db

OUTBOX = TopicPartition("outbox", 0)


@pytest.fixture
def pipeline(clock: Clock) -> Pipeline:
    """Its consumer is a member that has read nothing."""
    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created")
    pipeline.broker.missing_topics(["outbox"])
    pipeline.consumer.run_once()
    return pipeline


published_long_ago = partial(published_ago, timedelta(hours=1))


def is_lost(message: OutboxMessage) -> bool:
    return row(message).status == Status.PENDING


def check(pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch, progress: Progress) -> None:
    monkeypatch.setattr(pipeline.consumer.subscription, "progress", lambda: {OUTBOX: progress})
    look(pipeline, clock)


def test_the_last_record_that_was_read_is_lost_and_the_next_one_is_not(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [published_long_ago(offset=offset) for offset in (1, 2)]

    check(pipeline, clock, monkeypatch, Progress(low=0, high=3, committed=None, position=2))

    assert [is_lost(message) for message in messages] == [True, False]


def test_the_last_record_of_the_log_is_not_lost_and_one_at_its_end_is(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [published_long_ago(offset=offset) for offset in (2, 3)]

    check(pipeline, clock, monkeypatch, Progress(low=0, high=3, committed=None, position=0))

    assert [is_lost(message) for message in messages] == [False, True]


def test_what_the_log_has_dropped_before_it_was_read_is_lost_and_its_first_record_is_not(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [published_long_ago(offset=offset) for offset in (2, 3)]

    check(pipeline, clock, monkeypatch, Progress(low=3, high=5, committed=None, position=1))

    assert [is_lost(message) for message in messages] == [True, False]


def test_the_first_partition_that_the_topic_no_longer_has_is_lost(pipeline: Pipeline, clock: Clock) -> None:
    message = published_long_ago(partition=1, offset=0)

    look(pipeline, clock)

    assert is_lost(message)


def test_what_was_published_just_before_the_check_is_not_lost(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = timedelta(days=1)
    monkeypatch.setattr("django_outbox.consumer.reconciler.LOST_AFTER", day)
    young, old = (published_long_ago(offset=7, published_at=timezone.now() - age) for age in (day / 2, 2 * day))

    look(pipeline, clock)

    assert (is_lost(young), is_lost(old)) == (False, True)


def test_what_is_published_while_the_broker_answers_for_another_topic_is_not_lost(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(clock=clock, topics=["a", "outbox"])
    pipeline.on("order.created")
    pipeline.consumer.run_once()
    day = timedelta(days=1)
    monkeypatch.setattr("django_outbox.consumer.reconciler.LOST_AFTER", day)
    places = [TopicPartition("a", 0), OUTBOX]  # in this order
    monkeypatch.setattr(
        pipeline.consumer.subscription, "progress", lambda: dict.fromkeys(places, Progress(0, 0, None, 0))
    )
    messages: list[OutboxMessage] = []

    def slowly(topics: Any, group: str) -> Any:
        if list(topics) == ["a"]:
            clock.now += 2 * day.total_seconds()
            messages.append(published_long_ago(offset=0, published_at=timezone.now() - 1.5 * day))
        return {}

    monkeypatch.setattr(pipeline.broker, "progress", slowly)
    look(pipeline, clock)

    assert [is_lost(message) for message in messages] == [False]


def test_a_record_that_was_read_and_not_handled_yet_is_not_lost(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = make_message()
    pipeline.relay.run_once()
    OutboxMessage.objects.update(published_at=timezone.now() - timedelta(hours=1))
    monkeypatch.setattr(pipeline.consumer.lanes, "work", lambda *arguments: None)
    for _ in range(2):
        look(pipeline, clock)

    assert pipeline.consumer.lanes.first_unfinished(OUTBOX) == 0
    assert not is_lost(message)
