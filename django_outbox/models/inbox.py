"""The inbox: one row per event that a consumer group received from elsewhere."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import SOURCE_LENGTH
from django_outbox.models.fields import ExactCharField, PartialIndex
from django_outbox.models.lengths import EVENT_ID_LENGTH, GROUP_LENGTH, TYPE_LENGTH
from django_outbox.models.message import DeadLetterManager, Message, MessageQuerySet, status_constraints


class InboxQuerySet(MessageQuerySet["InboxMessage"]):
    """Queries of the inbox."""


class InboxMessage(Message):
    """An event that a consumer group received and that has no outbox row here."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        """The consumer handles it when ``next_retry_at`` comes."""
        CONSUMED = "consumed", _("consumed")
        """Handled: the handler's effects and this status were committed together. Final."""
        DEAD = "dead", _("dead")
        """Failed for good, with the reason in ``last_error``. Final until an operator retries it."""

    group = ExactCharField(_("consumer group"), max_length=GROUP_LENGTH)
    source = ExactCharField(_("source"), max_length=SOURCE_LENGTH, blank=True)
    """The service that wrote the event. Empty if the record could not be read; ``event_id`` is then its position."""
    event_id = ExactCharField(_("event id"), max_length=EVENT_ID_LENGTH)
    event_type = ExactCharField(_("event type"), max_length=TYPE_LENGTH, blank=True)
    event_time = models.DateTimeField(_("event time"), null=True, blank=True)
    partition = models.IntegerField(_("partition"))
    offset = models.BigIntegerField(_("offset"))
    payload = models.JSONField(_("payload"), null=True, blank=True)
    raw_key = models.BinaryField(_("key as received"), null=True, blank=True)
    raw_value = models.BinaryField(_("value as received"), null=True, blank=True)
    """Of a record that could not be read, or the payload if it is bytes."""
    status = ExactCharField(_("status"), max_length=8, choices=Status.choices, default=Status.PENDING)

    objects = InboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("inbox message")
        verbose_name_plural = _("inbox messages")
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_inboxmessage", _("Can retry dead letters of the inbox and handle waiting messages now")),
            ("cancel_inboxmessage", _("Can cancel pending messages of the inbox")),
            ("edit_inboxmessage", _("Can edit the payload of dead letters of the inbox")),
            ("delete_inboxmessage", _("Can delete dead letters of the inbox")),
            ("see_payload_inboxmessage", _("Can see secret values and unreadable records in the inbox")),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # For deduplication. MySQL and MariaDB allow 3072 bytes, 4 per character.
            models.UniqueConstraint(name="django_outbox_inbox_identity", fields=["group", "source", "event_id"]),
            *status_constraints("django_outbox_inbox", ["pending", "consumed", "dead"]),
        ]
        indexes: ClassVar[list[models.Index]] = [
            # For the consumer's claims.
            PartialIndex(
                name="django_outbox_inbox_due", fields=["group", "next_retry_at", "id"], where=Q(status="pending")
            ),
            # For the order of keys.
            PartialIndex(
                name="django_outbox_inbox_key",
                fields=["group", "topic", "message_key", "status", "id"],
                where=Q(status__in=["pending", "dead"]),
            ),
            # For the admin and reports.
            PartialIndex(
                name="django_outbox_inbox_unfinished",
                fields=["status", "id"],
                where=Q(status__in=["pending", "dead"], id__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} ({self.status})"


class InboxDeadLetter(InboxMessage):
    """Dead messages of the inbox, listed separately in the admin."""

    objects = DeadLetterManager()  # type: ignore[assignment,misc]

    class Meta:
        proxy = True
        verbose_name = _("inbox dead letter")
        verbose_name_plural = _("inbox dead letters")
        default_permissions = ("view",)
