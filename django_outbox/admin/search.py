"""Finding messages by what they are called, without an index on the keys of all that is finished."""

from __future__ import annotations

from django.db.models import Max, Q

from django_outbox.admin.filters import known_groups, known_topics
from django_outbox.admin.tables import Table
from django_outbox.operations.selection import with_event_id, with_id

RECENT = 1_000_000
MOST = 500
# Apart, as each has a partial index on keys, which is not used for all of them at once.
UNFINISHED = (("pending", "dead"), ("published",))


def ids_named(table: Table, term: str) -> set[int]:
    """The newest messages with this id, event id or key.

    Of a key those that are unfinished, in the topics (and of the inbox the groups) that are known
    here, and those among the last million messages: an index on all keys would cost each message that
    is written, for a search that is made now and then. The same goes for event ids of the inbox.
    """
    messages = table.messages.order_by("-id").values_list("id", flat=True)
    newest = table.messages.aggregate(newest=Max("id"))["newest"] or 0
    unfinished = messages.filter(topic__in=known_topics(), message_key=term)
    recent = messages.filter(id__gt=newest - RECENT)
    called = with_id(term)
    if table.is_inbox:
        unfinished = unfinished.filter(group__in=known_groups())
        recent = recent.filter(Q(message_key=term) | with_event_id(table.model, term))
    else:
        recent = recent.filter(message_key=term)
        called |= with_event_id(table.model, term)
    return {
        *messages.filter(called)[:2],
        *(id for statuses in UNFINISHED for id in unfinished.filter(status__in=statuses)[:MOST]),
        *recent[:MOST],
    }
