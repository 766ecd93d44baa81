"""Finds messages by id, event id or key, without an index on the keys of finished messages."""

from __future__ import annotations

from django.db.models import Max, Q

from django_outbox.admin.tables import Table
from django_outbox.operations.selection import has_event_id, has_id
from django_outbox.operations.topics import known_topics, loaded_registry

RECENT = 1_000_000
MOST = 500
# In separate queries, as each has its own partial index on keys.
UNFINISHED = (("pending", "dead"), ("published",))


def find_ids(table: Table, term: str) -> set[int]:
    """The newest messages with this id, event id or key.

    By key: unfinished messages in known topics (inbox: and groups), and all among the last million messages. An index
    on all keys would slow every write down for a rare search. The same is true of event ids in the inbox.
    """
    messages = table.messages.order_by("-id").values_list("id", flat=True)
    newest = table.messages.aggregate(newest=Max("id"))["newest"] or 0
    unfinished = messages.filter(topic__in=known_topics(), message_key=term)
    recent = messages.filter(id__gt=newest - RECENT)
    named = has_id(term)
    if table.is_inbox:
        unfinished = unfinished.filter(group__in=loaded_registry().groups)
        recent = recent.filter(Q(message_key=term) | has_event_id(table.model, term))
    else:
        recent = recent.filter(message_key=term)
        named |= has_event_id(table.model, term)
    return {
        *messages.filter(named)[:2],
        *(id for statuses in UNFINISHED for id in unfinished.filter(status__in=statuses)[:MOST]),
        *recent[:MOST],
    }
