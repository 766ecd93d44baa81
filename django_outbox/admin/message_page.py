"""The page of one message: its status, history, content, and the messages it waits for or blocks."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from django_outbox.admin import actions, audit
from django_outbox.admin.tables import Table
from django_outbox.admin.timeline import timeline
from django_outbox.conf import settings
from django_outbox.models import MessageFailure
from django_outbox.models.validation import as_text
from django_outbox.observability import text as texts
from django_outbox.observability.masking import MASK
from django_outbox.operations.selection import Selection
from django_outbox.state.dead_letters import has_bytes

FAILURES = 50
AUDIT_ENTRIES = 20
BLOCKED = 1000
SHOWN_BYTES = 4096

# In this order, if the table has them.
FACTS = (
    *("id", "group", "source", "event_id", "event_type", "event_version", "topic", "message_key"),
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
    may_edit = is_dead and actions.may_edit(table, request) and table.has_payload(message)
    shows_bytes = table.may(request, "see_payload") or not settings.redact  # bytes have no names to redact by
    hides_bytes = not shows_bytes and (not table.has_payload(message) or has_bytes(message.payload))
    payload = redaction.mask(message.payload)
    if hides_bytes and payload is not None:
        payload = dict.fromkeys(payload, MASK)
    # The headers of a copy of a dead letter contain its error.
    in_texts = redaction.in_texts(*sources)
    headers = message.headers
    if hides_bytes:
        headers = {name: _first_line(text) for name, text in headers.items()}
    headers = redaction.mask(headers, in_texts)

    def masked(error: str) -> str:
        return in_texts(_first_line(error) if hides_bytes else error)

    return {
        "title": gettext("Message %(id)d") % {"id": message.id},
        "subtitle": message.event_type,
        "table": table,
        "message": message,
        "has_payload": table.has_payload(message),
        "headline": _headline(table, message),
        "error": masked(message.last_error),
        "payload": texts.pretty(payload),
        "headers": texts.pretty(headers),
        "is_redacted": (payload, headers) != (message.payload, message.headers),
        "received": _received(message) if shows_bytes else [],
        "hides_bytes": hides_bytes and (payload is not None or bool(_received(message))),
        "timeline": timeline(table, message, failures[:FAILURES], entries, redaction, masked),
        "has_more_failures": len(failures) > FAILURES,
        "retry_url": table.action_url("retry", selection) if is_dead and table.may(request, "retry") else None,
        "edit_url": table.action_url("edit", selection) if may_edit else None,
        "delete_url": table.action_url("delete", selection) if is_dead and table.may(request, "delete") else None,
        "facts": [name for name in FACTS if hasattr(message, name)],
        **_same_key(table, message),
    }


def _first_line(error: str) -> str:
    """The part written by this package; further lines may quote unreadable bytes."""
    return error.partition("\n")[0]


def _received(message: Any) -> list[tuple[str, str]]:
    """Key and value of an unreadable record, as text and in hexadecimal, up to 4096 bytes each."""
    titles = {"raw_key": gettext("Key as received"), "raw_value": gettext("Value as received")}
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
        return gettext("In Kafka for %(age)s, not yet handled.") % {"age": texts.age(message.published_at)}
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
