"""The outbox: one row per event, from its writing to its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from django.db import DEFAULT_DB_ALIAS, connections, models, router
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import SOURCE_LENGTH, settings
from django_outbox.models.fields import CurrentSource, DatabaseNow, ExactCharField, PartialIndex, current_source, uuid7
from django_outbox.models.lengths import FINGERPRINT_LENGTH, KEY_LENGTH, TOPIC_LENGTH


def default_max_retry() -> int:
    """How many failures a new message may have before it is dead."""
    return settings.max_retry


def outbox_database() -> str:
    """The alias of the database that ``DATABASE_ROUTERS`` write the outbox to."""
    return router.db_for_write(OutboxMessage) or DEFAULT_DB_ALIAS


def oldest_first(messages: models.QuerySet[Any], status: str) -> models.QuerySet[Any]:
    """Unfinished messages in one state, by id, along the index on what is unfinished.

    PostgreSQL would drop a state from the order that equals a constant, and walk along the primary key, past all that is
    consumed, as soon as much is unfinished. MariaDB would sort by it.
    """
    if connections[messages.db].vendor != "postgresql":
        return messages.filter(status=status, id__gt=0).order_by("id")
    in_index = Q(status__in=[status, "dead"], id__gt=0)
    return messages.filter(in_index, status__range=(status, status)).order_by("status", "id")


class OutboxQuerySet(models.QuerySet["OutboxMessage"]):
    """Reading the outbox. Writing a status is the business of ``django_outbox.state.outbox``."""

    def own(self) -> OutboxQuerySet:
        """Messages of this service: other services may keep theirs in the same table."""
        return self.filter(source=settings.source)

    def pending(self) -> OutboxQuerySet:
        return self.filter(status=OutboxMessage.Status.PENDING)

    def published(self) -> OutboxQuerySet:
        return self.filter(status=OutboxMessage.Status.PUBLISHED)

    def dead(self) -> OutboxQuerySet:
        return self.filter(status=OutboxMessage.Status.DEAD)

    def due(self) -> OutboxQuerySet:
        """Pending messages of this service whose time has come by the database's clock, the longest due first."""
        return self.own().pending().filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at", "id")

    def except_topics(self, topics: Iterable[str]) -> OutboxQuerySet:
        topics = list(topics)
        return self.exclude(topic__in=topics) if topics else self.all()


