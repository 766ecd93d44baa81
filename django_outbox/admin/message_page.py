"""One message: where it stands, what happened to it, what it holds, what waits for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from django_outbox.admin import actions, audit
from django_outbox.admin.redaction import MASK, Redaction, redaction_for
from django_outbox.admin.tables import Table
from django_outbox.conf import settings
from django_outbox.models import MessageFailure
from django_outbox.models.validation import as_text
from django_outbox.observability import text as texts
from django_outbox.operations.selection import Selection
from django_outbox.state.dead_letters import has_bytes

FAILURES = 50
DEEDS = 20
BLOCKED = 1000
SHOWN_BYTES = 4096


# In this order, as far as the table has them.
FACTS = (
    "id",
    "group",
    "source",
    "event_id",
    "event_type",
    "event_version",
    "topic",
    "message_key",
    "partition",
    "offset",
    "publish_count",
    "delivery_count",
    "retry_count",
    "max_retry",
    "event_time",
    "created_at",
    "published_at",
    "consumed_at",
    "next_retry_at",
    "updated_at",
    "fingerprint",
)

KINDS = ("written", "published", "failed", "operator", "consumed")


class Moment(NamedTuple):
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
        """What is below the first line."""
        return self.detail.partition("\n")[2].strip("\n")


def message_context(table: Table, message: Any, request: HttpRequest) -> dict[str, Any]:
    """All that the page of a message shows."""
    redaction = redaction_for(request.user, table.name)
    failures = list(table.failures(message.id).order_by("-id")[: FAILURES + 1])
    deeds = audit.deeds([table.model], object_id=message.id, limit=DEEDS)
    # An error may repeat what an operator has meanwhile replaced.
    sources = [message.payload, message.headers, *(deed.details.get("payload_before") for deed in deeds)]
    selection = Selection({"ids": str(message.id)})
    is_dead = message.status == "dead"
    may_edit = is_dead and actions.may_edit(table, request) and table.has_payload(message)
    shows_bytes = table.may(request, "see_payload") or not settings.redact  # in bytes no name says what is secret
    hides_bytes = not shows_bytes and (not table.has_payload(message) or has_bytes(message.payload))
    payload = redaction.mask(message.payload)
    if hides_bytes and payload is not None:
        payload = dict.fromkeys(payload, MASK)
    # The headers of a copy tell the error.
    in_texts = redaction.in_texts(*sources)
    headers = redaction.mask(_first_lines(message.headers) if hides_bytes else message.headers, in_texts)

    def shown(error: str) -> str:
        return in_texts(_first_line(error) if hides_bytes else error)

    return {
        "title": gettext("Message %(id)d") % {"id": message.id},
        "subtitle": message.event_type,
        "table": table,
        "message": message,
        "has_payload": table.has_payload(message),
        "headline": _headline(table, message),
        "error": shown(message.last_error),
        "payload": texts.pretty(payload),
        "headers": texts.pretty(headers),
        "is_redacted": (payload, headers) != (message.payload, message.headers),
        "received": _received(message) if shows_bytes else [],
        "hides_bytes": hides_bytes and (payload is not None or bool(_received(message))),
        "timeline": _timeline(table, message, failures[:FAILURES], deeds, redaction, shown),
        "has_more_failures": len(failures) > FAILURES,
        "retry_url": table.action_url("retry", selection) if is_dead and table.may(request, "retry") else None,
        "edit_url": table.action_url("edit", selection) if may_edit else None,
        "delete_url": table.action_url("delete", selection) if is_dead and table.may(request, "delete") else None,
        "facts": [name for name in FACTS if hasattr(message, name)],
        **_neighbours(table, message),
    }


def _first_line(error: str) -> str:
    """What an error says in the words of this package; what is below may quote bytes that could not be read."""
    return error.partition("\n")[0]


def _first_lines(headers: dict[str, str]) -> dict[str, str]:
    return {name: _first_line(text) for name, text in headers.items()}


def _received(message: Any) -> list[tuple[str, str]]:
    """Key and value of a record that could not be read, as text and as hexadecimal digits, a page of each."""
    titles = {"raw_key": gettext("Key as received"), "raw_value": gettext("Value as received")}
    found = []
    for name, title in titles.items():
        data = getattr(message, name, None)
        if data is not None:
            shown = bytes(data[:SHOWN_BYTES])
            rest = gettext("… %(count)d bytes in all") % {"count": len(data)} if len(data) > SHOWN_BYTES else ""
            found.append((title, "\n\n".join(part for part in (as_text(shown), shown.hex(" "), rest) if part)))
    return found


def _headline(table: Table, message: Any) -> str:
    """Where the message stands, in a sentence."""
    age = texts.age(message.updated_at)
    if message.status == "dead":
        return gettext("Given up %(age)s ago; nothing happens to it until somebody retries it.") % {"age": age}
    if message.status == "consumed":
        if table.is_inbox:
            age = texts.age(message.consumed_at)
            return gettext("Handled %(age)s ago. Its content is no longer kept.") % {"age": age}
        return gettext("Handled %(age)s ago.") % {"age": texts.age(message.consumed_at)}
    if message.status == "published":
        return gettext("In Kafka for %(age)s, not yet handled.") % {"age": texts.age(message.published_at)}
    if message.retry_count:
        return ngettext(
            "Failed %(count)d time, waits for its next try.",
            "Failed %(count)d times, waits for its next try.",
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


def _timeline(
    table: Table,
    message: Any,
    failures: list[MessageFailure],
    deeds: list[audit.Deed],
    redaction: Redaction,
    shown: Callable[[str], str],
) -> list[Moment]:
    moments = [Moment(message.created_at, "written", _beginning(table, message))]
    who_text = (
        gettext("try %(attempt)d, worker %(worker)s")
        if table.is_inbox
        else gettext("publication %(attempt)d, worker %(worker)s")
    )
    published: dict[int, tuple[datetime, int | None, int | None]] = {}
    for failure in failures:
        if failure.published_at is not None:
            published[failure.attempt] = (failure.published_at, failure.partition, failure.offset)
        if failure.stage == failure.Stage.SEND:
            what = gettext("Could not be sent")
        else:
            what = gettext("Its handler failed") if table.has_payload(message) else gettext("Could not be read")
        who = who_text % {"attempt": failure.attempt, "worker": failure.worker}
        end = gettext("given up") if failure.final else ""
        title = ", ".join(part for part in (what, who, end) if part)
        moments.append(Moment(failure.occurred_at, "failed", title, shown(failure.error)))
    if getattr(message, "published_at", None) is not None:
        published[message.publish_count] = (message.published_at, message.partition, message.offset)
    for attempt, (time, partition, offset) in published.items():
        moments.append(Moment(time, "published", _publication(message.topic, attempt, partition, offset)))
    for deed in deeds:
        detail = "\n".join(part for part in (deed.reason, _payload_before(deed, redaction)) if part)
        moments.append(Moment(_comparable(deed.time), "operator", f"{deed.user} {deed.text}", detail))
    if message.consumed_at is not None:
        moments.append(Moment(message.consumed_at, "consumed", gettext("Handled")))
    return sorted(moments, key=lambda moment: (moment.time, KINDS.index(moment.kind)))


def _beginning(table: Table, message: Any) -> str:
    if not table.is_inbox:
        return gettext("Written to the outbox")
    return gettext("Received by %(group)s from %(topic)s, partition %(partition)d, offset %(offset)d") % {
        "group": message.group,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
    }


def _publication(topic: str, attempt: int, partition: int | None, offset: int | None) -> str:
    if partition is None:
        return gettext("Publication %(attempt)d to %(topic)s") % {"attempt": attempt, "topic": topic}
    return gettext("Publication %(attempt)d to %(topic)s, partition %(partition)d, offset %(offset)s") % {
        "attempt": attempt,
        "topic": topic,
        "partition": partition,
        "offset": "?" if offset is None else offset,
    }


def _payload_before(deed: audit.Deed, redaction: Redaction) -> str:
    if "payload_before" not in deed.details:
        return ""
    before = texts.pretty(redaction.mask(deed.details["payload_before"]))
    return gettext("Payload before: %(payload)s") % {"payload": before}


def _comparable(time: datetime) -> datetime:
    return time if django_settings.USE_TZ else time.replace(tzinfo=None)


def _neighbours(table: Table, message: Any) -> dict[str, Any]:
    """What of its key comes before it, waits behind it, or is dead. All by the index on what is unfinished."""
    nothing = {"blocker": None, "blocked": 0, "dead_of_key": None}
    if not message.message_key or settings.ordering != "key":
        return nothing
    of_key = table.of_key(message)
    holding = ["pending", "dead"] if settings.on_dead == "hold" else ["pending"]
    waits = message.status in ("pending", "published")
    blocks = message.status in holding
    earlier = of_key.filter(status__in=holding, id__lt=message.id).order_by("status", "id")
    behind = of_key.filter(status="pending", id__gt=message.id)
    dead = of_key.filter(status="dead").exclude(id=message.id).order_by("status", "-id")
    blocked = behind.values("id")[: BLOCKED + 1].count() if blocks else 0
    return {
        "blocker": earlier.defer("payload", "headers").first() if waits else None,
        "blocked": f"{BLOCKED}+" if blocked > BLOCKED else blocked,
        "dead_of_key": dead.defer("payload", "headers").first(),
    }
