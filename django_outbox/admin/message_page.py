"""The page of one message: its status, history, content, and the messages it waits for or blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from django_outbox.admin import actions, audit
from django_outbox.admin.audit import AuditEntry
from django_outbox.admin.bulk import BULK
from django_outbox.admin.tables import Table
from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.events.payloads import has_bytes, is_tombstone
from django_outbox.models import MessageFailure, Pause, TaskRun
from django_outbox.models.validation import as_text
from django_outbox.observability import text as texts
from django_outbox.observability.masking import MASK, Redaction
from django_outbox.operations.selection import Selection
from django_outbox.state.dead_letters import EXCEPTION_PREFIX, has_base64
from django_outbox.state.pauses import ActivePause, active

FAILURES = 50
AUDIT_ENTRIES = 20
BLOCKED = 1000
SHOWN_BYTES = 4096
KINDS = ("written", "published", "failed", "operator", "consumed")

# In this order, if the table has them.
FACTS = (
    *("id", "group", "source", "event_id", "event_type", "event_version", "topic", "message_key", "content_type"),
    *("partition", "offset", "publish_count", "delivery_count", "retry_count", "max_retry"),
    *("event_time", "created_at", "published_at", "consumed_at", "next_retry_at", "updated_at", "fingerprint"),
)


def message_context(table: Table, message: Any, request: HttpRequest) -> dict[str, Any]:
    """The context of the page."""
    redaction = table.redaction(request)
    of_message = MessageFailure.objects.using(table.database).filter(**{table.failures_by: message.id})
    failures = list(of_message.order_by("-id")[: FAILURES + 1])
    entries = audit.entries([table.model], object_id=message.id, limit=AUDIT_ENTRIES)
    # An error may repeat values of a payload that was replaced later.
    sources = [message.payload, message.headers, *(entry.details.get("payload_before") for entry in entries)]
    selection = Selection({"ids": str(message.id)})
    is_dead = message.status == "dead"
    may_edit = is_dead and actions.may_edit(table, request) and table.is_editable(message)
    shows_bytes = table.may(request, "see_payload") or not settings.redact  # bytes have no names to redact by
    hides_bytes = not shows_bytes and (
        has_bytes(message) or not table.has_payload(message) or has_base64(message.payload)
    )
    payload = redaction.mask(message.payload)
    if hides_bytes and payload is not None:
        payload = dict.fromkeys(payload, MASK)
    # The headers of a copy of a dead letter contain its error.
    in_texts = redaction.in_texts(*sources)
    headers = message.headers
    if hides_bytes:
        errors = EXCEPTION_PREFIX if has_bytes(message) else None
        headers = {
            name: MASK if errors and name.startswith(errors) else _first_line(text) for name, text in headers.items()
        }
    headers = redaction.mask(headers, in_texts)

    returned, hides_returned = _returned(table, message, redaction)

    def masked(error: str) -> str:
        if hides_bytes and has_bytes(message) and error:
            return MASK  # a handler's error may quote the bytes
        return in_texts(_first_line(error) if hides_bytes else error)

    return {
        "title": gettext("Message %(id)d") % {"id": message.id},
        "subtitle": message.event_type,
        "table": table,
        "message": message,
        "has_payload": table.is_editable(message),
        "is_tombstone": is_tombstone(message),
        "headline": _headline(table, message),
        "pause": _pause_of(table, message),
        "error": masked(message.last_error),
        "payload": texts.pretty(payload),
        "headers": texts.pretty(headers),
        "returned": returned,
        "is_redacted": (payload, headers) != (message.payload, message.headers) or hides_returned,
        "received": _received(message) if shows_bytes else [],
        "hides_bytes": hides_bytes and (payload is not None or bool(_received(message))),
        "timeline": timeline(table, message, failures[:FAILURES], entries, redaction, masked),
        "has_more_failures": len(failures) > FAILURES,
        "urls": {
            **{
                action: table.action_url(action, selection)
                for action, bulk in BULK.items()
                if message.status == bulk.status and table.may(request, bulk.permission)
                if action != "send_now" or message.next_retry_at > timezone.now()
            },
            **({"edit": table.action_url("edit", selection)} if may_edit else {}),
        },
        "facts": [
            name for name in FACTS if hasattr(message, name) and (name != "content_type" or message.content_type)
        ],
        **_same_key(table, message),
    }


def _returned(table: Table, message: Any, redaction: Redaction) -> tuple[str, bool]:
    """What a task returned, as JSON, and whether secrets are hidden in it; empty if the message is not a task that succeeded."""
    if not message.event_type.startswith(TASK_PREFIX) or message.status != "consumed":
        return "", False
    run = TaskRun.objects.using(table.database).filter(message_id=message.id).first()
    if run is None:
        return "", False
    masked = redaction.mask(run.return_value)
    return texts.pretty(masked), masked != run.return_value


def _first_line(error: str) -> str:
    """The part written by this package; further lines may quote unreadable bytes."""
    return error.partition("\n")[0]


def _received(message: Any) -> list[tuple[str, str]]:
    """A payload of bytes, or key and value of an unreadable record: as text and in hexadecimal, up to 4096 bytes each."""
    titles = {"raw_key": gettext("Key as received"), "raw_value": gettext("Value as received")}
    if has_bytes(message):
        size = {"count": len(message.raw_value), "content_type": message.content_type}
        titles = {"raw_value": gettext("Payload: %(count)d bytes of %(content_type)s") % size}
    found = []
    for name, title in titles.items():
        data = getattr(message, name, None)
        if data is not None:
            shown = bytes(data[:SHOWN_BYTES])
            rest = gettext("… %(count)d bytes in total") % {"count": len(data)} if len(data) > SHOWN_BYTES else ""
            found.append((title, "\n\n".join(part for part in (as_text(shown), shown.hex(" "), rest) if part)))
    return found


def _headline(table: Table, message: Any) -> str:
    """The status of the message, in a sentence."""
    if message.status == "dead":
        return gettext("Dead for %(age)s. It stays dead until someone retries it.") % {
            "age": texts.age(message.updated_at)
        }
    if message.status == "consumed":
        if table.is_inbox:
            text = gettext("Handled %(age)s ago. Its content has been removed.")
        else:
            text = gettext("Handled %(age)s ago.")
        return text % {"age": texts.age(message.consumed_at)}
    if message.status == "published":
        if message.partition is None:
            text = gettext("Left to Debezium %(age)s ago, not yet handled.")
        else:
            text = gettext("In Kafka for %(age)s, not yet handled.")
        return text % {"age": texts.age(message.published_at)}
    if message.retry_count:
        return ngettext(
            "Failed %(count)d time, waiting for the next retry.",
            "Failed %(count)d times, waiting for the next retry.",
            message.retry_count,
        ) % {"count": message.retry_count}
    if message.next_retry_at > timezone.now():
        due = gettext("Will be handled %(when)s.") if table.is_inbox else gettext("Will be sent %(when)s.")
        return due % {"when": texts.until(message.next_retry_at)}
    waits = (
        gettext("Has waited for its handler for %(age)s.")
        if table.is_inbox
        else gettext("Has waited to be sent for %(age)s.")
    )
    return waits % {"age": texts.age(message.next_retry_at)}


def _pause_of(table: Table, message: Any) -> ActivePause | None:
    """The pause whose end the message waits for, itself or behind an earlier one of its key."""
    if message.status != "pending":
        return None
    group = message.group if table.is_inbox else settings.consumer_group
    pauses = active(Pause.objects.using(table.database).filter(group=group))
    return next((pause for pause in pauses if message.next_retry_at in pause.due_times(pause.now)), None)


def _same_key(table: Table, message: Any) -> dict[str, Any]:
    """Messages with the same key that hold this one, wait for it, or are dead. Uses the index of unfinished messages."""
    nothing = {"blocker": None, "blocked": 0, "dead_of_key": None}
    if not message.message_key or settings.ordering != "key":
        return nothing
    of_key = table.of_key(message)
    holding = ["pending", "dead"] if settings.on_dead == "hold" else ["pending"]
    waits = message.status in ("pending", "published")
    blocks = message.status in holding
    earlier = of_key.filter(status__in=holding, id__lt=message.id).order_by("status", "id")
    later = of_key.filter(status="pending", id__gt=message.id)
    dead = of_key.filter(status="dead").exclude(id=message.id).order_by("status", "-id")
    blocked = later.values("id")[: BLOCKED + 1].count() if blocks else 0
    return {
        "blocker": earlier.defer("payload", "headers").first() if waits else None,
        "blocked": f"{BLOCKED}+" if blocked > BLOCKED else blocked,
        "dead_of_key": dead.defer("payload", "headers").first(),
    }


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
    if failure.stage == failure.Stage.CANCEL:
        return gettext("Cancelled")
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
