"""Pauses, and the messages that wait for their end.

A consumer that meets a paused message puts it back to pending, uncounted. It is due at one of the pause's check times,
which are five minutes apart, and so are later messages of its key, which take over its due time. That marks them: resuming
makes pending messages due that wait for a check time, and no others.

While a consumer is alive, it moves them from each check time to the next, so they are not sent meanwhile. If none is, or if
a consumer puts a message back just after the end of the pause, the message is due within ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow

INTERVAL = timedelta(minutes=5)
"""Between two check times."""
AHEAD = timedelta(minutes=1)
"""Messages are moved to the next check time so long before one."""


class ActivePause(NamedTuple):
    """A pause as it was read; ``now`` is the time of the database's clock then."""

    id: int
    group: str
    event_type: str
    handler: str
    since: datetime
    now: datetime

    def covers(self, event_type: str, handlers: Iterable[str]) -> bool:
        """True if messages of this type, which these handlers handle, wait."""
        if self.handler:
            return self.handler in handlers
        return fnmatchcase(event_type, self.event_type)

    def check_times(self, now: datetime) -> tuple[datetime, datetime]:
        """The next two check times."""
        following = self.since + ((now - self.since) // INTERVAL + 1) * INTERVAL
        return following, following + INTERVAL

    def due_at(self, now: datetime) -> datetime:
        """When a message that is put back now is due."""
        following, later = self.check_times(now)
        return following if following - now > AHEAD else later


def pause(group: str, *, event_type: str = "", handler: str = "", reason: str, by: str, using: str) -> Pause:
    """Pause an event type or a handler; if it is paused already, the reason is replaced."""
    found, _ = Pause.objects.using(using).update_or_create(
        group=group, event_type=event_type, handler=handler, defaults={"reason": reason, "created_by": by}
    )
    return found


def resume(pauses: QuerySet[Pause], *, using: str) -> tuple[int, int]:
    """End pauses, and make the messages due that wait for them, in one transaction; returns how many of each."""
    with transaction.atomic(using=using):
        ended = active(pauses.using(using).select_for_update())
        Pause.objects.using(using).filter(id__in=[each.id for each in ended]).delete()
        return len(ended), sum(release(each, each.now, using=using) for each in ended)


def active(pauses: QuerySet[Pause]) -> list[ActivePause]:
    """Read pauses, the oldest first."""
    columns = ("id", "group", "event_type", "handler", "created_at")
    return [ActivePause(*row) for row in pauses.order_by("id").values_list(*columns, DatabaseNow())]


def release(pause: ActivePause, now: datetime, *, using: str) -> int:
    """Make messages due that wait for a check time of a pause; returns how many."""
    return sum(
        messages.update(next_retry_at=DatabaseNow(), updated_at=DatabaseNow())
        for messages in waiting(pause, now, using=using).values()
    )


def postpone(pause: ActivePause, now: datetime, *, using: str) -> int:
    """Move messages that wait for the next check time to the one after it; returns how many.

    The pause is locked, so that it cannot be resumed meanwhile. If it has been, nothing is moved.
    """
    following, later = pause.check_times(now)
    with transaction.atomic(using=using):
        if Pause.objects.using(using).select_for_update().filter(id=pause.id).first() is None:
            return 0
        return sum(
            messages.filter(next_retry_at=following).update(next_retry_at=later, updated_at=DatabaseNow())
            for messages in _pending(pause, using).values()
        )


def waiting(pause: ActivePause, now: datetime, *, using: str) -> dict[str, QuerySet[Any]]:
    """Messages of outbox and inbox that wait for a check time of a pause."""
    times = pause.check_times(now)
    return {name: messages.filter(next_retry_at__in=times) for name, messages in _pending(pause, using).items()}


def _pending(pause: ActivePause, using: str) -> dict[str, QuerySet[Any]]:
    outbox = OutboxMessage.objects.using(using).own().pending()
    return {
        # Other groups handle no message from its row in the outbox.
        "outbox": outbox if pause.group == settings.consumer_group else outbox.none(),
        "inbox": InboxMessage.objects.using(using).pending().filter(group=pause.group),
    }
