"""Which messages are old enough to be deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Q

from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.unhandled import HandledEvents

INBOX = "inbox"
"""The name of consumed inbox messages in ``RETENTION``."""
INBOX_DEAD = "dead inbox"


@dataclass(frozen=True)
class Expiry:
    """When messages of one table may be deleted."""

    model: type[Any]
    ages: Mapping[str, timedelta]  # how long they are kept after their last change, by the name that users see
    statuses: Mapping[str, str]  # the status of each name
    unhandled: Q | None = None  # published messages that are kept because a handler has not handled them yet
    own: Q = field(default_factory=Q)  # messages of this service

    @property
    def expired(self) -> Q:
        """Messages that may be deleted, by the database's clock."""
        expired = Q()
        for name in self.ages:
            condition = self.old(name)
            if name == "published" and self.unhandled is not None:
                condition &= ~self.unhandled
            expired |= condition
        return expired

    def old(self, name: str) -> Q:
        """Messages of a name that are old enough."""
        return self.own & Q(status=self.statuses[name], updated_at__lt=DatabaseNow() - self.ages[name])

    def name_of(self, status: str) -> str:
        """The name of a status."""
        return next(name for name in self.ages if self.statuses[name] == status)


def expiries(ages: Mapping[str, timedelta | None], handlers: Registry | None) -> list[Expiry]:
    """What may be deleted in each table, without tables that keep everything.

    A published message with a handler in this project is never deleted, because it is not handled yet. Without a
    handler, other services read it from the topic.

    Args:
        ages: as in ``RETENTION``; None keeps.
        handlers: of the project, loaded; None if unknown, which keeps all published messages.
    """
    if handlers is None:
        unhandled: Q | None = Q(status="published")
    else:
        handled = HandledEvents.by(handlers.for_group(settings.consumer_group))
        # No other service runs a task, even if its function is gone or not there yet.
        tasks = Q(event_type__startswith=TASK_PREFIX) & handled.read
        unhandled = tasks if handled.condition is None else handled.condition | tasks
    of_outbox = {name: age for name in ("consumed", "published", "dead") if (age := ages.get(name)) is not None}
    inbox_names = {INBOX: "consumed", INBOX_DEAD: "dead"}
    of_inbox = {name: age for name, key in ((INBOX, INBOX), (INBOX_DEAD, "dead")) if (age := ages.get(key)) is not None}
    found = [
        Expiry(OutboxMessage, of_outbox, {name: name for name in of_outbox}, unhandled, own=Q(source=settings.source)),
        Expiry(InboxMessage, of_inbox, inbox_names),
    ]
    return [each for each in found if each.ages]
