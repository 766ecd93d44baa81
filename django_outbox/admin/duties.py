"""What workers are needed for in this project: the relay, and a consumer of each group that has handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.utils.translation import gettext

from django_outbox.admin import figures
from django_outbox.admin.panels import Panel
from django_outbox.admin.staff import Duty, Wait
from django_outbox.admin.tables import INBOX, OUTBOX
from django_outbox.conf import settings
from django_outbox.handlers.registry import Handler
from django_outbox.models import Worker
from django_outbox.operations.selection import Selection
from django_outbox.operations.stats import Throughput, inbox_due_since


def duties(
    panels: Sequence[Panel],
    handlers: Mapping[str, Sequence[Handler]],
    done: Throughput,
    waiting_since: datetime | None,
    now: datetime,
) -> list[Duty]:
    """All that has to be done here.

    A service that only publishes needs no consumer, and one that only consumes, which its inbox shows, no relay.

    Args:
        panels: of outbox and inbox.
        handlers: by group, the main one among them.
        done: the throughput.
        waiting_since: since when a message has waited for its handler in a topic that consumers read.
        now: the time.
    """
    outbox, inbox = panels[0], next((panel for panel in panels if panel.table.is_inbox), None)
    publishes = inbox is None or any(state.count for state in outbox.states) or any(done.written)
    due_since = inbox_due_since(handlers, INBOX.database, now) if inbox and inbox.states[0].count else {}
    main = settings.consumer_group
    found = [_relay(now)] if publishes else []
    for group in dict.fromkeys([*handlers, *due_since]):
        each = handlers.get(group)
        if each or group in due_since or (group == main and settings.inbox):
            waits = [_of_inbox(group, due_since.get(group))]
            if group == main:
                waits.insert(0, Wait(waiting_since, _handler_waits(), gettext("The consumer is behind")))
            found.append(_consumer(group, waits, [name for name in handlers if name != group]))
    return found


def _relay(now: datetime) -> Duty:
    overdue = figures.due_longest(OUTBOX, now)
    text = gettext("Messages have waited to be sent for %(age)s.")
    return Duty(
        Worker.Kind.RELAY,
        None,
        gettext("No relay is running"),
        gettext("Nothing is sent to Kafka. Start one: manage.py outbox_relay"),
        [
            Wait(
                overdue and overdue.next_retry_at,
                text,
                gettext("The relay is behind"),
                f"{OUTBOX.list_url}?status=pending",
            )
        ],
    )


def _consumer(group: str, waits: Sequence[Wait], others: Sequence[str]) -> Duty:
    is_main = group == settings.consumer_group
    missing = (
        gettext("No consumer of the group %(group)s is running") % {"group": group}
        if others
        else gettext("No consumer is running")
    )
    advice = gettext("No handler is called here. Start one: %(command)s") % {
        "command": "manage.py outbox_consume" if is_main else f"manage.py outbox_consume --group {group}"
    }
    return Duty(Worker.Kind.CONSUMER, None if is_main else group, missing, advice, waits, others)


def _of_inbox(group: str, since: datetime | None) -> Wait:
    waiting = Selection({"status": "pending", "group": group})
    return Wait(since, _handler_waits(), gettext("The inbox is behind"), f"{INBOX.list_url}?{waiting.query}")


def _handler_waits() -> str:
    return gettext("Messages have waited for their handler for %(age)s.")
