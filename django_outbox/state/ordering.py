"""Order by key: what has to come before a message, on the way to the broker and at the handler.

Messages of one topic and key reach their handler in the order of their ids. The relay sends none
before those ahead of it; the consumer sends back what overtook one that failed. Messages without a
key have no order, and ``ORDERING = "none"`` turns all of this off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Earlier, Key, Unsent
from django_outbox.state.dialects.postgresql import PostgreSQL
from django_outbox.state.rows import LockedMessage

Status = OutboxMessage.Status


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
    batch: Sequence[Outgoing], pending: Sequence[Unsent] | None = None, *, using: str
) -> dict[Key, Earlier]:
    """By topic and key, the first message that is unsent and not in the batch.

    Args:
        batch: messages to be sent, by ascending id.
        pending: what was seen with the claim, if anything was.
        using: alias of the database.
    """
    keyed = [message for message in batch if message.message_key]
    if not keyed or settings.ordering != "key":
        return {}
    dialect, ids, dead = dialect_of(using), [message.id for message in batch], holds_behind_dead()
    if isinstance(dialect, PostgreSQL):
        return dialect.unsent_before(keyed, ids, dead=dead, pending=pending)
    return dialect.unsent_before(keyed, ids, dead=dead)


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
    dialect, dead = dialect_of(using), holds_behind_dead()
    earlier: dict[int, Earlier] = {}
    for topic, keyed in by_topic.items():
        earlier |= dialect.unhandled_before(keyed, types_of(topic), dead=dead)
    return earlier
