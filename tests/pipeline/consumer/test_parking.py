"""Topics that the relay leaves alone, as its heartbeat tells of them."""

from __future__ import annotations

import logging

import pytest
from django.utils import timezone

from django_outbox.brokers.base import TopicMissing, TopicTrouble
from django_outbox.models import OutboxMessage
from django_outbox.relay.relay import Relay
from django_outbox.relay.topic_health import ParkedTopics
from django_outbox.worker.incident import RELAPSE_SECONDS
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, make_message

pytestmark = pytest.mark.django_db


def test_a_topic_for_which_nothing_waits_any_more_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """Another relay has sent what waited for it, say: nobody would ever find out that it is well again."""
    caplog.set_level("INFO")
    clock = Clock(1000.0)
    broker = ScriptedBroker(lambda records, outcomes: [TopicTrouble("no leader of partition 0") for _ in records])
    message = make_message(topic="rare")
    relay = Relay(broker, using="default", clock=clock)
    relay.run_once()
    assert str(relay._parked).startswith("rare: no leader of partition 0.")
    OutboxMessage.objects.filter(id=message.id).update(
        status="consumed", consumed_at=timezone.now(), next_retry_at=None
    )

    relay.run_once()
    assert relay._parked, "it has yet to be left alone for its time"
    clock.now += 60
    relay.run_once()
    relay.run_once()

    assert not relay._parked
    clock.now += RELAPSE_SECONDS
    relay._outages.log_ended()
    assert "Topic rare is available again after 60 s." in caplog.text


def test_a_topic_that_is_only_to_be_looked_at_is_no_trouble() -> None:
    parked = ParkedTopics(logging.getLogger(__name__), lambda: 0.0)
    parked.note_missing("new")
    assert str(parked) == ""
    parked.park("lost", TopicMissing("it does not exist"))
    assert str(parked).startswith("lost: it does not exist. Create the topic")
