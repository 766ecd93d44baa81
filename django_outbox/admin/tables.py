"""The tables of messages, outbox and inbox, and how they differ; all pages work with either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from django_outbox.conf import settings
from django_outbox.events.payloads import is_json
from django_outbox.models import DeadLetter, InboxDeadLetter, InboxMessage, OutboxMessage, outbox_database
from django_outbox.observability.masking import Redaction
from django_outbox.operations.selection import Selection


@dataclass(frozen=True)
class Table:
    """A table of messages."""

    model: type[Any]
    dead_model: type[Any]
    """The proxy model that lists its dead letters in the admin."""
    failures_by: str
    """The foreign key of ``MessageFailure`` to this table."""
    deferred: tuple[str, ...] = ()
    """Columns that only the page of one message reads."""

    @property
    def name(self) -> str:
        """The name in permissions and URLs."""
        return str(self.model._meta.model_name)

    def may(self, request: HttpRequest, action: str) -> bool:
        """True if the user has the permission to ``view``, ``retry``, ``edit``, ``delete`` or ``see_payload``."""
        return request.user.has_perm(f"django_outbox.{action}_{self.name}")

    def redaction(self, request: HttpRequest) -> Redaction:
        """Masks what the user must not see."""
        return Redaction(() if self.may(request, "see_payload") else settings.redact)

    @property
    def database(self) -> str:
        """The alias of the primary database, as a replica may lag."""
        return outbox_database()

    @property
    def messages(self) -> QuerySet[Any]:
        messages: QuerySet[Any] = self.model._base_manager.using(self.database).defer(*self.deferred)
        return messages

    @property
    def dead(self) -> QuerySet[Any]:
        return self.messages.filter(status="dead", id__gt=0)  # id > 0 selects the index of unfinished messages

    @property
    def is_inbox(self) -> bool:
        return self is INBOX

    def of_key(self, message: Any) -> QuerySet[Any]:
        """All messages that are ordered with this one, by its key."""
        of_key = self.messages.filter(topic=message.topic, message_key=message.message_key)
        return of_key.filter(group=message.group) if self.is_inbox else of_key.filter(source=message.source)

    def has_payload(self, message: Any) -> bool:
        """False for an unreadable record in the inbox: a retry reads its bytes again."""
        return not self.is_inbox or message.source != ""

    def is_editable(self, message: Any) -> bool:
        """True if the payload is JSON."""
        return self.has_payload(message) and is_json(message)

    @property
    def list_url(self) -> str:
        return page_url(self.model, "changelist")

    @property
    def dead_list_url(self) -> str:
        return page_url(self.dead_model, "changelist")

    def action_url(self, action: str, selection: Selection) -> str:
        """The page that confirms an action on all dead letters of a selection."""
        return f"{reverse(f'admin:{self.name}_{action}')}?{selection.query}"

    def url_of(self, message: Any) -> str:
        """The page of a message; dead ones are among the dead letters."""
        return page_url(self.dead_model if message.status == "dead" else self.model, "change", message.id)


def page_url(model: type[Any], view: str, *arguments: object) -> str:
    """A page of the admin about a model."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}", args=arguments)


OUTBOX = Table(OutboxMessage, DeadLetter, failures_by="message", deferred=("raw_value",))
INBOX = Table(InboxMessage, InboxDeadLetter, failures_by="inbox_message", deferred=("raw_key", "raw_value"))
TABLES = (OUTBOX, INBOX)
