"""The audit log of actions on messages: who did what to which, and why. Stored in Django's admin log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils.translation import gettext, ngettext

REPR_LENGTH = 200

# What Django's pages show of an entry. Ours read the part under "outbox".
_FOR_DJANGO: dict[str, dict[str, Any]] = {
    "retry": {"changed": {"fields": ["Status"]}},
    "send_now": {"changed": {"fields": ["Due at"]}},
    "cancel": {"changed": {"fields": ["Status"]}},
    "edit": {"changed": {"fields": ["Payload", "Status"]}},
    "delete": {"deleted": {}},
    "pause": {"added": {}},
    "resume": {"deleted": {}},
}


@dataclass(frozen=True)
class AuditEntry:
    """One entry. ``count`` is None if the action was begun and never finished."""

    time: datetime
    user: str
    action: str
    subject: str
    reason: str
    count: int | None
    details: dict[str, Any]

    @property
    def text(self) -> str:
        """The action, in words."""
        if self.count is None:
            begun = {
                "retry": gettext("began to retry"),
                "edit": gettext("began to edit"),
                "send_now": gettext("began to make messages due"),
                "cancel": gettext("began to cancel"),
                "pause": gettext("began to pause"),
                "resume": gettext("began to resume"),
            }
            return begun.get(self.action, gettext("began to delete"))
        texts = {
            "retry": ngettext("retried %(count)d dead letter", "retried %(count)d dead letters", self.count),
            "edit": gettext("edited the payload and retried"),
            "send_now": ngettext("made %(count)d message due", "made %(count)d messages due", self.count),
            "pause": gettext("paused"),
            "resume": ngettext("resumed, %(count)d message due", "resumed, %(count)d messages due", self.count),
            "cancel": ngettext("cancelled %(count)d message", "cancelled %(count)d messages", self.count),
            "delete": ngettext("deleted %(count)d dead letter", "deleted %(count)d dead letters", self.count),
        }
        return texts.get(self.action, self.action) % {"count": self.count}


def begin(user: Any, model: Any, action: str, subject: str, reason: str, *, object_id: int | None = None) -> LogEntry:
    """Record an action before it is done, so that even a killed process leaves an entry."""
    return LogEntry.objects.create(
        user_id=user.pk,
        content_type=_content_type(model),
        object_id=None if object_id is None else str(object_id),
        object_repr=subject[:REPR_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}"),
        action_flag=DELETION if action == "delete" else CHANGE,
        change_message=_message(action, subject, reason, None, {}),
    )


def finish(entry: LogEntry, count: int, **details: Any) -> None:
    """Record the number of messages, and further details."""
    begun = json.loads(entry.change_message)[0]["outbox"]
    entry.change_message = _message(begun["action"], begun["subject"], begun["reason"], count, details)
    entry.save(update_fields=["change_message"])


def entries(models: Iterable[Any], *, object_id: int | None = None, limit: int = 10) -> list[AuditEntry]:
    """The newest entries about messages of some models, or about one message."""
    log = LogEntry.objects.filter(content_type__in=[_content_type(model) for model in models])
    if object_id is not None:
        log = log.filter(object_id=str(object_id))
    found = []
    for entry in log.select_related("user").order_by("-action_time")[:limit]:
        with suppress(ValueError, LookupError, TypeError):  # another app's entry
            data = json.loads(entry.change_message)[0]["outbox"]
            found.append(AuditEntry(entry.action_time, entry.user.get_username(), **data))
    return found


def _content_type(model: Any) -> ContentType:
    return ContentType.objects.get_for_model(model)  # of the table's own model, not of a proxy


def _message(action: str, subject: str, reason: str, count: int | None, details: dict[str, Any]) -> str:
    data = {"action": action, "subject": subject, "reason": reason, "count": count, "details": details}
    return json.dumps([{**_FOR_DJANGO[action], "outbox": data}])
