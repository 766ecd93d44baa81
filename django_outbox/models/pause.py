"""Pauses: event types and handlers whose messages wait."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from django_outbox.models.fields import DatabaseNow, ExactCharField
from django_outbox.models.lengths import (
    GROUP_LENGTH,
    HANDLER_LENGTH,
    OPERATOR_LENGTH,
    REASON_LENGTH,
    TYPE_LENGTH,
)


class Pause(models.Model):
    """Messages of some event types, or of a handler, that a consumer group does not handle until it is resumed.

    Only ``django_outbox.state.pauses`` writes rows. Consumers read them every two seconds.
    """

    id = models.BigAutoField(primary_key=True)
    group = ExactCharField(_("consumer group"), max_length=GROUP_LENGTH)
    # Exactly one of the two is set.
    event_type = ExactCharField(_("event type"), max_length=TYPE_LENGTH, blank=True, default="")
    """A pattern, such as ``order.*``."""
    handler = ExactCharField(_("handler"), max_length=HANDLER_LENGTH, blank=True, default="")
    """The name of a handler. All messages that it handles wait, with their other handlers."""
    reason = models.CharField(_("reason"), max_length=REASON_LENGTH)
    created_by = models.CharField(_("paused by"), max_length=OPERATOR_LENGTH)
    created_at = models.DateTimeField(_("paused at"), db_default=DatabaseNow())
    until = models.DateTimeField(_("until"), null=True)
    """Of the circuit breaker: from then on one message at a time is tried, until one succeeds."""

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("change_pause", _("Can pause and resume event types and handlers"))
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # MySQL and MariaDB allow 3072 bytes, 4 per character.
            models.UniqueConstraint(name="django_outbox_pause_subject", fields=["group", "event_type", "handler"]),
            models.CheckConstraint(
                name="django_outbox_pause_of_one",
                condition=(Q(event_type="") & ~Q(handler="")) | (~Q(event_type="") & Q(handler="")),
            ),
        ]

    def __str__(self) -> str:
        return str(self.event_type or self.handler)
