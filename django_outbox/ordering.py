"""Order by key: what has to come before a message, on the way to the broker and at the handler.

Messages of one topic and key reach their handler in the order of their ids. The relay sends none
before those ahead of it; the consumer sends back what overtook one that failed. Messages without a
key have no order, and ``ORDERING = "none"`` turns all of this off.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connections
from django.db.models import Min, Q

from django_outbox import postgresql
from django_outbox.codecs import Outgoing
from django_outbox.conf import settings
from django_outbox.models import OutboxMessage

Status = OutboxMessage.Status


class Earlier(NamedTuple):
    """A message that comes before others of its key; ``due_at`` is None unless it is pending."""

    id: int
    status: str
    due_at: datetime | None


def unsent_before(batch: Sequence[Outgoing], *, using: str) -> dict[tuple[str, str], Earlier]:
    """By topic and key, the first message that is unsent and not in the batch.

    Args:
        batch: messages to be sent, by ascending id.
        using: alias of the database.
    """
    keyed = [message for message in batch if message.message_key]
    if not keyed or settings.ordering != "key":
        return {}
    statuses = [Status.PENDING.value, *_dead_that_hold()]
    if connections[using].vendor == "postgresql":
        last_ids = {(message.topic, message.message_key): message.id for message in keyed}
        found = postgresql.unsent_before(last_ids.values(), [message.id for message in keyed], statuses, using=using)
        return {(topic, key): Earlier(id, status, due_at) for topic, key, id, status, due_at in found}
    messages = OutboxMessage.objects.using(using).order_by()
    firsts = (
        messages.filter(
            status__in=statuses,
            topic__in={message.topic for message in keyed},
            message_key__in={message.message_key for message in keyed},
            id__lt=keyed[-1].id,
        )
        .exclude(id__in=[message.id for message in keyed])
        .values("topic", "message_key")
        .annotate(first=Min("id"))
    )
    ids = [row["first"] for row in firsts]
    if not ids:
        return {}
    rows = messages.filter(id__in=ids).values_list("topic", "message_key", "id", "status", "next_retry_at")
    return {(topic, key): Earlier(id, status, due_at) for topic, key, id, status, due_at in rows}


def unhandled_before(message: OutboxMessage, known_types: Collection[str], *, using: str) -> Earlier | None:
    """A message of this one's key that has to be handled before it, if any is left.

    Args:
        message: published, and locked.
        known_types: event types that have a handler; what has none is nobody's turn.
        using: alias of the database.
    """
    if not message.message_key or settings.ordering != "key":
        return None
    unhandled = Q(status__in=[Status.PENDING, *_dead_that_hold()])
    published = Q(status=Status.PUBLISHED, event_type__in=known_types)
    if message.offset is not None:
        # Those that were published before this one had their turn already; those published after
        # it, on their retry, are yet to come.
        published &= Q(offset__gt=message.offset) | ~Q(partition=message.partition)
    earlier = (
        OutboxMessage.objects.using(using)
        .filter(
            unhandled | published,
            # Said again for PostgreSQL, which then knows that the index on unfinished messages will do.
            status__in=[Status.PENDING, Status.PUBLISHED, Status.DEAD],
            topic=message.topic,
            message_key=message.message_key,
            id__lt=message.id,
        )
        # By id alone, PostgreSQL would walk the primary key, through all that is finished.
        .order_by("status", "id")
        .values_list("id", "status", "next_retry_at")
        .first()
    )
    return None if earlier is None else Earlier(*earlier)


def _dead_that_hold() -> list[str]:
    return [Status.DEAD.value] if settings.on_dead == "hold" else []
