"""What is kept for how long: which messages are old enough to be deleted, and that nobody waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Q

from django_outbox.conf import settings
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.unhandled import Awaited

INBOX = "inbox"
"""What ``RETENTION`` calls the messages that the inbox has consumed."""
INBOX_DEAD = "dead inbox"

Ages = Mapping[str, timedelta | None]


@dataclass(frozen=True)
class Expiry:
    """When the messages of one table may go.

    Attributes:
        model: of the table.
        ages: for how long after its last change a message is kept, by what is said of it to people.
        statuses: the state that each of these stands for.
        awaited: published messages that are kept although they are old enough.
        own: restricts the table to the messages of this service.
    """

    model: type[Any]
    ages: Mapping[str, timedelta]
    statuses: Mapping[str, str]
    awaited: Q | None = None
    own: Q = field(default_factory=Q)

    @property
    def shortest(self) -> timedelta:
        """What was written less long ago than this has not expired."""
        return min(self.ages.values())

    @property
    def expired(self) -> Q:
        """Those that may go, by the database's clock."""
        expired = Q()
        for name in self.ages:
            condition = self.old(name)
            if name == "published" and self.awaited is not None:
                condition &= ~self.awaited
            expired |= condition
        return expired

    def old(self, name: str) -> Q:
        """All in this state that are old enough."""
        return self.own & Q(status=self.statuses[name], updated_at__lt=DatabaseNow() - self.ages[name])

    def name_of(self, status: str) -> str:
        """What a state is called."""
        return next(name for name in self.ages if self.statuses[name] == status)


def expiries(ages: Ages, handlers: Registry | None) -> list[Expiry]:
    """By table, what may go; without the tables that keep everything.

    A published message that a handler of this project wants has yet to be handled, however old it is: it is
    never deleted. Without a handler nothing will ever come of it here, since others read it from the topic.

    Args:
        ages: as ``RETENTION`` has them; None keeps.
        handlers: of the project, loaded; None if they are not known, and so all that is published is kept.
    """
    names = ("consumed", "published", "dead")
    if handlers is None:
        awaited: Q | None = Q(status="published")
    else:
        awaited = Awaited.by(handlers.for_group(settings.consumer_group)).condition
    of_inbox = {INBOX: ages.get(INBOX), INBOX_DEAD: ages.get("dead")}
    found = [
        Expiry(
            OutboxMessage,
            _set({name: ages.get(name) for name in names}),
            {name: name for name in names},
            awaited,
            own=Q(source=settings.source),
        ),
        Expiry(InboxMessage, _set(of_inbox), {INBOX: "consumed", INBOX_DEAD: "dead"}),
    ]
    return [each for each in found if each.ages]


def _set(ages: Ages) -> dict[str, timedelta]:
    return {name: age for name, age in ages.items() if age is not None}
