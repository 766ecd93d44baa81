"""Finding messages by what they are called, without an index on the keys of all that is finished."""

from __future__ import annotations

from django.db.models import Max

from django_outbox.admin.filters import known_topics
from django_outbox.admin.selection import identified_by
from django_outbox.admin.tables import Table

RECENT = 1_000_000
MOST = 500
UNFINISHED = ("pending", "published", "dead")


def ids_named(table: Table, term: str) -> set[int]:
    """The newest messages with this id, event id or key.

    Of a key those that are unfinished, in the topics that are known here, and those among the last
    million messages: an index on all keys would cost each message that is written, for a search that
    is made now and then.
    """
    messages = table.messages.order_by("-id").values_list("id", flat=True)
    newest = table.messages.aggregate(newest=Max("id"))["newest"] or 0
    unfinished = messages.filter(status__in=UNFINISHED, topic__in=known_topics(), message_key=term)
    recent = messages.filter(id__gt=newest - RECENT, message_key=term)
    called = identified_by(term)
    return {
        *(messages.filter(called)[:2] if called else ()),
        *unfinished[:MOST],
        *recent[:MOST],
    }
