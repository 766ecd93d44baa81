"""Order by key in the inbox: what has to end before a message is handled.

Messages of one group, topic and key are handled in the order of their ids, which is that of their
arrival. Messages without a key have no order, and ``ORDERING = "none"`` turns all of this off.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Min, QuerySet

from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.ordering import blocking_statuses, has_order

CLAIM_SECONDS = 1.0
"""How long a message in hand is not due, so that no other consumer counts the same delivery."""


class Blocker(NamedTuple):
    """An earlier message of a key that has to end before others of the key are handled."""

    id: int
    until: datetime | timedelta
    """When those behind it are to look again, or how long from now."""


def blocker_of(row: InboxMessage, *, using: str) -> Blocker | None:
    """A message of this one's key that has to end before it, if any is left."""
    if not has_order(row):
        return None
    earlier = (
        of_key(row, using)
        .filter(status__in=blocking_statuses(), id__lt=row.id)
        # By id alone, PostgreSQL would walk the primary key, through all that is finished.
        .order_by("status", "id")
        .values_list("id", "next_retry_at", DatabaseNow())
        .first()
    )
    return None if earlier is None else _blocker(*earlier)


def blockers_of(rows: Sequence[InboxMessage], *, using: str) -> dict[tuple[str, str], Blocker]:
    """By topic and key, the first message that has to end before others of its key."""
    keyed = [row for row in rows if has_order(row)]
    if not keyed:
        return {}
    firsts = (
        messages(using)
        .filter(
            status__in=blocking_statuses(),
            group=keyed[0].group,
            topic__in={row.topic for row in keyed},
            message_key__in={row.message_key for row in keyed},
        )
        .values("topic", "message_key")
        .annotate(first=Min("id"))
    )
    ids = [row["first"] for row in firsts]
    if not ids:
        return {}
    found = messages(using).filter(id__in=ids)
    columns = found.values_list("topic", "message_key", "id", "next_retry_at", DatabaseNow())
    return {(topic, key): _blocker(*earlier) for topic, key, *earlier in columns}


def _blocker(id: int, due_at: datetime | None, now: datetime) -> Blocker:
    longest = timedelta(seconds=MAX_BACKOFF_SECONDS)
    if due_at is None:  # dead, until an operator decides
        return Blocker(id, longest)
    if due_at > now:
        return Blocker(id, due_at)
    # It is in hand, or nobody has come to it yet. Whichever it is, its end lets the next one go. So the longer it takes,
    # the less often all that is behind it is to look: each look writes all of these rows.
    return Blocker(id, max(timedelta(seconds=CLAIM_SECONDS), min(now - due_at, longest)))


def of_key(row: InboxMessage, using: str) -> QuerySet[InboxMessage]:
    """All messages of this one's group, topic and key."""
    return messages(using).filter(group=row.group, topic=row.topic, message_key=row.message_key)


def messages(using: str) -> QuerySet[InboxMessage]:
    """The inbox of a database."""
    return InboxMessage.objects.using(using).order_by()
