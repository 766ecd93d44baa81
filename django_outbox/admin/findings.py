"""What an operator has to know first: what is stuck, since when, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from django_outbox import texts
from django_outbox.admin.figures import Unfinished
from django_outbox.admin.groups import Group
from django_outbox.admin.tables import Table
from django_outbox.lag import Answer
from django_outbox.models import Worker

PATIENCE = timedelta(seconds=60)
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


def worker_findings(workers: Sequence[Any], overdue: Any, awaited: Any, now: datetime) -> list[Finding]:
    """Whether both kinds of workers are there and do their work.

    Args:
        workers: all that are known, with ``is_lost``.
        overdue: the pending message that is due for longest, if any.
        awaited: the published message that waits for its handler for longest, if any.
        now: the time.
    """
    found = []
    for kind, message, since, waits in (
        (
            Worker.Kind.RELAY,
            overdue,
            overdue and overdue.next_retry_at,
            gettext("Messages have waited to be sent for %(age)s."),
        ),
        (
            Worker.Kind.CONSUMER,
            awaited,
            awaited and awaited.published_at,
            gettext("Messages have waited for their handler for %(age)s."),
        ),
    ):
        alive = [worker for worker in workers if worker.kind == kind and not worker.is_lost]
        late = message is not None and since is not None and now - since > PATIENCE
        text = waits % {"age": texts.age(since)} if late else ""
        if not alive:
            found.append(_nobody(kind, text))
            continue
        troubled = [worker for worker in alive if worker.trouble]
        if late and not troubled:
            found.append(_behind(kind, text))
        found += [_trouble(worker, text) for worker in troubled]
    return found + [_lost(worker) for worker in workers if worker.is_lost]


def _nobody(kind: str, text: str) -> Finding:
    if kind == Worker.Kind.RELAY:
        title = gettext("No relay is running")
        advice = gettext("Nothing is sent to Kafka. Start one: manage.py outbox_relay")
    else:
        title = gettext("No consumer is running")
        advice = gettext("No handler is called here. Start one: manage.py outbox_consume")
    return Finding("bad", title, f"{text} {advice}".strip())


def _behind(kind: str, text: str) -> Finding:
    if kind == Worker.Kind.RELAY:
        return Finding("bad", gettext("The relay is behind"), text)
    return Finding("bad", gettext("The consumer is behind"), text)


def _trouble(worker: Any, text: str) -> Finding:
    title = gettext("A %(kind)s is in trouble: %(worker)s") % {
        "kind": worker.get_kind_display(),
        "worker": f"{worker.host}:{worker.pid}",
    }
    return Finding("bad", title, f"{worker.trouble} {text}".strip())


def _lost(worker: Any) -> Finding:
    title = gettext("A %(kind)s is lost: %(worker)s") % {
        "kind": worker.get_kind_display(),
        "worker": f"{worker.host}:{worker.pid}",
    }
    text = gettext("Last seen %(age)s ago, and it did not say that it ends: it was killed, or hangs.")
    return Finding("warn", title, text % {"age": texts.age(worker.last_seen_at)})


def inbox_finding(due_since: datetime | None, list_url: str, now: datetime) -> list[Finding]:
    """That messages of the inbox are due and nobody handles them."""
    if due_since is None or now - due_since <= PATIENCE:
        return []
    text = gettext("Messages have waited for their handler for %(age)s.") % {"age": texts.age(due_since)}
    return [Finding("bad", gettext("The inbox is behind"), text, [Link(gettext("Look at them"), list_url)])]


def dead_finding(
    table: Table, dead: Unfinished, groups: Sequence[Group], retry_url: str | None, now: datetime
) -> list[Finding]:
    """That messages of a table are dead, and of what."""
    if not dead.count:
        return []
    title = (
        ngettext("%(count)d message of the inbox is dead", "%(count)d messages of the inbox are dead", dead.count)
        if table.is_inbox
        else ngettext("%(count)d message is dead", "%(count)d messages are dead", dead.count)
    ) % {"count": dead.count}
    last = max((group.last for group in groups), default=now)
    text = ""
    if groups:
        text = gettext("The last died %(age)s ago. Most often: %(error)s, %(count)d times.") % {
            "age": texts.age(last),
            "error": groups[0].title or groups[0].error,
            "count": groups[0].count,
        }
    links = [Link(gettext("Look at them"), table.dead_list_url)]
    if retry_url:
        links.append(Link(gettext("Retry all…"), retry_url))
    return [Finding("bad" if now - last < RECENT else "warn", title, text, links)]


def failing_finding(oldest: Any, error: str, url: str) -> list[Finding]:
    """That the oldest pending message is one that fails."""
    if oldest is None or not oldest.retry_count:
        return []
    title = gettext("Message %(id)d (%(type)s) keeps failing") % {"id": oldest.id, "type": oldest.event_type}
    text = gettext("Written %(age)s ago, %(failures)d failures of %(allowed)d: %(error)s") % {
        "age": texts.age(oldest.created_at),
        "failures": oldest.retry_count,
        "allowed": oldest.max_retry,
        "error": error,
    }
    return [Finding("warn", title, text, [Link(gettext("Look at it"), url)])]


def broker_findings(answer: Answer | None) -> list[Finding]:
    """That the broker does not answer this web server."""
    if answer is None:
        return [Finding("warn", gettext("The broker does not answer"), gettext("It was asked for two seconds."))]
    if answer.trouble:
        return [Finding("warn", gettext("The broker does not answer"), answer.trouble)]
    return []
