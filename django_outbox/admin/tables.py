"""Which tables hold messages, and what differs between them: all pages are written in these terms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from django_outbox.conf import settings
from django_outbox.models import (
    DeadLetter,
    InboxDeadLetter,
    InboxMessage,
    MessageFailure,
    OutboxMessage,
    outbox_database,
)
from django_outbox.models.fields import database_now
from django_outbox.operations.selection import Selection


@dataclass(frozen=True)
class Table:
    """A table of messages.

    Attributes:
        model: its model.
        dead_model: the proxy of it that lists its dead letters in the admin.
        failures_by: the field of ``MessageFailure`` that names one of its messages.
        unread: columns that only the page of one message reads.
    """

    model: type[Any]
    dead_model: type[Any]
    failures_by: str
    unread: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it stands in permissions and URLs."""
        return str(self.model._meta.model_name)

    def may(self, request: HttpRequest, action: str) -> bool:
        """True if the user has the permission to ``view``, ``retry``, ``edit``, ``delete`` or ``see_payload``."""
        return request.user.has_perm(f"django_outbox.{action}_{self.name}")

    @property
    def database(self) -> str:
        """The alias of the database that is written to, and so the one that knows best."""
        return outbox_database()

    @property
    def messages(self) -> QuerySet[Any]:
        messages: QuerySet[Any] = self.model._base_manager.using(self.database).defer(*self.unread)
        return messages

    @property
    def own(self) -> QuerySet[Any]:
        """Messages that the workers of this project send or handle: several services may share the outbox."""
        return self.messages if self.is_inbox else self.messages.filter(source=settings.source)

    def in_state(self, status: str) -> QuerySet[Any]:
        """By the index that only the admin uses, as only the admin says ``id > 0``."""
        return self.messages.filter(status=status, id__gt=0)

    @property
    def dead(self) -> QuerySet[Any]:
        return self.in_state("dead")

    @property
    def is_inbox(self) -> bool:
        return self is INBOX

    def of_key(self, message: Any) -> QuerySet[Any]:
        """All messages of the same order as this one, which has a key."""
        of_key = self.messages.filter(topic=message.topic, message_key=message.message_key)
        return of_key.filter(group=message.group) if self.is_inbox else of_key.filter(source=message.source)

    def has_payload(self, message: Any) -> bool:
        """False for a record of the inbox that could not be read: a retry reads its bytes again."""
        return not self.is_inbox or message.source != ""

    def now(self) -> datetime:
        """The database's clock, as messages have it."""
        return database_now(self.messages)

    def failures(self, message_id: int) -> QuerySet[MessageFailure]:
        return MessageFailure.objects.using(self.database).filter(**{self.failures_by: message_id})

    @property
    def list_url(self) -> str:
        return reverse(_view(self.model, "changelist"))

    @property
    def dead_list_url(self) -> str:
        return reverse(_view(self.dead_model, "changelist"))

    def action_url(self, action: str, selection: Selection) -> str:
        """The page that asks whether to do something with all dead letters of a selection."""
        return f"{reverse(f'admin:{self.name}_{action}')}?{selection.query}"

    def url_of(self, message: Any) -> str:
        """The page of a message; of a dead one among the dead letters."""
        return reverse(_view(self.dead_model if message.status == "dead" else self.model, "change"), args=[message.id])


def _view(model: type[Any], view: str) -> str:
    return f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}"


OUTBOX = Table(OutboxMessage, DeadLetter, failures_by="message")
INBOX = Table(InboxMessage, InboxDeadLetter, failures_by="inbox_message", unread=("raw_key", "raw_value"))
TABLES = (OUTBOX, INBOX)


def table_of(model: type[Any]) -> Table:
    """The table of a model or of a proxy of it."""
    return next(table for table in TABLES if table.model is model._meta.concrete_model)