class OutboxMessage(models.Model):
    """An event on its way to Kafka and to its handler, or at its end."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        """To be sent to Kafka when ``next_retry_at`` comes."""
        PUBLISHED = "published", _("published")
        """Acknowledged by Kafka, not yet handled."""
        CONSUMED = "consumed", _("consumed")
        """Handled: the handler's effects and this status were committed together. Final."""
        DEAD = "dead", _("dead")
        """Given up, with the reason in ``last_error``. Final until an operator retries it."""

    id = models.BigAutoField(primary_key=True)
    source = ExactCharField(_("source"), max_length=SOURCE_LENGTH, default=current_source, db_default=CurrentSource())
    """The ``SOURCE`` of the service that wrote the message. Only its relays and consumers touch the row."""
    event_id = models.UUIDField(_("event id"), default=uuid7, unique=True)
    event_type = ExactCharField(_("event type"), max_length=255)
    event_version = models.CharField(_("event version"), max_length=32, default="v1")
    topic = ExactCharField(_("topic"), max_length=TOPIC_LENGTH)
    message_key = ExactCharField(_("key"), max_length=KEY_LENGTH, blank=True, default="")
    payload = models.JSONField(_("payload"))
    headers = models.JSONField(_("headers"), default=dict, blank=True)
    status = ExactCharField(_("status"), max_length=9, choices=Status.choices, default=Status.PENDING)
    publish_count = models.PositiveIntegerField(_("times published"), default=0)
    delivery_count = models.PositiveIntegerField(_("deliveries"), default=0)
    retry_count = models.PositiveIntegerField(_("failures"), default=0)
    max_retry = models.PositiveIntegerField(_("failures allowed"), default=default_max_retry)
    next_retry_at = models.DateTimeField(_("due at"), null=True, blank=True, db_default=DatabaseNow())
    last_error = models.TextField(_("last error"), blank=True, default="")
    fingerprint = ExactCharField(_("fingerprint"), max_length=FINGERPRINT_LENGTH, blank=True, default="", db_default="")
    """Of the last failure: what it has in common with others of the same cause."""
    partition = models.IntegerField(_("partition"), null=True, blank=True)
    offset = models.BigIntegerField(_("offset"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"), db_default=DatabaseNow())
    updated_at = models.DateTimeField(_("updated at"), db_default=DatabaseNow())
    published_at = models.DateTimeField(_("published at"), null=True, blank=True)
    consumed_at = models.DateTimeField(_("consumed at"), null=True, blank=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("outbox message")
        verbose_name_plural = _("outbox messages")
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_outboxmessage", _("Can retry dead letters")),
            ("edit_outboxmessage", _("Can edit the payload of dead letters")),
            ("delete_outboxmessage", _("Can delete dead letters")),
            ("see_payload_outboxmessage", _("Can see secret values in payloads")),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                name="django_outbox_status_known",
                condition=Q(status__in=["pending", "published", "consumed", "dead"]),
            ),
            models.CheckConstraint(
                name="django_outbox_due_when_pending",
                condition=Q(status="pending", next_retry_at__isnull=False)
                | (~Q(status="pending") & Q(next_retry_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="django_outbox_consumed_at",
                condition=Q(status="consumed", consumed_at__isnull=False)
                | (~Q(status="consumed") & Q(consumed_at__isnull=True)),
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            # What the relay polls. MySQL and MariaDB have no partial indexes; the column is NULL for
            # all but pending rows, so the index is as useful there. That it is not NULL, true of all pending
            # rows, keeps PostgreSQL from using this index for statements that do not ask for a due time.
            PartialIndex(
                name="django_outbox_due",
                fields=["source", "next_retry_at", "id"],
                where=Q(status="pending", next_retry_at__isnull=False),
            ),
            # Whether an earlier message of a key is unsent, or dead and holds it.
            PartialIndex(
                name="django_outbox_key",
                fields=["topic", "message_key", "source", "status", "id"],
                where=Q(status__in=["pending", "dead"]),
                without_on_mysql=["source"],
            ),
            # Whether an earlier message of a key is on its way. By type, as what no handler here wants stays
            # published for days, and is not walked.
            PartialIndex(
                name="django_outbox_key_sent",
                fields=["topic", "message_key", "source", "event_type", "id"],
                where=Q(status="published"),
                without_on_mysql=["source"],
            ),
            # What a partition should hold of the events that are handled here, to be compared with what has
            # been read of it. The count, true of all of them, keeps PostgreSQL from using this where it has
            # to use the one above, as it does when its statistics are old.
            PartialIndex(
                name="django_outbox_place",
                fields=["source", "event_type", "topic", "partition", "offset"],
                where=Q(status="published", publish_count__gt=0),
            ),
            # How many are unfinished, which are the oldest, which the newest. For the admin alone: what says
            # nothing of id > 0, true of all of them, cannot take it where it has to use one of those above.
            PartialIndex(
                name="django_outbox_unfinished",
                fields=["status", "id", "source"],
                where=Q(status__in=["pending", "published", "dead"], id__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} ({self.status})"


class DeadLetter(OutboxMessage):
    """The dead messages alone, as an entry of their own in the admin."""

    class _Manager(models.Manager["DeadLetter"]):
        def get_queryset(self) -> models.QuerySet[DeadLetter]:
            return super().get_queryset().filter(status=OutboxMessage.Status.DEAD)

    objects = _Manager()  # type: ignore[assignment,misc]

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        default_permissions = ("view",)


class Overview(OutboxMessage):
    """No message at all: the entry of the operators' overview among the admin's lists."""

    class Meta:
        proxy = True
        verbose_name = _("overview")
        verbose_name_plural = _("overview")
        default_permissions = ()
