"""Notices on the overview: what is wrong, since when, why, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from django_outbox.admin.error_groups import DeadLetters
from django_outbox.admin.history import FailingType
from django_outbox.admin.tables import OUTBOX, Table
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


def dead_notice(
    table: Table, count: int, letters: DeadLetters, retry_url: str | None, now: datetime
) -> Iterator[Notice]:
    """Messages of a table are dead."""
    if not count:
        return
    title = (
        ngettext("%(count)s message of the inbox is dead", "%(count)s messages of the inbox are dead", count)
        if table.is_inbox
        else ngettext("%(count)s message is dead", "%(count)s messages are dead", count)
    ) % {"count": texts.number(count)}
    text = ""
    if letters.groups and count == 1:
        text = gettext("It died %(age)s ago: %(error)s") % {
            "age": texts.age(letters.last),
            "error": letters.groups[0].title or letters.groups[0].error,
        }
    elif letters.groups:
        largest = letters.groups[0]
        text = gettext("The first died %(first)s ago, the last %(last)s ago. Most often: %(error)s (%(count)s).") % {
            "first": texts.age(letters.first),
            "last": texts.age(letters.last),
            "error": largest.title or largest.error,
            "count": texts.number(largest.count),
        }
    links = [Link(gettext("Show messages"), table.dead_list_url)]
    if retry_url:
        links.append(Link(gettext("Retry all…"), retry_url))
    is_recent = letters.last is None or now - letters.last < RECENT
    yield Notice("bad" if is_recent else "warn", title, text, links)


def failing_notice(table: Table, types: Sequence[FailingType], oldest: Any, error: str) -> Iterator[Notice]:
    """Messages of a table keep failing and will be retried.

    Args:
        table: the table.
        types: its failing event types.
        oldest: the oldest message that keeps failing.
        error: its last error, masked for the reader.
    """
    count = sum(each.stuck for each in types)
    if not count or oldest is None:
        return
    text = gettext(
        "Message %(id)d (%(type)s), written %(age)s ago, has failed %(failures)d of %(allowed)d times: %(error)s"
    ) % {
        "id": oldest.id,
        "type": oldest.event_type,
        "age": texts.age(oldest.created_at),
        "failures": oldest.retry_count,
        "allowed": oldest.max_retry,
        "error": error,
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
