"""Pauses for operators: what can be paused, what is, and how many messages wait."""

from __future__ import annotations

import shlex
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.handlers.registry import registry
from django_outbox.models import Pause, outbox_database
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.counts import count_paused, seconds
from django_outbox.state.pauses import ActivePause


class UnknownSubject(ValueError):
    """A pause would cover nothing."""


class PauseStatus(NamedTuple):
    """A pause, its age, and how many messages of outbox and inbox wait for its end.

    ``seconds_left`` until a message is tried, after the circuit breaker.
    """

    id: int
    group: str
    event_type: str
    handler: str
    reason: str
    by: str
    seconds: float
    seconds_left: float | None
    waiting: dict[str, int]

    @property
    def subject(self) -> str:
        return self.event_type or self.handler

    @property
    def messages(self) -> int:
        return sum(self.waiting.values())


def known_pauses(using: str) -> list[PauseStatus]:
    """All pauses, the oldest first."""
    found = []
    for row in Pause.objects.using(using).annotate(clock=DatabaseNow()).order_by("id"):
        active = ActivePause(row.id, row.group, row.event_type, row.handler, row.created_at, row.until, row.clock)
        status = PauseStatus(
            *active[:4],
            reason=row.reason,
            by=row.created_by,
            seconds=seconds(active.now - active.since),
            seconds_left=None if active.until is None else seconds(active.until - active.now),
            waiting=count_paused(active, using),
        )
        found.append(status)
    return found


def resume_command(group: str, *, event_type: str = "", handler: str = "", using: str) -> str:
    """The command that ends a pause, to be copied into a shell."""
    words = ["manage.py", "outbox_resume"]
    words += ["--event-type", event_type] if event_type else ["--handler", handler]
    if group != settings.consumer_group:
        words += ["--group", group]
    if using != outbox_database():
        words += ["--database", using]
    return shlex.join(words)


def require_subject(group: str, *, event_type: str = "", handler: str = "") -> None:
    """Check that a consumer group has something to pause.

    Raises:
        UnknownSubject: saying what it has.
        HandlersNotImportable: the handlers are unknown.
    """
    registry.load()
    if group not in registry.groups:
        raise UnknownSubject(f"{group!r} is not a consumer group of this project: {', '.join(registry.groups)}.")
    handlers = registry.for_group(group)
    if handler:
        names = sorted({each.name for each in handlers})
        if handler not in names:
            raise UnknownSubject(f"The group {group!r} has no handler {handler!r}.{_similar(handler, names)}")
        return
    types = sorted({each.event_type for each in handlers})
    if not any(fnmatchcase(each, event_type) for each in types):
        raise UnknownSubject(f"The group {group!r} handles no event type {event_type!r}.{_similar(event_type, types)}")


def _similar(name: str, names: list[str]) -> str:
    similar = get_close_matches(name, names, n=1)
    return f" Did you mean {similar[0]!r}?" if similar else " manage.py outbox_consume --list shows its handlers."
