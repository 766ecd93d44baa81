"""The relay and the order of a key: what it sends before, with and after a message that waits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_outbox.relay.relay import Relay
from tests.support.outbox import make_message, memory_broker, statuses

pytestmark = pytest.mark.django_db

AN_HOUR = timedelta(hours=1)


def test_a_message_does_not_wait_for_a_later_one_of_its_key() -> None:
    for due_in in (-AN_HOUR, AN_HOUR, -AN_HOUR):
        make_message(message_key="a", next_retry_at=timezone.now() + due_in)

    done = Relay(memory_broker(), using="default").run_once()

    assert (done.published, done.blocked) == (1, 1)
    assert statuses() == ["published", "pending", "pending"]
