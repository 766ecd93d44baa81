"""What an operator has to know first: what is stuck, since when, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from django_outbox.admin.figures import Unfinished
from django_outbox.admin.groups import DeadLetters
from django_outbox.admin.history import FailingType
from django_outbox.admin.tables import OUTBOX, Table
from django_outbox.observability import text as texts
from django_outbox.operations.doctor import waiting
from django_outbox.operations.lag import Answer
from django_outbox.operations.selection import Selection
from django_outbox.operations.unread_topics import UnreadTopic

RECENT = timedelta(hours=1)


class Link(NamedTuple):
    """Something to click."""

    text: str
    url: str


class Finding(NamedTuple):
    """One thing to know. ``level`` is ``bad``, ``warn`` or ``good``."""

    level: str
    title: str
    text: str = ""
    links: Sequence[Link] = ()


def dead_finding(
    table: Table, dead: Unfinished, letters: DeadLetters, retry_url: str | None, now: datetime
) -> list[Finding]:
    """That messages of a table are dead, since when, and of what."""
    if not dead.count:
        return []
    title = (
        ngettext("%(count)s message of the inbox is dead", "%(count)s messages of the inbox are dead", dead.count)
        if table.is_inbox
        else ngettext("%(count)s message is dead", "%(count)s messages are dead", dead.count)
    ) % {"count": texts.number(dead.count)}
    text = ""
    if letters.groups and dead.count == 1:
        text = gettext("It died %(age)s ago: %(error)s") % {
            "age": texts.age(letters.last),
            "error": letters.groups[0].title or letters.groups[0].error,
        }
    elif letters.groups:
        often = letters.groups[0]
        text = gettext("The first died %(first)s ago, the last %(last)s ago. Most often: %(error)s (%(count)s).") % {
            "first": texts.age(letters.first),
            "last": texts.age(letters.last),
            "error": often.title or often.error,
            "count": texts.number(often.count),
        }
    links = [Link(gettext("Look at them"), table.dead_list_url)]
    if retry_url:
        links.append(Link(gettext("Retry all…"), retry_url))
    is_recent = letters.last is None or now - letters.last < RECENT
    return [Finding("bad" if is_recent else "warn", title, text, links)]


def failing_finding(table: Table, types: Sequence[FailingType], oldest: Any, error: str) -> list[Finding]:
    """That messages of a table fail again and again, and will be retried.

    Args:
        table: whose messages.
        types: its types that fail.
        oldest: the oldest of the messages that keep failing.
        error: why it failed the last time, as its reader may see it.
    """
    count = sum(each.stuck for each in types)
    if not count or oldest is None:
        return []
    text = gettext(
        "%(id)d (%(type)s), written %(age)s ago, has failed %(failures)d times of %(allowed)d: %(error)s"
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
        link = Link(gettext("Look at it"), table.url_of(oldest))
    else:
        link = Link(gettext("Look at them"), f"{table.list_url}?status=pending&failures=3")
    return [Finding("warn", title, text, [link])]


def unread_findings(topics: Iterable[UnreadTopic]) -> list[Finding]:
    """That messages wait in topics that no consumer reads."""
    found = []
    for topic in topics:
        title, why, remedy = waiting.unread(topic)
        in_topic = Selection({"status": "published", "topic": topic.topic})
        link = Link(gettext("Look at them"), f"{OUTBOX.list_url}?{in_topic.query}")
        found.append(Finding("bad", title, f"{why} {remedy}", [link]))
    return found


def broker_findings(answers: Iterable[Answer | None]) -> list[Finding]:
    """That the broker does not answer this web server."""
    troubles = ["" if answer is None else answer.trouble for answer in answers if answer is None or answer.trouble]
    if not troubles:
        return []
    text = next(filter(None, troubles), gettext("It was asked for two seconds."))
    return [Finding("warn", gettext("The broker does not answer"), text)]
