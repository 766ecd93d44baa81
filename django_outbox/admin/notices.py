"""Notices on the overview: what is wrong, since when, why, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.utils.translation import gettext, ngettext

from django_outbox.admin.failures import FailingType
from django_outbox.admin.panels import Panel
from django_outbox.admin.pauses import resume_url
from django_outbox.admin.tables import INBOX, OUTBOX, page_url
from django_outbox.conf import settings
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage, Pause, Worker
from django_outbox.observability import text as texts
from django_outbox.operations.counts import longest_due
from django_outbox.operations.lag import NO_ANSWER, GroupLag
from django_outbox.operations.pausing import PauseStatus
from django_outbox.operations.selection import Selection
from django_outbox.operations.topics import UnreadTopic
from django_outbox.operations.workers import MOST_NAMES, is_late, why_behind

RECENT = timedelta(hours=1)


class Link(NamedTuple):
    """A button."""

    text: str
    url: str


class Notice(NamedTuple):
    """One notice. ``level`` is ``bad``, ``warn`` or ``good``."""

    level: str
    title: str
    text: str = ""
    links: Sequence[Link] = ()


def dead_notice(panel: Panel, now: datetime) -> Iterator[Notice]:
    """Messages of a table are dead."""
    table, count, letters = panel.table, panel.dead.count, panel.letters
    if not count:
        return
    title = (
        ngettext("%(count)s message of the inbox is dead", "%(count)s messages of the inbox are dead", count)
        if table.is_inbox
        else ngettext("%(count)s message is dead", "%(count)s messages are dead", count)
    ) % {"count": texts.number(count)}
    text = ""
    if letters.groups:
        largest, last = letters.groups[0], texts.age(letters.last)
        text = (
            gettext("It died %(age)s ago: %(error)s")
            if count == 1
            else gettext("The first died %(first)s ago, the last %(last)s ago. Most often: %(error)s (%(count)s).")
        ) % {
            "age": last,
            "first": texts.age(letters.first),
            "last": last,
            "error": largest.title or largest.error,
            "count": texts.number(largest.count),
        }
    links = [Link(gettext("Show messages"), table.dead_list_url)]
    if panel.may_retry:
        links.append(Link(gettext("Retry all…"), table.action_url("retry", Selection())))
    is_recent = letters.last is None or now - letters.last < RECENT
    yield Notice("bad" if is_recent else "warn", title, text, links)


def failing_notice(panel: Panel, types: Sequence[FailingType], request: HttpRequest) -> Iterator[Notice]:
    """Messages of a table keep failing and will be retried."""
    table = panel.table
    types = [each for each in types if each.table is table]
    oldest_id = min((each.oldest_stuck for each in types if each.oldest_stuck), default=None)
    oldest = None if oldest_id is None else table.messages.filter(id=oldest_id).first()
    if oldest is None:
        return
    count = sum(each.stuck for each in types)
    text = gettext(
        "Message %(id)d (%(type)s), written %(age)s ago, has failed %(failures)d of %(allowed)d times: %(error)s"
    ) % {
        "id": oldest.id,
        "type": oldest.event_type,
        "age": texts.age(oldest.created_at),
        "failures": oldest.retry_count,
        "allowed": oldest.max_retry,
        "error": texts.one_line(table.redaction(request).error_of(oldest), 200),
    }
    title = (
        ngettext("%(count)s message of the inbox keeps failing", "%(count)s messages of the inbox keep failing", count)
        if table.is_inbox
        else ngettext("%(count)s message keeps failing", "%(count)s messages keep failing", count)
    ) % {"count": texts.number(count)}
    if count == 1:
        link = Link(gettext("Show message"), table.url_of(oldest))
    else:
        link = Link(gettext("Show messages"), f"{table.list_url}?status=pending&failures=3")
    yield Notice("warn", title, text, [link])


def pause_notices(pauses: Iterable[PauseStatus], *, may_view: bool, may_resume: bool) -> Iterator[Notice]:
    """Event types and handlers that are paused."""
    for pause in pauses:
        title = gettext("%(subject)s is paused") % {"subject": pause.subject}
        text = ngettext(
            "%(count)s message waits. Paused %(age)s ago by %(by)s in the group %(group)s: %(reason)s",
            "%(count)s messages wait. Paused %(age)s ago by %(by)s in the group %(group)s: %(reason)s",
            pause.messages,
        ) % {
            "count": texts.number(pause.messages),
            "age": texts.duration(pause.seconds),
            "by": pause.by,
            "group": pause.group,
            "reason": pause.reason,
        }
        links = [Link(gettext("Show pauses"), page_url(Pause, "changelist"))] if may_view else []
        if may_view and may_resume:
            links = [Link(gettext("Resume…"), resume_url(pause.id))]
        yield Notice("warn", title, text, links)


def unread_notices(topics: Iterable[UnreadTopic]) -> Iterator[Notice]:
    """Messages wait in topics that no consumer reads."""
    for topic in topics:
        published = Selection({"status": "published", "topic": topic.topic})
        link = Link(gettext("Show messages"), f"{OUTBOX.list_url}?{published.query}")
        yield Notice("bad", topic.title, f"{topic.cause.why} {topic.cause.remedy}", [link])


def broker_notices(lags: Collection[GroupLag]) -> Iterator[Notice]:
    """The broker does not answer this web server."""
    troubles = [lag.trouble for lag in lags if lag.trouble]
    if troubles:
        reasons = [trouble for trouble in troubles if trouble != NO_ANSWER.trouble]
        text = reasons[0] if reasons else gettext("No answer within two seconds.")
        yield Notice("warn", gettext("The broker does not answer"), text)


class Waiting(NamedTuple):
    """Messages that wait for a worker: how long, what for, the title if workers are running, and their list, if any."""

    seconds: float | None
    text: str
    behind: str
    url: str = ""


def relay_notices(alive: Sequence[Any]) -> Iterator[Notice]:
    """No relay is running, or messages wait although one is."""
    seconds = longest_due(OutboxMessage, OUTBOX.database)
    waiting = Waiting(
        seconds,
        gettext("Messages have waited to be sent for %(age)s.") % {"age": texts.duration(seconds or 0)},
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

    ``published``: seconds that a published message has waited for its handler; ``inbox_due``: as ``counts.inbox_due``.
    """
    main = settings.consumer_group
    consumers = [worker for worker in alive if worker.kind == Worker.Kind.CONSUMER]
    for group in dict.fromkeys([*sorted(handlers.groups), *inbox_due]):
        if not (handlers.for_group(group) or group in inbox_due or (group == main and settings.inbox)):
            continue
        others = [name for name in handlers.groups if name != group]
        # A consumer with a group that no handler names acts for the main group.
        members = [each for each in consumers if each.group == group or (group == main and each.group not in others)]
        due, pending = inbox_due.get(group), Selection({"status": "pending", "group": group})
        url = f"{INBOX.list_url}?{pending.query}"
        waiting = [Waiting(due, _handler_waits(due), gettext("The inbox is behind"), url)]
        if group == main:
            waiting.insert(0, Waiting(published, _handler_waits(published), gettext("The consumer is behind")))
        missing = (
            gettext("No consumer of the group %(group)s is running") % {"group": group}
            if others
            else gettext("No consumer is running")
        )
        command = "manage.py outbox_consume" if group == main else f"manage.py outbox_consume --group {group}"
        advice = gettext("Its handlers are not called. Start one: %(command)s") % {"command": command}
        yield from _notices(members, missing, advice, waiting)


