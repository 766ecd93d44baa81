"""Topics that the relay leaves alone, as its heartbeat tells of them."""

from __future__ import annotations

import logging

from django_outbox.brokers.base import TopicMissing
from django_outbox.parking import ParkedTopics


def test_a_topic_that_is_only_to_be_looked_at_is_no_trouble() -> None:
    parked = ParkedTopics(logging.getLogger(__name__), lambda: 0.0)
    parked.note_missing("new")
    assert str(parked) == ""
    parked.park("lost", TopicMissing("it does not exist"))
    assert str(parked).startswith("lost: it does not exist. Create the topic")
