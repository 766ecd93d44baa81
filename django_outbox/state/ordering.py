"""Order by key: what has to come before a message, on the way to the broker and at the handler.

Messages of one topic and key reach their handler in the order of their ids. The relay sends none
before those ahead of it; the consumer sends back what overtook one that failed. Messages without a
key have no order, and ``ORDERING = "none"`` turns all of this off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connections
from django.db.models import Exists, Min, OuterRef, Q, QuerySet

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state import postgresql
from django_outbox.state.rows import LockedMessage

Status = OutboxMessage.Status


class Earlier(NamedTuple):
    """A message that comes before others of its key.

    Attributes:
        id: its id.
        status: its state.
        due_at: None unless it is pending.
        is_coming: that it is published, and its record will be read after that of the other, as it was written later.
    """

    id: int
    status: str
    due_at: datetime | None
    is_coming: bool = False


def has_order(message: Outgoing | InboxMessage) -> bool:
    """True if others of its key have to wait for this message."""
    return bool(message.message_key) and settings.ordering == "key"


def holds_behind_dead() -> bool:
    """True if a dead message holds its key."""
    return settings.ordering == "key" and settings.on_dead == "hold"


def blocking_statuses() -> list[str]:
    """The states in which a message, of outbox or inbox, holds those behind it wherever its record is."""
    return [Status.PENDING.value, Status.DEAD.value] if settings.on_dead == "hold" else [Status.PENDING.value]


def unsent_before(
    batch: Sequence[Outgoing], pending: Sequence[postgresql.Unsent] | None = None, *, using: str
) -> dict[tuple[str, str], Earlier]:
    """By topic and key, the first message that is unsent and not in the batch.

    Args:
        batch: messages to be sent, by ascending id.
        pending: what was seen with the claim, if anything was.
        using: alias of the database.
    """
    keyed = [message for message in batch if message.message_key]
    if not keyed or settings.ordering != "key":
        return {}
    if connections[using].vendor == "postgresql":
        last_ids = {(message.topic, message.message_key): message.id for message in keyed}
        ids = [message.id for message in batch]
        found = postgresql.unsent_before(
            last_ids.values(), ids, pending, holds_behind_dead=holds_behind_dead(), using=using
        )
        return {(topic, key): Earlier(id, status, due_at) for topic, key, id, status, due_at in found}
    messages = OutboxMessage.objects.using(using).own().order_by()
    firsts = (
        messages.filter(
            status__in=blocking_statuses(),
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


def unhandled_before(
    messages: Sequence[LockedMessage], types_of: Callable[[str], Collection[str]], *, using: str
) -> dict[int, Earlier]:
    """By id, what has to be handled before a message and is not one of these.

    Args:
        messages: published, and locked.
        types_of: the event types of a topic that have a handler; what has none is nobody's turn.
        using: alias of the database.
    """
    by_topic: dict[str, list[LockedMessage]] = {}
    if settings.ordering == "key":
        for message in messages:
            if message.message_key:
                by_topic.setdefault(message.topic, []).append(message)
    earlier: dict[int, Earlier] = {}
    for topic, keyed in by_topic.items():
        earlier |= _unhandled_before(keyed, types_of(topic), using)
    return earlier


def _unhandled_before(
    messages: Sequence[LockedMessage], known_types: Collection[str], using: str
) -> dict[int, Earlier]:
    ids = [message.id for message in messages]
    if connections[using].vendor == "postgresql":
        found = postgresql.unhandled_before(ids, known_types, dead=Status.DEAD in blocking_statuses(), using=using)
        # The dead first, as they hold the longest, then those that wait for their retry.
        found.sort(key=lambda row: row[2])
        return {
            id: Earlier(earlier_id, status, due_at, bool(is_coming))
            for id, earlier_id, status, due_at, is_coming in reversed(found)
        }
    firsts = _first_unhandled(messages, ids, known_types, using)
    blocked: dict[int, Earlier] = {}
    for message in messages:
        if firsts.get((message.topic, message.message_key), message.id) < message.id:
            earlier = _first_before(message, ids, known_types, using)
            if earlier is not None:
                blocked[message.id] = earlier
    return blocked


def _first_unhandled(
    messages: Sequence[LockedMessage], ids: Collection[int], known_types: Collection[str], using: str
) -> dict[tuple[str, str], int]:
    """By topic and key, the first message that may have to be handled before some of these."""
    firsts = (
        _unhandled(known_types, using)
        .filter(
            topic__in={message.topic for message in messages},
            message_key__in={message.message_key for message in messages},
            id__lt=max(message.id for message in messages),
        )
        .exclude(id__in=ids)
        .order_by()
        .values("topic", "message_key")
        .annotate(first=Min("id"))
    )
    return {(row["topic"], row["message_key"]): row["first"] for row in firsts}


def _first_before(
    message: LockedMessage, ids: Collection[int], known_types: Collection[str], using: str
) -> Earlier | None:
    # A log that gives a later record a lower offset has lost what it had.
    in_the_log_before = OutboxMessage.objects.filter(
        id=message.id,
        partition=OuterRef("partition"),
        offset__lt=OuterRef("offset"),
        published_at__lte=OuterRef("published_at"),
    )
    earlier = (
        _unhandled(known_types, using)
        .filter(topic=message.topic, message_key=message.message_key, id__lt=message.id)
        .exclude(id__in=ids)
        .order_by("status", "id")
        .values_list("id", "status", "next_retry_at", Exists(in_the_log_before))
        .first()
    )
    return None if earlier is None else Earlier(*earlier)


def _unhandled(known_types: Collection[str], using: str) -> QuerySet[OutboxMessage]:
    return (
        OutboxMessage.objects.using(using)
        .own()
        .filter(Q(status__in=blocking_statuses()) | Q(status=Status.PUBLISHED, event_type__in=known_types))
    )
