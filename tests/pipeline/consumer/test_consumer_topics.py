"""The consumer: a broker that goes away and topics that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.brokers.base import Subscription, TopicForbidden
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.exceptions import BrokerUnavailable, MessagesLeft, TopicNotReadable
from django_outbox.worker.stop import Stop
from tests.support.effects import effect_of_type, effects
from tests.support.outbox import (
    Pipeline,
    Status,
    make_message,
    memory_broker,
    row,
    statuses,
)

pytestmark = pytest.mark.django_db


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
    pipeline.on("order.created", effect_of_type)
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
    pipeline.on("order.created", effect_of_type)
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
    pipeline.on("order.created", effect_of_type)
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

    def committed(self: Any, offsets: Any) -> Any:
        if "commit" in refusing and any(place.topic == "bad" for place in offsets):
            refuse(self)
        return commit(self, offsets)

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
    pipeline.on("order.created", effect_of_type)
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
    pipeline.on("order.created", effect_of_type)
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
    pipeline.handlers.register("a", effect_of_type, topic="of.a.handler")
    pipeline.handlers.register("b", effect_of_type, topic="of.another.group", group="other")

    assert pipeline.consumer.topics == {"outbox", "audit", "of.a.handler"}
