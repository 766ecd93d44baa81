"""The inbox calls no handler for what it has already handled, or what another consumer handles now."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_outbox.events.event import Event
from django_outbox.models import InboxMessage
from tests.support.effects import effect_of_payload, effects
from tests.support.inbox import Receiver, make_received, received, statuses

pytestmark = pytest.mark.django_db


def test_no_handler_is_called_for_a_stored_duplicate(receiver: Receiver) -> None:
    receiver.on("order.created")
    record = received(1)

    assert receiver.receive(record) == ["consumed"]
    assert receiver.receive(record, received(2)) == ["skipped", "consumed"]

    assert receiver.payloads == [1, 2]


def test_no_handler_is_called_twice_for_duplicates_that_are_read_together(receiver: Receiver) -> None:
    receiver.on("order.created")
    record = received(1)

    assert receiver.receive(record, received(2), record) == ["consumed", "consumed", "skipped"]

    assert receiver.payloads == [1, 2]


def test_events_of_two_sources_with_one_id_are_handled_once_each(receiver: Receiver) -> None:
    receiver.on("order.created")

    assert receiver.receive(received(1, id="1", source="a"), received(2, id="1", source="b")) == ["consumed"] * 2

    assert receiver.payloads == [1, 2]


def test_a_handler_that_removes_its_stored_message_leaves_no_effect(receiver: Receiver) -> None:
    def handle(event: Event) -> None:
        effect_of_payload(event)
        InboxMessage.objects.all().delete()

    receiver.on("order.created", handle)
    make_received()

    assert receiver.run_due() == ["failed"]
    assert (statuses(), effects()) == (["pending"], [])


def test_a_message_that_is_no_longer_due_is_not_handled(receiver: Receiver) -> None:
    """Another consumer has claimed it since this one found it."""
    receiver.on("order.created")
    message = make_received(next_retry_at=timezone.now() + timedelta(hours=1))

    assert receiver.inbox.handle_due(message.id) is None

    assert (statuses(), receiver.payloads) == (["pending"], [])