def _handler_waits(seconds: float | None) -> str:
    return gettext("Messages have waited for their handler for %(age)s.") % {"age": texts.duration(seconds or 0)}


def _notices(workers: Sequence[Any], missing: str, advice: str, waiting: Sequence[Waiting]) -> Iterator[Notice]:
    late = [each for each in waiting if is_late(each.seconds)]
    if not workers:
        links = [link for each in late for link in _links(each)]
        yield Notice("bad", missing, " ".join([*(each.text for each in late), advice]), links[:1])
    elif not any(worker.trouble for worker in workers):  # otherwise the trouble is the cause
        cause = why_behind(workers)
        for each in late:
            yield Notice("bad", each.behind, f"{each.text} {cause.why} {cause.remedy}", _links(each))


def _links(waiting: Waiting) -> list[Link]:
    return [Link(gettext("Show messages"), waiting.url)] if waiting.url else []


def trouble_notices(alive: Sequence[Any]) -> Iterator[Notice]:
    """Workers in trouble, by trouble."""
    by_trouble: dict[str, list[Any]] = defaultdict(list)
    for worker in alive:
        if worker.trouble:
            by_trouble[worker.trouble].append(worker)
    for trouble, workers in by_trouble.items():
        title = ngettext(
            "A worker is in trouble: %(names)s", "%(count)d workers are in trouble: %(names)s", len(workers)
        ) % {"count": len(workers), "names": _names(workers)}
        yield Notice("bad", title, trouble)


def lost_notices(workers: Sequence[Any], alive: Sequence[Any]) -> Iterator[Notice]:
    """Workers that disappeared, and no worker of their kind and group was started later."""
    lost = [
        lost
        for lost in workers
        if lost.is_lost
        and not any(
            (each.kind, each.group) == (lost.kind, lost.group) and each.started_at >= lost.last_seen_at
            for each in alive
        )
    ]
    if lost:
        title = ngettext("A worker disappeared: %(names)s", "%(count)d workers disappeared: %(names)s", len(lost)) % {
            "count": len(lost),
            "names": _names(lost),
        }
        text = gettext(
            "Last seen %(age)s ago. It did not shut down cleanly: it was killed, hangs, or cannot reach the database."
        )
        seen = max(worker.last_seen_at for worker in lost)
        yield Notice("warn", title, text % {"age": texts.age(seen)})


def _names(workers: Sequence[Any]) -> str:
    names = [f"{worker.get_kind_display()} {worker.host}:{worker.pid}" for worker in workers]
    return ", ".join([*names[:MOST_NAMES], *(["…"] if len(names) > MOST_NAMES else [])])
