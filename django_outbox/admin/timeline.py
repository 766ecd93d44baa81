"""The history of one message, for its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.utils.translation import gettext

from django_outbox.admin.audit import AuditEntry
from django_outbox.admin.tables import Table
from django_outbox.models import MessageFailure
from django_outbox.observability import text as texts
from django_outbox.observability.masking import Redaction

KINDS = ("written", "published", "failed", "operator", "consumed")


class TimelineEntry(NamedTuple):
    """Something that happened to a message."""

    time: datetime
    kind: str
    text: str
    detail: str = ""

    @property
    def first_line(self) -> str:
        return self.detail.split("\n", 1)[0]

    @property
    def rest(self) -> str:
        """The detail below its first line."""
        return self.detail.partition("\n")[2].strip("\n")


def timeline(
    table: Table,
    message: Any,
    failures: Sequence[MessageFailure],
    audit_entries: Sequence[AuditEntry],
    redaction: Redaction,
    masked: Callable[[str], str],
) -> list[TimelineEntry]:
    """All that happened to a message, oldest first; ``masked`` masks an error."""
    found = [TimelineEntry(message.created_at, "written", _origin(table, message))]
    publications: dict[int, TimelineEntry] = {}
    for failure in failures:
        if failure.published_at is not None:
            publications[failure.attempt] = _publication(message.topic, failure.attempt, failure)
        text = _failure(table, message, failure)
        found.append(TimelineEntry(failure.occurred_at, "failed", text, masked(failure.error)))
    if getattr(message, "published_at", None) is not None:
        publications[message.publish_count] = _publication(message.topic, message.publish_count, message)
    found += publications.values()
    for entry in audit_entries:
        detail = entry.reason
        if "payload_before" in entry.details:
            payload = texts.pretty(redaction.mask(entry.details["payload_before"]))
            detail += "\n" + gettext("Payload before: %(payload)s") % {"payload": payload}
        time = entry.time if django_settings.USE_TZ else entry.time.replace(tzinfo=None)
        found.append(TimelineEntry(time, "operator", f"{entry.user} {entry.text}", detail))
    if message.consumed_at is not None:
        found.append(TimelineEntry(message.consumed_at, "consumed", gettext("Handled")))
    return sorted(found, key=lambda entry: (entry.time, KINDS.index(entry.kind)))


def _failure(table: Table, message: Any, failure: MessageFailure) -> str:
    if failure.stage == failure.Stage.SEND:
        what = gettext("Could not be sent")
    else:
        what = gettext("Its handler failed") if table.has_payload(message) else gettext("Could not be read")
    attempt = (
        gettext("attempt %(attempt)d, worker %(worker)s")
        if table.is_inbox
        else gettext("publication %(attempt)d, worker %(worker)s")
    ) % {"attempt": failure.attempt, "worker": failure.worker}
    return ", ".join([what, attempt, *([gettext("now dead")] if failure.final else [])])


def _origin(table: Table, message: Any) -> str:
    if not table.is_inbox:
        return gettext("Written to the outbox")
    return gettext("Received by %(group)s from %(topic)s, partition %(partition)d, offset %(offset)d") % {
        "group": message.group,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
    }


def _publication(topic: str, attempt: int, place: Any) -> TimelineEntry:
    """A publication; ``place`` has its time, partition and offset."""
    text = (
        gettext("Publication %(attempt)d to %(topic)s")
        if place.partition is None
        else gettext("Publication %(attempt)d to %(topic)s, partition %(partition)d, offset %(offset)s")
    ) % {
        "attempt": attempt,
        "topic": topic,
        "partition": place.partition,
        "offset": "?" if place.offset is None else place.offset,
    }
    return TimelineEntry(place.published_at, "published", text)
