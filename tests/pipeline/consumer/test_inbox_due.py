"""Which stored messages are due, and what is told about each."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from django_outbox.consumer.inbox.inbox import Due
from django_outbox.models import InboxMessage
from tests.support.inbox import Receiver, make_received
from tests.support.outbox import in_thread

pytestmark = pytest.mark.django_db


def test_due_messages_have_their_key_and_whether_one_may_have_killed_a_process(receiver: Receiver) -> None:
    longer = [timezone.now() - timedelta(minutes=minutes) for minutes in (3, 2, 1)]
    keyed, without_key, suspect = (
        make_received(next_retry_at=at, message_key=key, delivery_count=count)
        for at, key, count in zip(longer, ["Zoë", "", "k"], [0, 0, 2], strict=True)
    )
    assert receiver.inbox.due(10) == [
        Due(keyed.id, ("elsewhere", "Zoë".encode()), False),
        Due(without_key.id, None, False),
        Due(suspect.id, ("elsewhere", b"k"), True),
    ]
    assert [due.id for due in receiver.inbox.due(1, {keyed.id})] == [without_key.id]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_what_another_consumer_handles_is_not_waited_for(receiver: Receiver) -> None:
    locked, free = make_received(), make_received()
    found: list[Due] = []
    with transaction.atomic():
        InboxMessage.objects.using("default").select_for_update().get(id=locked.id)
        with in_thread(lambda: found.extend(receiver.inbox.due(10))):
            pass
    assert [due.id for due in found] == [free.id]
