"""Notices on the overview: what is wrong, since when, why, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.http import HttpRequest
from django.utils.translation import gettext, ngettext

from django_outbox.admin.history import FailingType
from django_outbox.admin.panels import Panel
from django_outbox.admin.tables import OUTBOX
from django_outbox.observability import text as texts
from django_outbox.operations.lag import NO_ANSWER, GroupLag
from django_outbox.operations.selection import Selection
from django_outbox.operations.topics import UnreadTopic

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
    """Messages of a table keep failing and will be retried; ``types``: its failing event types."""
    table = panel.table
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
