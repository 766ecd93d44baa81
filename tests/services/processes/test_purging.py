"""Purging with real processes: beside a relay's work, killed at any time, and by the command."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.models import MessageFailure, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.processes import Command, wait_until

MONTH = timedelta(days=30)


@pytest.fixture
def old(transactional_db: None) -> Callable[[int], None]:
    """Make so many messages that were consumed a month ago, each after a failure."""

    def old(count: int) -> None:
        moment = DatabaseNow() - MONTH
        messages = OutboxMessage.objects.bulk_create(
            OutboxMessage(
                event_type="test.effect",
                topic="old",
                payload={},
                status="consumed",
                publish_count=1,
                next_retry_at=None,
                **dict.fromkeys(("created_at", "updated_at", "consumed_at"), moment),
            )
            for _ in range(count)
        )
        ids = [message.id for message in messages]
        if None in ids:  # MariaDB tells none in bulk
            ids = list(OutboxMessage.objects.filter(topic="old").values_list("id", flat=True))
        MessageFailure.objects.bulk_create(
            MessageFailure(
                message_id=id, worker="w", stage="handle", attempt=1, final=False, error="e", fingerprint="f"
            )
            for id in ids
        )

    return old


def left() -> int:
    return OutboxMessage.objects.filter(topic="old").count()


def test_a_relay_deletes_what_is_old_while_it_works_and_ends_as_ever(
    old: Any, relay: Callable[..., Command], send: Any, counts: Any
) -> None:
    old(1_000)
    command = relay()
    send("test.effect")
    wait_until(lambda: not left(), what="the old messages are gone")
    wait_until(lambda: counts() == {"published": 1}, what="the new one is published")
    command.wait_for_line("Deleted old messages: 1000 consumed")
    assert command.stop() == 0
    assert not MessageFailure.objects.exists()


def test_a_relay_that_is_killed_while_it_purges_leaves_whole_messages_and_the_next_goes_on(
    old: Any, relay: Callable[..., Command], manage: Callable[..., Command]
) -> None:
    old(20_000)
    first = relay()
    wait_until(lambda: left() < 20_000, what="some are gone")
    first.kill()
    assert left() > 0
    # A commit that it had sent may take effect when it is dead already.
    wait_until(lambda: left() == MessageFailure.objects.count() == left(), what="as many failures as messages")
    assert manage("outbox_purge").wait() == 0
    assert (left(), MessageFailure.objects.count()) == (0, 0)
