"""Notices about workers: none running, falling behind, in trouble or lost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from django_outbox.admin.notices import Link, Notice
from django_outbox.admin.tables import INBOX, OUTBOX
from django_outbox.conf import settings
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage, Worker
from django_outbox.observability import text as texts
from django_outbox.operations.counts import longest_due
from django_outbox.operations.selection import Selection
from django_outbox.operations.workers import MOST_NAMES, is_late, why_behind


class Waiting(NamedTuple):
    """Messages that wait for a worker.

    Attributes:
        seconds: the age of the oldest wait; None if nothing waits.
        text: what they wait for.
        behind: the title if workers are running.
        url: the list of these messages; "" if there is none.
    """

    seconds: float | None
    text: str
    behind: str
    url: str = ""


def relay_notices(alive: Sequence[Any]) -> Iterator[Notice]:
    """No relay is running, or messages wait although one is."""
    seconds = longest_due(OutboxMessage, OUTBOX.database)
    waiting = Waiting(
        seconds,
        gettext("Messages have waited to be sent for %(age)s.") % {"age": _duration(seconds)},
        gettext("The relay is behind"),
        f"{OUTBOX.list_url}?status=pending",
    )
    yield from _notices(
        [worker for worker in alive if worker.kind == Worker.Kind.RELAY],
        gettext("No relay is running"),
        gettext("Nothing is sent to Kafka. Start one: manage.py outbox_relay"),
        [waiting],
    )


def consumer_notices(
    alive: Sequence[Any], handlers: Registry, published: float | None, inbox_due: Mapping[str, float]
) -> Iterator[Notice]:
    """The same for the consumers of each group that has handlers or due messages.

    Args:
        alive: the running workers.
        handlers: of this project.
        published: seconds that a published message has waited for its handler, in topics that are read.
        inbox_due: seconds that a message of the inbox has been due, by group.
    """
    main = settings.consumer_group
    for group in dict.fromkeys([*sorted(handlers.groups), *inbox_due]):
        if not (handlers.for_group(group) or group in inbox_due or (group == main and settings.inbox)):
            continue
        others = [name for name in handlers.groups if name != group]
        waiting = [_inbox_waiting(group, inbox_due.get(group))]
        if group == main:
            waiting.insert(0, Waiting(published, _handler_waits(published), gettext("The consumer is behind")))
        missing = (
            gettext("No consumer of the group %(group)s is running") % {"group": group}
            if others
            else gettext("No consumer is running")
        )
        command = "manage.py outbox_consume" if group == main else f"manage.py outbox_consume --group {group}"
        advice = gettext("Its handlers are not called. Start one: %(command)s") % {"command": command}
        yield from _notices(_consumers_of(group, alive, others), missing, advice, waiting)


def _consumers_of(group: str, alive: Sequence[Any], others: Collection[str]) -> list[Any]:
    """Consumers of a group. One with a group that no handler names acts for the main group."""
    consumers = [worker for worker in alive if worker.kind == Worker.Kind.CONSUMER]
    if group == settings.consumer_group:
        return [worker for worker in consumers if worker.group not in others]
    return [worker for worker in consumers if worker.group == group]


def _inbox_waiting(group: str, seconds: float | None) -> Waiting:
    pending = Selection({"status": "pending", "group": group})
    return Waiting(
        seconds, _handler_waits(seconds), gettext("The inbox is behind"), f"{INBOX.list_url}?{pending.query}"
    )


def _handler_waits(seconds: float | None) -> str:
    return gettext("Messages have waited for their handler for %(age)s.") % {"age": _duration(seconds)}


def _duration(seconds: float | None) -> str:
    return texts.duration(seconds or 0)


def _notices(workers: Sequence[Any], missing: str, advice: str, waiting: Sequence[Waiting]) -> Iterator[Notice]:
    late = [each for each in waiting if is_late(each.seconds)]
    if not workers:
        yield Notice("bad", missing, " ".join([*(each.text for each in late), advice]), _links(late))
    elif not any(worker.trouble for worker in workers):  # otherwise the trouble is the cause
        cause = why_behind(workers)
        for each in late:
            yield Notice("bad", each.behind, f"{each.text} {cause.why} {cause.remedy}", _links([each]))


def _links(waiting: Sequence[Waiting]) -> list[Link]:
    return [Link(gettext("Show messages"), each.url) for each in waiting if each.url][:1]


def trouble_notices(alive: Sequence[Any]) -> Iterator[Notice]:
    """Workers in trouble, by trouble."""
    by_trouble: dict[str, list[Any]] = {}
    for worker in alive:
        if worker.trouble:
            by_trouble.setdefault(worker.trouble, []).append(worker)
    for trouble, workers in by_trouble.items():
        title = ngettext(
            "A worker is in trouble: %(names)s", "%(count)d workers are in trouble: %(names)s", len(workers)
        ) % {"count": len(workers), "names": _names(workers)}
        yield Notice("bad", title, trouble)


def lost_notices(workers: Sequence[Any], alive: Sequence[Any]) -> Iterator[Notice]:
    """Workers that disappeared and were not replaced."""
    lost = [worker for worker in workers if worker.is_lost and not _is_replaced(worker, alive)]
    if lost:
        title = ngettext("A worker disappeared: %(names)s", "%(count)d workers disappeared: %(names)s", len(lost)) % {
            "count": len(lost),
            "names": _names(lost),
        }
        seen = texts.age(max(worker.last_seen_at for worker in lost))
        text = gettext(
            "Last seen %(age)s ago. It did not shut down cleanly: it was killed, hangs, or cannot reach the database."
        )
        yield Notice("warn", title, text % {"age": seen})


def _is_replaced(lost: Any, alive: Sequence[Any]) -> bool:
    """True if a worker of the same kind and group was started later."""
    return any(
        (worker.kind, worker.group) == (lost.kind, lost.group) and worker.started_at >= lost.last_seen_at
        for worker in alive
    )


def _names(workers: Sequence[Any]) -> str:
    names = [f"{worker.get_kind_display()} {worker.host}:{worker.pid}" for worker in workers]
    return ", ".join([*names[:MOST_NAMES], *(["…"] if len(names) > MOST_NAMES else [])])
