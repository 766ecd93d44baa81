"""The inbox: one row per event that a consumer group received from elsewhere."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import SOURCE_LENGTH
from django_outbox.models.fields import DatabaseNow, ExactCharField, PartialIndex
from django_outbox.models.lengths import (
    EVENT_ID_LENGTH,
    FINGERPRINT_LENGTH,
    GROUP_LENGTH,
    KEY_LENGTH,
    TOPIC_LENGTH,
    TYPE_LENGTH,
    VERSION_LENGTH,
)
from django_outbox.models.outbox import default_max_retry


class InboxQuerySet(models.QuerySet["InboxMessage"]):
    """Reading the inbox. Writing a status is the business of ``django_outbox.state.inbox``."""

    def pending(self) -> InboxQuerySet:
        return self.filter(status=InboxMessage.Status.PENDING)

    def consumed(self) -> InboxQuerySet:
        return self.filter(status=InboxMessage.Status.CONSUMED)

    def dead(self) -> InboxQuerySet:
        return self.filter(status=InboxMessage.Status.DEAD)

    def due(self) -> InboxQuerySet:
        """Pending messages whose time has come by the database's clock, the longest due first."""
        return self.pending().filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at", "id")


class InboxMessage(models.Model):
    """An event that a consumer group has received and has no outbox row for."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        """To be handled, again or at last, when ``next_retry_at`` comes."""
        CONSUMED = "consumed", _("consumed")
        """Handled: the handler's effects and this status were committed together. Final."""
        DEAD = "dead", _("dead")
        """Given up, with the reason in ``last_error``. Final until an operator retries it."""

    id = models.BigAutoField(primary_key=True)
    group = ExactCharField(_("consumer group"), max_length=GROUP_LENGTH)
    source = ExactCharField(_("source"), max_length=SOURCE_LENGTH, blank=True)
    """The service that wrote the event. Empty: the record could not be read, and ``event_id`` is its place."""
    event_id = ExactCharField(_("event id"), max_length=EVENT_ID_LENGTH)
    event_type = ExactCharField(_("event type"), max_length=TYPE_LENGTH, blank=True)
    event_version = models.CharField(_("event version"), max_length=VERSION_LENGTH, default="v1")
    event_time = models.DateTimeField(_("event time"), null=True, blank=True)
    topic = ExactCharField(_("topic"), max_length=TOPIC_LENGTH)
    partition = models.IntegerField(_("partition"))
    offset = models.BigIntegerField(_("offset"))
    message_key = ExactCharField(_("key"), max_length=KEY_LENGTH, blank=True, default="")
    payload = models.JSONField(_("payload"), null=True, blank=True)
    headers = models.JSONField(_("headers"), default=dict, blank=True)
    raw_key = models.BinaryField(_("key as received"), null=True, blank=True)
    raw_value = models.BinaryField(_("value as received"), null=True, blank=True)
    status = ExactCharField(_("status"), max_length=8, choices=Status.choices, default=Status.PENDING)
    delivery_count = models.PositiveIntegerField(_("deliveries"), default=0)
    retry_count = models.PositiveIntegerField(_("failures"), default=0)
    max_retry = models.PositiveIntegerField(_("failures allowed"), default=default_max_retry)
    next_retry_at = models.DateTimeField(_("due at"), null=True, blank=True, db_default=DatabaseNow())
    last_error = models.TextField(_("last error"), blank=True, default="")
    fingerprint = ExactCharField(_("fingerprint"), max_length=FINGERPRINT_LENGTH, blank=True, default="", db_default="")
    """Of the last failure: what it has in common with others of the same cause."""
    created_at = models.DateTimeField(_("created at"), db_default=DatabaseNow())
    updated_at = models.DateTimeField(_("updated at"), db_default=DatabaseNow())
    consumed_at = models.DateTimeField(_("consumed at"), null=True, blank=True)

    objects = InboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("inbox message")
        verbose_name_plural = _("inbox messages")
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_inboxmessage", _("Can retry dead letters of the inbox")),
            ("edit_inboxmessage", _("Can edit the payload of dead letters of the inbox")),
            ("delete_inboxmessage", _("Can delete dead letters of the inbox")),
            ("see_payload_inboxmessage", _("Can see secret values and unreadable records in the inbox")),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # What makes a copy a copy. MySQL and MariaDB allow 3072 bytes, 4 a character.
            models.UniqueConstraint(name="django_outbox_inbox_identity", fields=["group", "source", "event_id"]),
            models.CheckConstraint(
                name="django_outbox_inbox_status_known",
                condition=Q(status__in=["pending", "consumed", "dead"]),
            ),
            models.CheckConstraint(
                name="django_outbox_inbox_due_when_pending",
                condition=Q(status="pending", next_retry_at__isnull=False)
                | (~Q(status="pending") & Q(next_retry_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="django_outbox_inbox_consumed_at",
                condition=Q(status="consumed", consumed_at__isnull=False)
                | (~Q(status="consumed") & Q(consumed_at__isnull=True)),
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            # What the consumer polls.
            PartialIndex(
                name="django_outbox_inbox_due",
                fields=["group", "next_retry_at", "id"],
                where=Q(status="pending"),
            ),
            # Whether an earlier message of a key is unfinished.
            PartialIndex(
                name="django_outbox_inbox_key",
                fields=["group", "topic", "message_key", "status", "id"],
                where=Q(status__in=["pending", "dead"]),
            ),
            # For the admin alone, as that of the outbox.
            PartialIndex(
                name="django_outbox_inbox_unfinished",
                fields=["status", "id"],
                where=Q(status__in=["pending", "dead"], id__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} ({self.status})"


class InboxDeadLetter(InboxMessage):
    """The dead messages of the inbox alone, as an entry of their own in the admin."""

    class _Manager(models.Manager["InboxDeadLetter"]):
        def get_queryset(self) -> models.QuerySet[InboxDeadLetter]:
            return super().get_queryset().filter(status=InboxMessage.Status.DEAD)

    objects = _Manager()  # type: ignore[assignment,misc]

    class Meta:
        proxy = True
        verbose_name = _("inbox dead letter")
        verbose_name_plural = _("inbox dead letters")
        default_permissions = ("view",)
