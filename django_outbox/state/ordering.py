"""The order of keys: which earlier message must be sent or handled before a message.

Messages with the same topic and key reach their handler in the order of their ids. The relay sends no message before
an earlier one of its key; the consumer requeues messages that overtook one that failed. Messages without a key have no
order, and ``ORDERING = "none"`` disables all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Min, QuerySet

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.message import status_is
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Key
from django_outbox.state.dialects.results import Earlier, Unsent
from django_outbox.state.rows import LockedMessage

Status = OutboxMessage.Status

LONGEST_WAIT = timedelta(seconds=MAX_BACKOFF_SECONDS)
"""How long a message waits if it is unknown when its turn comes."""
LONGEST_WAIT_FOR_DEBEZIUM = timedelta(minutes=10)
"""How long it waits at most for one that Debezium carries: the longer the connector has been away, the longer."""
CLAIM_SECONDS = 1.0
"""How long a claimed inbox message is not due, so that no other consumer counts the same delivery."""


class Blocker(NamedTuple):
    """An earlier message of a key, and until when or for how long later ones must wait for it."""

    id: int
    until: datetime | timedelta
    is_dead: bool = False


def has_order(message: Outgoing | LockedMessage | InboxMessage) -> bool:
    """True if later messages of its key must wait for this message."""
    return bool(message.message_key) and settings.ordering == "key"


def holds_behind_dead() -> bool:
    """True if a dead message holds its key."""
    return settings.ordering == "key" and settings.on_dead == "hold"


def _blocking_statuses() -> list[str]:
    """The statuses in which a message always holds later ones."""
    return ["pending", "dead"] if settings.on_dead == "hold" else ["pending"]


# Outbox


def unsent_before(batch: Sequence[Outgoing], pending: Sequence[Unsent] | None = None, *, using: str) -> dict[Key, int]:
    """By topic and key, the id of the first unsent message that is not in the batch.

    Args:
        batch: messages to send, by ascending id.
        pending: earlier pending messages that the claim found; None if it did not look.
    """
    keyed = [message for message in batch if message.message_key]
    if not keyed or settings.ordering != "key":
        return {}
    ids = [message.id for message in batch]
    return dialect_of(using).unsent_before(keyed, ids, dead=holds_behind_dead(), pending=pending)


def unhandled_before(
    messages: Sequence[LockedMessage], types_of: Callable[[str], Collection[str]], *, using: str
) -> dict[int, Blocker]:
    """By id, the message that must be handled before a message and is not one of these.

    A message that Debezium delivers (its place in the log is unknown) does not wait for others that Debezium delivers:
    they come in the order of their commits. One that the relay sent waits for these, too, as Debezium may be behind.

    Args:
        messages: published and locked.
        types_of: the event types of a topic that have a handler; others hold nothing.
    """
    by_topic: dict[str, list[LockedMessage]] = {}
    if settings.ordering == "key":
        for message in messages:
            if message.message_key:
                by_topic.setdefault(message.topic, []).append(message)
    blockers: dict[int, Blocker] = {}
    for topic, keyed in by_topic.items():
        earlier = dialect_of(using).unhandled_before(keyed, types_of(topic), dead=holds_behind_dead())
        blockers |= {
            id: Blocker(found.id, _until_sent(found), found.status == Status.DEAD) for id, found in earlier.items()
        }
    return blockers


def overtaking(messages: Sequence[LockedMessage]) -> set[int]:
    """Return ids of messages that come before an earlier one of their key in the batch.

    Two messages that Debezium delivers come in the order of their commits, which counts.
    """
    if settings.ordering != "key":
        return set()
    found: set[int] = set()
    first: dict[Key, int] = {}  # the first id of those that come later
    first_placed: dict[Key, int] = {}  # of those that the relay sent
    for message in reversed(messages):
        if not message.message_key:
            continue
        key = (message.topic, message.message_key)
        if (first_placed if message.partition is None else first).get(key, message.id) < message.id:
            found.add(message.id)
        first[key] = min(message.id, first.get(key, message.id))
        if message.partition is not None:
            first_placed[key] = min(message.id, first_placed.get(key, message.id))
    return found


def _until_sent(earlier: Earlier) -> datetime | timedelta:
    if earlier.status == Status.PENDING:
        return earlier.due_at or timedelta(0)
    if earlier.is_coming:
        return timedelta(0)
    # A dead message waits for an operator, a published one whose record was already read waits for the reconciler.
    return max(LONGEST_WAIT, min(earlier.carried_for or LONGEST_WAIT, LONGEST_WAIT_FOR_DEBEZIUM))


# Inbox


def blocker_of(row: InboxMessage, *, using: str) -> Blocker | None:
    """The message that must be handled before this one, if any."""
    if not has_order(row):
        return None
    unfinished = _unfinished(row, from_status=min(_blocking_statuses()), using=using)
    earlier = unfinished.filter(id__lt=row.id).values_list("id", "next_retry_at", DatabaseNow()).first()
    return None if earlier is None else _blocker(*earlier)


def blockers_of(rows: Sequence[InboxMessage], *, using: str) -> dict[Key, Blocker]:
    """By topic and key, the first message that must be handled before others of its key."""
    keyed = [row for row in rows if has_order(row)]
    if not keyed:
        return {}
    messages = InboxMessage.objects.using(using)
    blocking = messages.filter(
        status__in=_blocking_statuses(),
        group=keyed[0].group,
        topic__in={row.topic for row in keyed},
        message_key__in={row.message_key for row in keyed},
    )
    ids = [first for *_, first in blocking.values_list("topic", "message_key").annotate(first=Min("id"))]
    if not ids:
        return {}
    columns = ("topic", "message_key", "id", "next_retry_at", DatabaseNow())
    found = messages.filter(id__in=ids).values_list(*columns)
    return {(topic, key): _blocker(*earlier) for topic, key, *earlier in found}


def _blocker(id: int, due_at: datetime | None, now: datetime) -> Blocker:
    if due_at is None:  # dead
        return Blocker(id, LONGEST_WAIT)
    if due_at > now:
        return Blocker(id, due_at)
    # It is being handled, or overdue; its end releases the next message. The longer it takes, the longer the later
    # ones wait, because each postponement writes all of them.
    return Blocker(id, max(timedelta(seconds=CLAIM_SECONDS), min(now - due_at, LONGEST_WAIT)))


def is_blocking(blocker: Blocker, *, using: str) -> bool:
    """True if the message still holds later ones."""
    status = InboxMessage.objects.using(using).filter(id=blocker.id).values_list("status", flat=True).first()
    return status in _blocking_statuses()


def release_next(row: InboxMessage, *, using: str) -> None:
    """Make the next message of a key due at once if it only waited for this one, which is consumed or dead."""
    if not has_order(row) or row.status in _blocking_statuses():
        return
    later = _unfinished(row, from_status=Status.PENDING, using=using).filter(id__gt=row.id)
    # The lock waits for a consumer that is about to postpone it.
    next_id = later.select_for_update().values_list("id", flat=True).first()
    if next_id is not None:
        InboxMessage.objects.using(using).filter(
            status_is(Status.PENDING), id=next_id, retry_count=0, next_retry_at__gt=DatabaseNow()
        ).update(next_retry_at=DatabaseNow())


def _unfinished(row: InboxMessage, *, from_status: str, using: str) -> QuerySet[InboxMessage]:
    """Messages of a key that are pending, or from the status "dead" on also dead, in the order of the index.

    A range of statuses, because PostgreSQL would drop a constant one from the order and walk the primary key.
    """
    messages = same_key(row, using=using).filter(status__in=[Status.PENDING, Status.DEAD], status__gte=from_status)
    return messages.order_by("status", "id")


def same_key(row: InboxMessage, *, using: str) -> QuerySet[InboxMessage]:
    """All messages with the group, topic and key of this one."""
    messages = InboxMessage.objects.using(using)
    return messages.filter(group=row.group, topic=row.topic, message_key=row.message_key)
