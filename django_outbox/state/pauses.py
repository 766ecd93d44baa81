"""Pauses, and the messages that wait for their end.

A consumer that meets a paused message puts it back to pending, uncounted. It is due at one of the pause's check times,
which are five minutes apart, and so are later messages of its key, which take over its due time. That marks them: resuming
makes pending messages due that wait for a check time, and no others.

While a consumer is alive, it moves them from each check time to the next, so they are not sent meanwhile. If none is, or if
a consumer puts a message back just after the end of the pause, the message is due within ten minutes.

A pause of the circuit breaker has an end, when it is half-open: one message is tried. If it succeeds, the pause is resumed. A
few messages, and those that have failed, wait for that end instead of a check time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.exceptions import PauseLocked
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow, due_at

INTERVAL = timedelta(minutes=5)
"""Between two check times."""
AFTER_OTHERS = timedelta(seconds=5)
"""How much later than others messages are tried that have failed: one of them may be what is wrong."""
BREAKER = "circuit breaker"
"""Who pauses handlers that keep failing."""
AHEAD = timedelta(minutes=1)
"""Messages are moved to the next check time so long before one."""


class ActivePause(NamedTuple):
    """A pause as it was read; ``now`` is the time of the database's clock then."""

    id: int
    group: str
    event_type: str
    handler: str
    since: datetime
    until: datetime | None
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

    def due_times(self, now: datetime) -> list[datetime]:
        """When messages are due that wait for the end of this pause."""
        ends = [] if self.until is None else [self.until, self.until + AFTER_OTHERS]
        return [*self.check_times(now), *ends]

    def is_half_open(self, now: datetime) -> bool:
        """True if a message may be tried; see ``Pause.until``."""
        return self.until is not None and self.until <= now


def pause(group: str, *, event_type: str = "", handler: str = "", reason: str, by: str, using: str) -> Pause:
    """Pause an event type or a handler; if it is paused already, the reason is replaced.

    A pause of the circuit breaker loses its end. Messages that wait for that end are due now, to wait for a check time.

    Raises:
        PauseLocked: a consumer is using the pause, for example to try a message; nothing changed.
    """
    subject: dict[str, Any] = {"group": group, "event_type": event_type, "handler": handler}
    rows = Pause.objects.using(using)
    with transaction.atomic(using=using):
        for before in _lock(rows.filter(**subject), wait=False):
            if before.until is not None:
                release(before, before.now, using=using)
        found, _ = rows.update_or_create(**subject, defaults={"reason": reason, "created_by": by, "until": None})
    return found


def trip(group: str, handler: str, length: timedelta, reason: str, *, using: str) -> bool:
    """Pause a handler for a time, as the circuit breaker; True if it was not paused. An operator's pause stays as it is."""
    until = due_at(length)
    rows = Pause.objects.using(using)
    subject = {"group": group, "event_type": "", "handler": handler}
    _, is_new = rows.get_or_create(**subject, defaults={"reason": reason, "created_by": BREAKER, "until": until})
    if not is_new:
        rows.filter(**subject, until__isnull=False).update(reason=reason, until=until)
    return is_new


def try_one(pauses: Sequence[ActivePause], length: timedelta, *, using: str) -> list[ActivePause] | None:
    """Let this transaction try a message that half-open pauses cover.

    Returns:
        The pauses with a new end, before which no other message is tried. If the transaction is rolled back, the next
        one may try. None if another one tries a message of one of the pauses, or has since they were read.
    """
    rows = Pause.objects.using(using).filter(id__in=[pause.id for pause in pauses])
    with transaction.atomic(using=using):
        half_open = rows.filter(until__lte=DatabaseNow()).order_by("id").select_for_update(skip_locked=True)
        if len(half_open) < len(pauses):
            return None
        rows.update(until=due_at(length))
        return active(rows)


def leave_trial(pause: ActivePause, *, using: str) -> None:
    """Let another message be tried, in the transaction that was to try one; ``pause`` is as it was before."""
    Pause.objects.using(using).filter(id=pause.id).update(until=pause.until)


def resume(pauses: QuerySet[Pause], *, using: str, wait: bool = False) -> tuple[int, int]:
    """End pauses, and make the messages due that wait for them, in one transaction; returns how many of each.

    Args:
        wait: for a consumer that is using the pause, instead of raising ``PauseLocked``.

    Raises:
        PauseLocked: a consumer is using the pause, for example to try a message; nothing changed.
    """
    with transaction.atomic(using=using):
        ended = _lock(pauses.using(using), wait=wait)
        Pause.objects.using(using).filter(id__in=[each.id for each in ended]).delete()
        return len(ended), sum(release(each, each.now, using=using) for each in ended)


def _lock(pauses: QuerySet[Pause], *, wait: bool) -> list[ActivePause]:
    found = active(pauses.select_for_update(skip_locked=not wait))
    if not wait and len(found) < pauses.count():
        raise PauseLocked("A consumer is using this pause, for example to try a message. Try again in a moment.")
    return found


def active(pauses: QuerySet[Pause]) -> list[ActivePause]:
    """Read pauses, the oldest first."""
    columns = ("id", "group", "event_type", "handler", "created_at", "until")
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
    """Messages of outbox and inbox that wait for the end of a pause."""
    times = pause.due_times(now)
    return {name: messages.filter(next_retry_at__in=times) for name, messages in _pending(pause, using).items()}


def _pending(pause: ActivePause, using: str) -> dict[str, QuerySet[Any]]:
    outbox = OutboxMessage.objects.using(using).own().pending()
    return {
        # Other groups handle no message from its row in the outbox.
        "outbox": outbox if pause.group == settings.consumer_group else outbox.none(),
        "inbox": InboxMessage.objects.using(using).pending().filter(group=pause.group),
    }
