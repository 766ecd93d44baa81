"""Who did what to which messages, and why: Django's own log of the admin."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils.translation import gettext, ngettext

REPR_LENGTH = 200

# What Django's own pages make of an entry. Ours read the part under "outbox".
_FOR_DJANGO: dict[str, dict[str, Any]] = {
    "retry": {"changed": {"fields": ["Status"]}},
    "edit": {"changed": {"fields": ["Payload", "Status"]}},
    "delete": {"deleted": {}},
}


@dataclass(frozen=True)
class Deed:
    """One entry of the log."""

    time: datetime
    user: str
    action: str
    count: int | None
    subject: str
    reason: str
    details: dict[str, Any]

    @property
    def text(self) -> str:
        """What was done, in words. Without a count: it was begun, and its end never written down."""
        if self.count is None:
            begun = {"retry": gettext("began to retry"), "edit": gettext("began to edit")}
            return begun.get(self.action, gettext("began to delete"))
        texts = {
            "retry": ngettext("retried %(count)d dead letter", "retried %(count)d dead letters", self.count),
            "edit": gettext("edited the payload and retried"),
            "delete": ngettext("deleted %(count)d dead letter", "deleted %(count)d dead letters", self.count),
        }
        return texts.get(self.action, self.action) % {"count": self.count}


def begin(user: Any, model: Any, action: str, subject: str, reason: str, *, object_id: int | None = None) -> LogEntry:
    """Write down what is about to be done, so that even a killed process leaves a trace of it."""
    return LogEntry.objects.create(
        user_id=user.pk,
        content_type=_content_type(model),
        object_id=None if object_id is None else str(object_id),
        object_repr=subject[:REPR_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}"),
        action_flag=DELETION if action == "delete" else CHANGE,
        change_message=_message(action, subject, reason, None, {}),
    )


def finish(entry: LogEntry, count: int, **details: Any) -> None:
    """Write down how many messages it was, and what else is worth keeping."""
    begun = json.loads(entry.change_message)[0]["outbox"]
    entry.change_message = _message(begun["action"], begun["subject"], begun["reason"], count, details)
    entry.save(update_fields=["change_message"])


def deeds(models: Iterable[Any], *, object_id: int | None = None, limit: int = 10) -> list[Deed]:
    """The newest entries about messages of some models, or about one message."""
    entries = LogEntry.objects.filter(content_type__in=[_content_type(model) for model in models])
    if object_id is not None:
        entries = entries.filter(object_id=str(object_id))
    found = []
    for entry in entries.select_related("user").order_by("-action_time")[:limit]:
        try:
            said = json.loads(entry.change_message)[0]["outbox"]
        except (ValueError, LookupError, TypeError):
            continue  # not one of ours
        found.append(
            Deed(
                time=entry.action_time,
                user=entry.user.get_username(),
                action=said["action"],
                count=said["count"],
                subject=said["subject"],
                reason=said["reason"],
                details=said["details"],
            )
        )
    return found


def _content_type(model: Any) -> ContentType:
    return ContentType.objects.get_for_model(model)  # of the table's own model, not of a proxy


def _message(action: str, subject: str, reason: str, count: int | None, details: dict[str, Any]) -> str:
    said = {"action": action, "subject": subject, "reason": reason, "count": count, "details": details}
    return json.dumps([{**_FOR_DJANGO[action], "outbox": said}])
