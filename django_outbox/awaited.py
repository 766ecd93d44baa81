"""For how long published messages have waited for their handlers here."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Max, Min

from django_outbox.conf import settings
from django_outbox.dead_letters import unread_topic
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.fields import DatabaseNow
from django_outbox.handlers import Handler, registry
from django_outbox.models import OutboxMessage

LOOKED_AT = 10_000


def longest_awaited(using: str) -> float | None:
    """Seconds since the longest awaited of the published messages was sent; None if no handler here waits.

    Of each event type, the ten thousand first in the log are looked at.
    """
    published = OutboxMessage.objects.using(using).filter(status="published", publish_count__gt=0)
    copies = unread_topic()
    read = published.exclude(topic=copies) if copies else published
    handlers = _main_handlers()
    if handlers is None or settings.unknown_event == "dead":
        row = read.filter(id__gt=0).order_by("status", "id").values_list("published_at", DatabaseNow()).first()
        return _seconds(row[0], row[1]) if row and row[0] else None
    wanted: set[tuple[str, str | None]] = {(handler.event_type, handler.topic) for handler in handlers}
    ages = []
    for event_type, topic in wanted:
        messages: Any = (published.filter(topic=topic) if topic else read).filter(event_type=event_type)
        # In the order of the index that the reconciler uses, so that a planner with old statistics takes it as well.
        messages = messages.order_by("event_type", "topic", "partition", "offset").annotate(clock=DatabaseNow())
        found = messages.values("published_at", "clock")[:LOOKED_AT].aggregate(
            since=Min("published_at"), now=Max("clock")
        )
        if found["since"]:
            ages.append(_seconds(found["since"], found["now"]))
    return max(ages, default=None)


def _main_handlers() -> list[Handler] | None:
    """The handlers of the main group; None if they cannot be imported."""
    try:
        registry.load()
    except HandlersNotImportable:
        return None
    return registry.for_group(settings.consumer_group)


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
