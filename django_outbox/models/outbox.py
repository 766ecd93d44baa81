"""The outbox: one row per event that this service publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from django.db import DEFAULT_DB_ALIAS, models, router
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.models.fields import CurrentSource, ExactCharField, PartialIndex, current_source, uuid7
from django_outbox.models.lengths import TYPE_LENGTH
from django_outbox.models.message import DeadLetterManager, Message, MessageQuerySet, status_constraints


def outbox_database() -> str:
    """The alias of the database that ``DATABASE_ROUTERS`` write the outbox to."""
    return router.db_for_write(OutboxMessage) or DEFAULT_DB_ALIAS


class OutboxQuerySet(MessageQuerySet["OutboxMessage"]):
    """Queries of the outbox."""

    def own(self) -> Self:
        """Messages of this service: other services may keep theirs in the same table."""
        return self.filter(source=settings.source)

    def published(self) -> Self:
        return self.filter(status="published")

    def due(self) -> Self:
        """Due messages of this service."""
        return super().due().own()

    def except_topics(self, topics: Iterable[str]) -> Self:
        topics = list(topics)
        return self.exclude(topic__in=topics) if topics else self.all()


class OutboxMessage(Message):
    """An event that the relay sends to Kafka, where the consumer reads it."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        """The relay sends it when ``next_retry_at`` comes."""
        PUBLISHED = "published", _("published")
        """Acknowledged by Kafka, or left to Debezium; not yet handled."""
        CONSUMED = "consumed", _("consumed")
        """Handled: the handler's effects and this status were committed together. Final."""
        DEAD = "dead", _("dead")
        """Failed for good, with the reason in ``last_error``. Final until an operator retries it."""

    source = ExactCharField(_("source"), max_length=SOURCE_LENGTH, default=current_source, db_default=CurrentSource())
    """The ``SOURCE`` of the service that wrote the message. Only its relays and consumers touch the row."""
    event_id = models.UUIDField(_("event id"), default=uuid7, unique=True)
    event_type = ExactCharField(_("event type"), max_length=TYPE_LENGTH)
    payload = models.JSONField(_("payload"))
    """JSON; null if ``raw_value`` has the payload, and for a tombstone."""
    raw_value = models.BinaryField(_("payload as bytes"), null=True, blank=True)
    status = ExactCharField(_("status"), max_length=9, choices=Status.choices, default=Status.PENDING)
    publish_count = models.PositiveIntegerField(_("times published"), default=0)
    published_at = models.DateTimeField(_("published at"), null=True, blank=True)
    partition = models.IntegerField(_("partition"), null=True, blank=True)
    offset = models.BigIntegerField(_("offset"), null=True, blank=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("outbox message")
        verbose_name_plural = _("outbox messages")
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_outboxmessage", _("Can retry dead letters and send waiting messages now")),
            ("cancel_outboxmessage", _("Can cancel pending messages")),
            ("edit_outboxmessage", _("Can edit the payload of dead letters")),
            ("delete_outboxmessage", _("Can delete dead letters")),
            ("see_payload_outboxmessage", _("Can see secret values in payloads")),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = status_constraints(
            "django_outbox", ["pending", "published", "consumed", "dead"]
        )
        indexes: ClassVar[list[models.Index]] = [
            # For the relay's claims. "IS NOT NULL" is true of every pending row; it keeps PostgreSQL from using this
            # index for other statements. Databases without partial indexes leave NULLs out as usefully.
            PartialIndex(
                name="django_outbox_due",
                fields=["source", "next_retry_at", "id"],
                where=Q(status="pending", next_retry_at__isnull=False),
            ),
            # For the order of keys: earlier messages that are pending, or dead and hold their key.
            PartialIndex(
                name="django_outbox_key",
                fields=["topic", "message_key", "source", "status", "id"],
                where=Q(status__in=["pending", "dead"]),
                without_on_mysql=["source"],
            ),
            # For the order of keys: earlier messages that the relay sent. By event type, because events without a
            # handler stay published for days. Those that Debezium carries are in an index of their own (storage.py, where
            # the last condition is explained).
            PartialIndex(
                name="django_outbox_key_sent",
                fields=["topic", "message_key", "source", "event_type", "id"],
                where=Q(status="published", partition__isnull=False, id=F("id") + 0),
                without_on_mysql=["source"],
            ),
            # For the reconciler: published messages by partition and offset. The count is true of every published
            # row; it keeps PostgreSQL from using this index in place of the one above when statistics are stale.
            PartialIndex(
                name="django_outbox_place",
                fields=["source", "event_type", "topic", "partition", "offset"],
                where=Q(status="published", publish_count__gt=0),
            ),
            # For the admin and reports. "id > 0" is true of every row; only queries that name it use this index.
            PartialIndex(
                name="django_outbox_unfinished",
                fields=["status", "id", "source"],
                where=Q(status__in=["pending", "published", "dead"], id__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} ({self.status})"


class DeadLetter(OutboxMessage):
    """Dead messages, listed separately in the admin."""

    objects = DeadLetterManager()  # type: ignore[assignment,misc]

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        default_permissions = ("view",)


class Overview(OutboxMessage):
    """Not a message: gives the operators' overview its entry in the admin."""

    class Meta:
        proxy = True
        verbose_name = _("overview")
        verbose_name_plural = _("overview")
        default_permissions = ()


class EventCatalogue(OutboxMessage):
    """Not a message: gives the page of event types its entry in the admin."""

    class Meta:
        proxy = True
        verbose_name = _("event types")
        verbose_name_plural = _("event types")
        default_permissions = ()
