"""Topics that the relay cannot write to, as its heartbeat shows them."""

from __future__ import annotations

import math
from contextlib import closing

import pytest
from django.utils import timezone

from django_outbox.brokers.base import TopicTrouble
from django_outbox.models import OutboxMessage
from django_outbox.relay.relay import Relay
from django_outbox.worker.incident import RELAPSE_SECONDS
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import ScriptedBroker, make_message

pytestmark = pytest.mark.django_db


def run_one_round(relay: Relay) -> tuple[str, str]:
    """Run a relay for one round; returns its state and what is wrong, as the heartbeat stores them."""
    with closing(Stop()) as stop:

        def request_stop(moved: bool, full: bool) -> float:
            stop.request()
            return math.inf

        relay.background = request_stop
        relay.run(stop)
    return relay.worker_state.snapshot()


def test_a_topic_for_which_nothing_waits_any_more_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """As after another relay sent its messages: this one would never notice that the topic is available."""
    caplog.set_level("INFO")
    clock = Clock(1000.0)
    broker = ScriptedBroker(lambda records, outcomes: [TopicTrouble("no leader of partition 0") for _ in records])
    message = make_message(topic="rare")
    relay = Relay(broker, using="default", clock=clock)
    state, trouble = run_one_round(relay)
    assert state == "trouble"
    assert trouble.startswith("rare: no leader of partition 0.")
    OutboxMessage.objects.filter(id=message.id).update(
        status="consumed", consumed_at=timezone.now(), next_retry_at=None
    )

    assert run_one_round(relay)[0] == "trouble", "it is too early to try again"
    clock.now += 60
    run_one_round(relay)

    assert run_one_round(relay) == ("working", "")
    assert "Topic rare is available again after 60 s." in caplog.text


def test_a_topic_that_fails_again_soon_is_still_the_same_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock(1000.0)
    fails = False
    broker = ScriptedBroker(
        lambda records, real: [TopicTrouble("no leader of partition 0") for _ in records] if fails else real
    )
    relay = Relay(broker, using="default", clock=clock)
    for fails in (True, False, True, False):  # noqa: B007  # the broker reads it
        make_message()
        relay.run_once()
        clock.now += RELAPSE_SECONDS - 0.25
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "Topic outbox: no leader of partition 0. Check its partitions and their replicas; "
        "its messages wait meanwhile. Trying again until it works."
    ]
