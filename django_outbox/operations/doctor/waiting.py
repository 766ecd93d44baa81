"""Messages that wait although workers run: why, and what to do. The overview shows the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.utils.translation import gettext

from django_outbox.models import Worker
from django_outbox.observability import text as texts
from django_outbox.operations.unread_topics import UnreadTopic


class Diagnosis(NamedTuple):
    """What is wrong.

    Attributes:
        title: in a few words; empty if it says why another finding is there.
        why: the cause, as far as it is known.
        remedy: what to do.
    """

    title: str
    why: str
    remedy: str


def unread(topic: UnreadTopic) -> Diagnosis:
    """Why no consumer reads a topic."""
    if topic.seconds is None:
        waited = gettext("Its messages are for handlers here.")
    else:
        age = texts.duration(topic.seconds).replace("\xa0", " ")
        waited = gettext("Messages have waited for their handler for %(age)s.") % {"age": age}
    if topic.is_known:
        why = gettext("The running consumers were started with other topics, or before this one was in the settings.")
        remedy = gettext("Restart the consumers, without --topics or with this topic as well.")
    else:
        why = gettext(
            "Consumers read the topics in TOPIC, ROUTES and INBOX, and those that handlers name. This one is not among them."
        )
        remedy = gettext(
            'Add it to OUTBOX["ROUTES"], or name it in @handler(..., topic="%(topic)s"), and restart the consumers. '
            "If the topic is a mistake, correct it where the messages are published."
        ) % {"topic": topic.topic}
    title = gettext("No consumer reads the topic %(topic)s") % {"topic": topic.topic}
    return Diagnosis(title, f"{waited} {why}", remedy)


def behind(staff: Sequence[Any]) -> Diagnosis:
    """Why running workers of one kind leave messages waiting.

    Args:
        staff: the workers, with ``is_silent``, none of them in trouble.
    """
    kind = staff[0].kind
    names = ", ".join(f"{worker.host}:{worker.pid}" for worker in staff[:3]) + ("…" if len(staff) > 3 else "")
    rate = sum(worker.rate for worker in staff)
    if all(worker.is_silent for worker in staff):
        why = gettext("No heartbeat from %(names)s: the process hangs, was killed, or cannot reach the database.")
        remedy = gettext("Check these processes and restart them.")
    elif rate:
        why = gettext("Running: %(names)s, with %(rate)s messages per second. That is not enough to catch up.")
        remedy = (
            gettext("If this goes on, start another relay, or check how long the broker takes to acknowledge a batch.")
            if kind == Worker.Kind.RELAY
            else gettext(
                "If this goes on, start more consumers, up to one for each partition, or make handlers faster."
            )
        )
    elif kind == Worker.Kind.RELAY:
        why = gettext("Running: %(names)s, but nothing was sent at the last heartbeat.")
        remedy = gettext(
            "Check the log of the relay. It skips rows that another transaction has locked: look for transactions that "
            "stay open (manage.py outbox_doctor)."
        )
    else:
        why = gettext("Running: %(names)s, but nothing was handled at the last heartbeat.")
        remedy = gettext(
            "Check the log of the consumer: a handler may hang, or the consumer may be waiting for its partitions. "
            'Restart it. OUTBOX["HANDLER_TIMEOUT"] ends handlers that take too long.'
        )
    return Diagnosis("", why % {"names": names, "rate": f"{rate:,.1f}"}, remedy)
