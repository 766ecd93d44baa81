"""Columns, constraints and queries that outbox and inbox share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, TypeVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.conf import settings
from django_outbox.models.fields import DatabaseNow, ExactCharField
from django_outbox.models.lengths import (
    CONTENT_TYPE_LENGTH,
    FINGERPRINT_LENGTH,
    KEY_LENGTH,
    TOPIC_LENGTH,
    VERSION_LENGTH,
)


def default_max_retry() -> int:
    """The setting ``MAX_RETRY``, as the default of new messages."""
    return settings.max_retry


class Message(models.Model):
    """A row of the outbox or the inbox. Only ``django_outbox.state`` writes its ``status``."""

    id = models.BigAutoField(primary_key=True)
    event_version = models.CharField(_("event version"), max_length=VERSION_LENGTH, default="v1")
    topic = ExactCharField(_("topic"), max_length=TOPIC_LENGTH)
    message_key = ExactCharField(_("key"), max_length=KEY_LENGTH, blank=True, default="")
    headers = models.JSONField(_("headers"), default=dict, blank=True)
    content_type = models.CharField(_("content type"), max_length=CONTENT_TYPE_LENGTH, null=True, blank=True)  # noqa: DJ001
    """None if the payload is JSON, empty for a tombstone, otherwise that of the bytes in ``raw_value``."""
    delivery_count = models.PositiveIntegerField(_("deliveries"), default=0)
    retry_count = models.PositiveIntegerField(_("failures"), default=0)
    max_retry = models.PositiveIntegerField(_("failures allowed"), default=default_max_retry)
    next_retry_at = models.DateTimeField(_("due at"), null=True, blank=True, db_default=DatabaseNow())
    last_error = models.TextField(_("last error"), blank=True, default="")
    fingerprint = ExactCharField(_("fingerprint"), max_length=FINGERPRINT_LENGTH, blank=True, default="", db_default="")
    """Groups failures with the same cause; of the last failure."""
    created_at = models.DateTimeField(_("created at"), db_default=DatabaseNow())
    updated_at = models.DateTimeField(_("updated at"), db_default=DatabaseNow())
    consumed_at = models.DateTimeField(_("consumed at"), null=True, blank=True)

    class Meta:
        abstract = True


_M = TypeVar("_M", bound=models.Model)


class MessageQuerySet(models.QuerySet[_M]):
    """Queries of outbox and inbox."""

    def pending(self) -> Self:
        return self.filter(status="pending")

    def dead(self) -> Self:
        return self.filter(status="dead")

    def due(self) -> Self:
        """Pending messages that are due by the database's clock, the most overdue first."""
        return self.pending().filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at", "id")


def status_is(status: str) -> Q:
    """A condition on the status for queries by id, which no partial index can serve.

    With stale statistics, PostgreSQL may prefer any index that implies ``status = ...`` to the primary key.
    """
    return Q(status__startswith=status)


class DeadLetterManager(models.Manager[_M]):
    """Dead messages only."""

    def get_queryset(self) -> models.QuerySet[_M]:
        return super().get_queryset().filter(status="dead")


def status_constraints(prefix: str, statuses: Sequence[str]) -> list[models.BaseConstraint]:
    """Constraints that keep ``status`` and the columns that depend on it consistent."""
    return [
        models.CheckConstraint(name=f"{prefix}_status_known", condition=Q(status__in=statuses)),
        models.CheckConstraint(
            name=f"{prefix}_due_when_pending",
            condition=Q(status="pending", next_retry_at__isnull=False)
            | (~Q(status="pending") & Q(next_retry_at__isnull=True)),
        ),
        models.CheckConstraint(
            name=f"{prefix}_consumed_at",
            condition=Q(status="consumed", consumed_at__isnull=False)
            | (~Q(status="consumed") & Q(consumed_at__isnull=True)),
        ),
    ]
